"""What conv5 sees and what an SVM weighs: strongest cells of the filters, shares of the bins in a score.

Where a cell lies in the image follows from the geometry of the network and from the enlargement of the image.
The receptive field of a cell is all that the cell sees; its tile is the part of the image that the cell
stands for. The tiles of a map lie side by side, receptive fields overlap widely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Doubles, Floats, Ints, clip
from spp_det.errors import UserError
from spp_det.model.detector import Detector
from spp_det.model.features import ConvMap, SPPFeatures
from spp_det.model.geometry import Geometry
from spp_det.model.svm import LinearSVMs


@dataclass(frozen=True)
class CellGrid:
    """Where the cells of one map lie in the image, in pixels.

    Attributes:
        centre: ``(x, y)`` of the middle of cell (0, 0).
        stride: ``(x, y)`` from one cell to the next.
        field: width and height of a receptive field.
    """

    centre: tuple[float, float]
    stride: tuple[float, float]
    field: tuple[float, float]

    @classmethod
    def of(cls, geometry: Geometry, enlargement: tuple[float, float]) -> CellGrid:
        """The grid of a network's map of an image that was enlarged by two factors (`ConvMap.enlargement`).

        >>> CellGrid.of(Geometry(stride=16, offset=0, receptive_field=139, smallest_input=1), (2.0, 2.0))
        CellGrid(centre=(0.25, 0.25), stride=(8.0, 8.0), field=(69.5, 69.5))
        """
        x, y = enlargement
        middle = geometry.offset + 0.5  # the pixel at index i covers [i, i + 1)
        return cls(
            (middle / x, middle / y),
            (geometry.stride / x, geometry.stride / y),
            (geometry.receptive_field / x, geometry.receptive_field / y),
        )

    def fields(self, cells: Ints) -> Boxes:
        """Receptive fields of cells ``(x, y)``: ``[N, 2] -> [N, 4]``, also where they leave the image."""
        middle = np.array(self.centre) + cells * np.array(self.stride)
        half = np.array(self.field) / 2
        return np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)

    def tiles(self, rectangles: Doubles | Ints) -> Boxes:
        """The tiles of half-open rectangles of cells, in pixels: ``[N, 4] -> [N, 4]``.

        Fractions of a cell are fractions of its tile.
        """
        start = np.array(self.centre) - np.array(self.stride) / 2
        tiles: Boxes = (np.tile(start, 2) + rectangles * np.tile(self.stride, 2)).astype(np.float32)
        return tiles


@dataclass(frozen=True, eq=False)
class Peaks:
    """The strongest cell of each filter in one image, among all scales.

    Attributes:
        values: float32 ``[C]``, the activations.
        scales: int64 ``[C]``, the map that each cell lies in.
        fields: float32 ``[C, 4]``, the cells' receptive fields in pixels of the image, clipped to it.
    """

    values: Floats
    scales: Ints
    fields: Boxes


def find_peaks(maps: Sequence[ConvMap], geometry: Geometry, width: int, height: int) -> Peaks:
    """The strongest cell of every filter in the maps of one image of that size in pixels.

    Of equally strong cells the first scale's counts, then the first row's, then the leftmost.
    """
    values, fields = [], []
    for conv_map in maps:
        columns = conv_map.cells.shape[2]
        highest, cell = conv_map.cells.float().flatten(1).cpu().max(dim=1)
        cells = np.stack([cell.numpy() % columns, cell.numpy() // columns], axis=1)
        values.append(highest.numpy())
        fields.append(CellGrid.of(geometry, conv_map.enlargement).fields(cells))
    of_scale = np.stack(values)  # [S, C]
    scales: Ints = of_scale.argmax(axis=0)
    every = np.arange(len(scales))
    return Peaks(of_scale[scales, every], scales, clip(np.stack(fields)[scales, every], width, height))


def energy(cells: Tensor) -> Floats:
    """``[C, h, w] -> float32 [h, w]``: the length of each cell's vector."""
    lengths: Floats = torch.linalg.vector_norm(cells.float(), dim=0).cpu().numpy()
    return lengths


def bin_cells(rectangle: Ints, levels: Sequence[int]) -> Ints:
    """The cells of every bin of a pyramid over a rectangle ``[4]`` of cells: int64 ``[bins, 4]``, half-open.

    The order is that of a vector's bins. Neighbouring bins share a row or column of cells where the side is
    not a multiple of the level.

    >>> bin_cells(np.array([0, 0, 3, 2]), levels=(1, 2)).tolist()
    [[0, 0, 3, 2], [0, 0, 2, 1], [1, 0, 3, 1], [0, 1, 2, 2], [1, 1, 3, 2]]
    """
    x1, y1, x2, y2 = rectangle.tolist()

    def bounds(i: int, n: int, first: int, length: int) -> tuple[int, int]:
        return first + i * length // n, first + -(-(i + 1) * length // n)

    bins = []
    for n in levels:
        for row in range(n):
            top, bottom = bounds(row, n, y1, y2 - y1)
            for column in range(n):
                left, right = bounds(column, n, x1, x2 - x1)
                bins.append((left, top, right, bottom))
    return np.array(bins, np.int64)


def bin_contributions(svms: LinearSVMs, label: int, vector: Tensor, bins: int) -> Doubles:
    """What each bin of a vector ``[D]`` adds to the score of a class: float64 ``[bins]``.

    It is the sum, over the channels of a bin, of weight times feature. The sum over all bins and the bias are
    the score. Raises ValueError where the vector has not the length of the SVMs' weights.
    """
    weight = svms.weight[label].cpu().double()
    if vector.shape != weight.shape or len(weight) % bins:
        raise ValueError(f"SVMs on {len(weight)} features do not score {list(vector.shape)} in {bins} bins")
    shares: Doubles = (weight * vector.cpu().double()).view(bins, -1).sum(dim=1).numpy()
    return shares


@dataclass(frozen=True, eq=False)
class InspectedWindow:
    """A window of an image, the cells that are pooled, and the score that a class's SVM makes of them.

    Attributes:
        window: float32 ``[4]`` in pixels of the image.
        scale: the map that the window is pooled from.
        rectangle: int64 ``[4]``, the window's half-open rectangle of cells there.
        scores: float32 ``[K]``, of all classes.
        label: the class whose score is explained.
        contributions: float64 ``[bins]`` to this score, see `bin_contributions`; None where the scorer does
            not read pool5 itself.
        bias: the bias in this score; 0 without contributions.
    """

    window: Boxes
    scale: int
    rectangle: Ints
    scores: Floats
    label: int
    contributions: Doubles | None
    bias: float


def spp_features(detector: Detector) -> SPPFeatures:
    """The detector's features. Raises UserError for R-CNN's features: their windows share no map."""
    if not isinstance(detector.features, SPPFeatures):
        raise UserError(
            "the model describes windows by R-CNN's features: each passes the network by itself, so there is "
            "no map of the image to look at; inspect a model trained with features=spp"
        )
    return detector.features


def best_window(
    detector: Detector, maps: Sequence[ConvMap], windows: Boxes, label: int | None = None
) -> tuple[Boxes, int]:
    """The window ``[4]``, of ``[N, 4]``, that scores highest, and its class; ``label`` asks for one class.

    It is the window of the top detection, before regression moves it. N is at least 1.
    """
    _, scores = detector.score(maps, windows)
    if label is not None:
        return windows[scores[:, label].argmax()], label
    best, best_label = divmod(int(scores.argmax()), scores.shape[1])
    return windows[best], best_label


def inspect_window(
    detector: Detector, maps: Sequence[ConvMap], window: Boxes, label: int | None = None
) -> InspectedWindow:
    """Explain the score of a window ``[4]`` on the maps, one a scale, of its image.

    ``label`` says for which class; None: the class that scores highest. Raises UserError for a detector with
    R-CNN's features.
    """
    features = spp_features(detector)
    on_maps = features.project(maps, window[None])
    vectors, scores = detector.score(maps, window[None])
    label = int(scores[0].argmax()) if label is None else label
    contributions, bias = None, 0.0
    if isinstance(detector.scorer, LinearSVMs) and detector.head is None:
        vector = vectors.of_windows(np.zeros(1, np.int64))[0]
        bins = features.dimension // features.backbone.channels
        contributions = bin_contributions(detector.scorer, label, vector, bins)
        bias = float(detector.scorer.bias[label])
    scale, rectangle = int(on_maps.map_of[0]), on_maps.rectangles[0]
    return InspectedWindow(window, scale, rectangle, scores[0], label, contributions, bias)
