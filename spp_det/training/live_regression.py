"""Box regressors that learn on: the products of vectors are kept, only those of new vectors are computed.

A class's ridge regression (`spp_det.model.bbox`) needs the products of all pairs of its examples' vectors,
and those take most of its time. A vector is known by the rectangle of cells that it is pooled from, so most
vectors of the second pass, whose boxes the first pass has moved, are old acquaintances too. The solution is
that of `train_regressors`, to rounding. The regressors of classes none of whose photos have changed stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, encode_deltas
from spp_det.config.settings import BoxRegression
from spp_det.model.bbox import BoxRegressor, Ridge, solve_dual
from spp_det.runtime.threads import on_all_cores
from spp_det.training.live_photos import Changes, LivePhotos, Photo
from spp_det.training.regression import Examples, moved_examples

Cell = tuple[str, int, int, int, int, int]  # a photo's content, the number of a map, a rectangle of its cells
MOST_BYTES = 2**30  # of the vectors and products of all classes; those used longest ago are forgotten
_BLOCK = 512  # vectors that become float32 at a time


class Products:
    """Vectors, and the products of all pairs of them.

    Attributes:
        place: of each cell, its row.
        vectors: float16 ``[n, D]``.
        gram: float64 ``[n, n]``.
    """

    def __init__(self, dimension: int) -> None:
        self.place: dict[Cell, int] = {}
        self.vectors = torch.zeros(0, dimension, dtype=torch.float16)
        self.gram = torch.zeros(0, 0, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def bytes(self) -> int:
        """The memory that they take."""
        return 2 * self.vectors.numel() + 8 * self.gram.numel()

    def add(self, cells: Sequence[Cell], vectors: Tensor) -> None:
        """Take in new cells with their vectors ``[n, D]``."""
        before, after = len(self), len(self) + len(cells)
        self.place |= {cell: before + index for index, cell in enumerate(cells)}
        self.vectors = torch.cat([self.vectors, vectors])
        gram = torch.empty(after, after, dtype=torch.float64)
        gram[:before, :before] = self.gram
        for start in range(before, after, _BLOCK):
            rows = slice(start, min(start + _BLOCK, after))
            left = self.vectors[rows].float()

            def fill(first: int, rows: slice = rows, left: Tensor = left) -> None:
                columns = slice(first, min(first + _BLOCK, rows.stop))
                product = left @ self.vectors[columns].float().T
                gram[rows, columns], gram[columns, rows] = product, product.T

            on_all_cores(fill, range(0, rows.stop, _BLOCK))
        self.gram = gram

    def keep(self, cells: Sequence[Cell]) -> None:
        """Forget all others, where they are more than a third."""
        if 3 * len(cells) < 2 * len(self):
            rows = torch.tensor([self.place[cell] for cell in cells], dtype=torch.int64)
            self.vectors, self.gram = self.vectors[rows], self.gram[rows][:, rows]
            self.place = {cell: index for index, cell in enumerate(cells)}

    def ridge(
        self, cells: Sequence[Cell], row_of: Ints, targets: Floats, ridge: float, groups: Ints | None
    ) -> Ridge:
        """`fit_ridge` of examples with the vectors of ``cells [m]``: example i has that of ``row_of[i]``.

        ``targets [n, 4]``; ``groups [m]``, see `fit_ridge`.
        """
        rows = torch.tensor([self.place[cell] for cell in cells], dtype=torch.int64)
        of = torch.from_numpy(row_of)
        number = torch.bincount(of, minlength=len(rows)).double()
        root, share = number.sqrt(), number / len(row_of)
        gram = self.gram[rows][:, rows]
        mean_products = gram @ share  # of each vector with the mean vector
        gram -= mean_products[:, None]
        gram -= mean_products[None, :]
        gram += share @ mean_products
        gram *= root[:, None]
        gram *= root[None, :]
        y = torch.from_numpy(targets).double()
        duals, target_mean, left_out = solve_dual(gram, y, of, ridge, groups)
        weighted = duals[0] * root[:, None]
        factors = (weighted - share[:, None] * weighted.sum(0)).float()  # of the vectors as they are
        weight = self._combined(rows, torch.cat([factors, share[:, None].float()], dim=1))  # [5, D]
        bias = target_mean.float() - weight[:4] @ weight[4]
        return Ridge(
            weight[:4], bias, left_out, weight.new_zeros(0, 4, weight.shape[1]), bias.new_zeros(0, 4)
        )

    def _combined(self, rows: Tensor, factors: Tensor) -> Tensor:
        """``[m], [m, k] -> [k, D]``: sums of the vectors, each times its factors."""

        def part(start: int) -> Tensor:
            block = slice(start, start + _BLOCK)
            return factors[block].T @ self.vectors[rows[block]].float()

        parts = on_all_cores(part, range(0, len(rows), _BLOCK))
        return sum(parts[1:], parts[0].clone())


class LiveRegressors:
    """The box regressors of the photos of the moment.

    Attributes:
        weight: float32 ``[passes, K, 4, D]``.
        bias: float32 ``[passes, K, 4]``.
    """

    def __init__(self, dimension: int, settings: BoxRegression) -> None:
        self.settings = settings
        self.dimension = dimension
        self.weight = torch.zeros(settings.passes, 0, 4, dimension)
        self.bias = torch.zeros(settings.passes, 0, 4)
        self.ridge = 0.0
        self._products: dict[tuple[str, int], Products] = {}  # by class and pass, used longest ago first
        self._seen: dict[str, set[str]] = {}  # of each photo, the classes of its examples

    def learn(self, live: LivePhotos, changes: Changes, mean_norm: float) -> tuple[BoxRegressor, ...]:
        """Fit the regressors of all classes whose examples have changed; ``mean_norm`` is that of pool5."""
        settings = self.settings
        self._move_columns(changes.columns)
        ridge = settings.ridge * (mean_norm / settings.norm) ** 2
        stale = set(live.classes) if ridge != self.ridge else set()
        self.ridge = ridge
        for image in changes.gone:
            stale |= self._seen.pop(image, set())
        for image in changes.changed:
            record = live.photos[image].windows.record
            self._seen[image] = {live.classes[label] for label in np.unique(record.labels)}
            stale |= self._seen[image]
        for label, name in enumerate(live.classes):
            if name in stale or (changes.columns[label] < 0):
                self._fit(live, label)
        return self.regressors()

    def regressors(self) -> tuple[BoxRegressor, ...]:
        """One for each pass."""
        pairs = zip(self.weight, self.bias, strict=True)
        return tuple(BoxRegressor(weight.clone(), bias.clone()) for weight, bias in pairs)

    def _move_columns(self, columns: Sequence[int]) -> None:
        weight = torch.zeros(self.settings.passes, len(columns), 4, self.dimension)
        bias = torch.zeros(self.settings.passes, len(columns), 4)
        for column, before in enumerate(columns):
            if before >= 0:
                weight[:, column], bias[:, column] = self.weight[:, before], self.bias[:, before]
        self.weight, self.bias = weight, bias

    def _fit(self, live: LivePhotos, label: int) -> None:
        settings, name = self.settings, live.classes[label]
        photos = list(live.photos.values())
        examples = _drawn(photos, label, settings)
        self.weight[:, label] = self.bias[:, label] = 0
        for number in range(settings.passes):
            if not examples:
                return
            products = self._products.pop((name, number), None) or Products(self.dimension)
            self._products[name, number] = products
            cells: dict[Cell, int] = {}
            row_of = np.concatenate([_rows(cells, photos[each.image], each.boxes) for each in examples])
            _fill(products, {photos[each.image].content: photos[each.image] for each in examples}, cells)
            last = number == settings.passes - 1
            groups = None if last else np.unique([cell[0] for cell in cells], return_inverse=True)[1]
            targets = np.concatenate([encode_deltas(e.boxes, e.objects) for e in examples])
            fitted = products.ridge(list(cells), row_of, targets, self.ridge, groups)
            self.weight[number, label], self.bias[number, label] = fitted.weight, fitted.bias
            products.keep(list(cells))
            if fitted.left_out is not None:
                examples = moved_examples(examples, fitted.left_out, settings.min_iou)
        while sum(each.bytes for each in self._products.values()) > MOST_BYTES and len(self._products) > 1:
            del self._products[next(iter(self._products))]


def _drawn(photos: Sequence[Photo], label: int, settings: BoxRegression) -> list[Examples]:
    """At most ``max_windows`` windows near objects of a class. Where there are more, each window has a random
    place in the queue that does not depend on the other photos: a new photo displaces few of them."""
    found, queue = [], []
    for number, photo in enumerate(photos):
        index, objects = photo.windows.near(settings.min_iou)
        mine = photo.windows.record.labels[objects] == label
        if mine.any():
            boxes = photo.windows.boxes  # objects come first among them
            found.append(Examples(number, boxes[index[mine]], boxes[objects[mine]]))
            generator = np.random.default_rng(int(photo.content[:8], 16))
            queue.append(generator.random(int(mine.sum())))
    if sum(map(len, queue)) <= settings.max_windows:
        return found
    last = np.partition(np.concatenate(queue), settings.max_windows)[settings.max_windows]
    drawn = zip(found, (places < last for places in queue), strict=True)
    return [Examples(e.image, e.boxes[part], e.objects[part]) for e, part in drawn if part.any()]


def _rows(cells: dict[Cell, int], photo: Photo, boxes: Boxes) -> Ints:
    """The row of each box ``[n]`` of a photo among all cells, to which its own are added."""
    on_maps = photo.project(boxes)
    numbers = zip(on_maps.map_of.tolist(), on_maps.rectangles.tolist(), strict=True)
    own = [cells.setdefault((photo.content, map_, *rectangle), len(cells)) for map_, rectangle in numbers]
    return np.array(own, np.int64)[on_maps.of]


def _fill(products: Products, photos: Mapping[str, Photo], cells: Iterable[Cell]) -> None:
    """Pool the vectors of the cells that are lacking; ``photos`` are by their content."""
    lacking: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell not in products.place:
            lacking.setdefault(cell[0], []).append(cell)
    if not lacking:
        return
    made = [photos[content].pooled([cell[1:] for cell in own]) for content, own in lacking.items()]
    products.add([cell for own in lacking.values() for cell in own], torch.cat(made))
