"""SVMs that learn on when photos come, change or go.

In the paper's pass over the images (section 4.1) each image is met once, by the SVMs of the moment. A photo
that is annotated later is the next image of that pass: its positives join the examples, its windows are mined
by the SVMs as they are, and the SVMs are fitted again from their last dual variables. With each new photo, a
few that were mined long ago are mined again: the SVMs have changed since.

While photos are few, all of them are mined anew each time, by SVMs that know nothing at first, as
`stages.train` does: mined one by one, detectors of 24 photos had a point of mAP less (docs/figures.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints
from spp_det.config.settings import SVM
from spp_det.model.svm import Hinge, LinearSVMs
from spp_det.training.live_photos import Changes, LivePhotos
from spp_det.training.mining import Example, hard_negatives, positives_do_not_fit
from spp_det.training.pool import ExamplePool, capacity_of, memory_for
from spp_det.training.windows import signs_of

Row = tuple[str, bool, bytes]  # an image's id, whether mirrored, and the first window `[4]` with the vector
Signs = npt.NDArray[np.int8]
FEW = 24  # with up to so many photos, all are mined anew each time
AGAIN = 8  # photos that are mined again each time, the longest-ago mined first
TOLERANCE = 1e-3  # of a fit, where the settings ask for less: the next photo moves the SVMs by more


class LivePool(ExamplePool):
    """Examples that know their windows, so that those of a photo can be found.

    Attributes:
        rows: the window of each example.
        place: of each window, its example.
    """

    def __init__(self, dimension: int, classes: int, capacity: int) -> None:
        super().__init__(dimension, classes, capacity)
        self.rows: list[Row] = []
        self.place: dict[Row, int] = {}

    def put(self, rows: Sequence[Row], vectors: Tensor, signs: Signs) -> None:
        """Add ``[n, D]`` vectors with ``[n, K]`` signs. Where a window is an example already, only its signs
        for classes for which it was none are taken."""
        unknown = self.unknown(rows)
        for index in np.flatnonzero(~unknown).tolist():
            old = self.signs[self.place[rows[index]]]
            old[old == 0] = signs[index][old == 0]
        new = np.flatnonzero(unknown)[: self.capacity - self.size]
        taken = [rows[index] for index in new.tolist()]
        self.rows += taken
        self.place |= {row: self.size + place for place, row in enumerate(taken)}
        self.add(vectors[torch.from_numpy(new)], signs[new])

    def unknown(self, rows: Sequence[Row]) -> npt.NDArray[np.bool_]:
        """Which windows ``[n]`` are no examples yet."""
        return np.array([row not in self.place for row in rows], np.bool_)

    def negatives(self) -> Ints:
        """The number ``[K]`` of negatives of each class."""
        return np.asarray((self.signs < 0).sum(axis=0), np.int64)

    def forget(self, images: Iterable[str]) -> dict[Row, npt.NDArray[np.float64]]:
        """Remove the examples of photos. Returns the dual variables ``[K]`` of each, signed."""
        away = set(images)
        mine = np.array([row[0] in away for row in self.rows], np.bool_)
        signed = self.alpha * np.sign(self.signs)
        left = {self.rows[index]: signed[index] for index in np.flatnonzero(mine)}
        self._keep(np.flatnonzero(~mine))
        return left

    def recall(self, duals: dict[Row, npt.NDArray[np.float64]]) -> None:
        """Start from these dual variables where a window is again an example with the same signs."""
        for row, signed in duals.items():
            index = self.place.get(row)
            if index is not None:
                same = np.sign(signed) == np.sign(self.signs[index])
                self.alpha[index, same] = np.abs(signed[same])

    def relabel(self, columns: Sequence[int]) -> None:
        """Let the columns be the classes that were ``columns [K]`` before. Of a new class, -1, every window
        is a negative: no photo that is still here has an object of it."""
        signs = np.full((self.size, len(columns)), -1, np.int8)
        alpha = np.zeros((self.size, len(columns)))
        for column, before in enumerate(columns):
            if before >= 0:
                signs[:, column], alpha[:, column] = self.signs[:, before], self.alpha[:, before]
        self.signs, self.alpha = signs, alpha
        self._keep(np.flatnonzero((signs != 0).any(axis=1)))

    def _keep(self, used: Ints) -> None:
        """Without moving more than needed: the last examples fill the gaps."""
        order = np.arange(len(used))
        gaps = np.setdiff1d(order, used, assume_unique=True)
        order[gaps] = used[used >= len(used)]
        for gap in gaps:
            self._vectors[gap] = self._vectors[order[gap]]
        self.signs, self.alpha, self.size = self.signs[order], self.alpha[order], len(used)
        self.folds, self.origins = self.folds[order], self.origins[order]
        self.rows = [self.rows[index] for index in order]
        self.place = {row: index for index, row in enumerate(self.rows)}


class LiveSVMs:
    """One SVM a class, for the photos of the moment.

    Attributes:
        svms: the last fit.
        fitted: whether the SVMs have learnt from any example that is still there.
        mined: image ids, the longest-ago mined first.
    """

    def __init__(self, dimension: int, settings: SVM) -> None:
        self.settings = settings
        self.pool = LivePool(dimension, 0, 0)
        self.svms = LinearSVMs(torch.zeros(0, dimension), torch.zeros(0))
        self.fitted = False
        self.mined: list[str] = []

    def learn(self, live: LivePhotos, changes: Changes, mean_norm: float) -> LinearSVMs:
        """Fit the SVMs to the photos as they are after some changes.

        ``mean_norm`` is the mean Euclidean norm of the vectors; see `train_svms`. Raises UserError where the
        positives alone exceed ``svm.memory_mb``.
        """
        settings = self._with_memory(live)
        objective = Hinge(settings.C, settings.bias, settings.positive_weight, settings.norm / mean_norm)
        duals = self._forget(live, changes)
        mined = set(self.mined)
        new = [image for image in live.photos if image not in mined]
        new.sort(key=lambda image: live.photos[image].content)  # neighbours in a list look alike
        again, self.mined = self.mined[:AGAIN], self.mined[AGAIN:]
        views = (False, True) if settings.flips else (False,)
        for mirrored, image in product(views, new):
            self._add_positives(live, image, mirrored, settings)
        counts = np.zeros(len(live.classes), np.int64)  # of new negatives since the last fit
        for mirrored, image in product(views, [*new, *again]):
            counts += self._mine(live, image, mirrored)
            full = self.pool.size == self.pool.capacity
            if counts.max() >= settings.retrain_after or (full and counts.any()):
                self._fit(objective, max(settings.tolerance, 1e-2))
                counts[:] = 0
        self.mined += [*again, *new]
        self.pool.recall(duals)
        self._fit(objective, max(settings.tolerance, TOLERANCE))
        return self.svms

    def _with_memory(self, live: LivePhotos) -> SVM:
        """The settings with the memory in numbers, after making the examples' memory as large."""
        dimension = self.pool.vectors.shape[1]
        records = [photo.windows.record for photo in live.photos.values()]
        settings = memory_for(self.settings, records, dimension)
        needed, now = capacity_of(settings, dimension), self.pool.capacity
        if needed > now:  # more than a photo's share at a time, since all examples are copied
            self.pool.grow(needed if settings is self.settings else max(needed, now * 5 // 4))
        return settings

    def _forget(self, live: LivePhotos, changes: Changes) -> dict[Row, npt.NDArray[np.float64]]:
        """Forget photos that are gone or have changed, and all of them while they are few; let the columns be
        the classes of the moment. Returns the dual variables of the forgotten examples."""
        few = len(live.photos) <= FEW
        gone = {row[0] for row in self.pool.rows} if few else set(changes.gone)
        duals = self.pool.forget(gone)
        self.pool.relabel(changes.columns)
        self.svms = _at_svms(self.svms, [-1] * len(live.classes) if few else changes.columns)
        self.fitted = self.fitted and not few
        self.mined = [] if few else [image for image in self.mined if image not in gone]
        return {row: _at(signed, changes.columns) for row, signed in duals.items()}

    def _fit(self, objective: Hinge, tolerance: float) -> None:
        self.svms = self.pool.fit(objective, tolerance).svms
        self.fitted = True
        self.pool.evict(self.svms, self.settings.evict_score)

    def _add_positives(self, live: LivePhotos, image: str, mirrored: bool, settings: SVM) -> None:
        photo = live.photos[image]
        windows, labels = photo.windows.positives(self.settings.positive_iou)
        vectors = photo.vectors(mirrored)
        numbers, signs = signs_of(vectors.of, windows, labels, len(live.classes))
        if self.pool.size + len(numbers) > self.pool.capacity:
            self.pool.make_room(self.svms, len(numbers))
        if self.pool.size + len(numbers) > self.pool.capacity:
            raise positives_do_not_fit(settings, self.pool.size + len(numbers), self.pool.vectors.shape[1])
        made = vectors.through(live.head).of_rows(numbers).half().cpu()
        self.pool.put(_rows(image, mirrored, photo.windows.boxes, vectors.of, numbers), made, signs)

    def _mine(self, live: LivePhotos, image: str, mirrored: bool) -> Ints:
        """Add the hard negatives of a photo. Returns the number ``[K]`` of new ones of each class."""
        photo = live.photos[image]
        vectors = photo.vectors(mirrored).through(live.head)
        numbers, signs = hard_negatives(self.svms, Example(photo.windows, vectors), self.settings)
        rows = _rows(image, mirrored, photo.windows.boxes, vectors.of, numbers)
        new = self.pool.unknown(rows)
        if self.pool.size + new.sum() > self.pool.capacity and self.fitted:
            self.pool.make_room(self.svms, max(int(new.sum()), self.pool.capacity // 10))
            new = self.pool.unknown(rows)  # some that were known may have gone
        before = self.pool.negatives()
        made = torch.zeros(len(rows), self.pool.vectors.shape[1], dtype=torch.float16)
        made[torch.from_numpy(np.flatnonzero(new))] = vectors.of_rows(numbers[new]).half().cpu()
        self.pool.put(rows, made, signs)
        return self.pool.negatives() - before


def _rows(image: str, mirrored: bool, boxes: Boxes, vector_of: Ints, numbers: Ints) -> list[Row]:
    """The name of each vector ``[n]`` of a photo: the first window with it."""
    distinct, first = np.unique(vector_of, return_index=True)
    windows = first[np.searchsorted(distinct, numbers)]
    return [(image, mirrored, boxes[window].tobytes()) for window in windows]


def _at(signed: npt.NDArray[np.float64], columns: Sequence[int]) -> npt.NDArray[np.float64]:
    return np.array([signed[before] if before >= 0 else 0.0 for before in columns])


def _at_svms(svms: LinearSVMs, columns: Sequence[int]) -> LinearSVMs:
    """The SVMs of the classes ``columns``, with an SVM that knows nothing for a new class."""
    weight = torch.zeros(len(columns), svms.weight.shape[1])
    bias = torch.zeros(len(columns))
    for column, before in enumerate(columns):
        if before >= 0:
            weight[column], bias[column] = svms.weight[before], svms.bias[before]
    return LinearSVMs(weight, bias)
