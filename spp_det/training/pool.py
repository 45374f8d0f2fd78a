"""The examples that the SVMs learn from: positives and hard negatives, in a limited memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Floats, Ints
from spp_det.config.settings import SVM
from spp_det.data.records import Record
from spp_det.errors import UserError
from spp_det.model.svm import Fit, Hinge, LinearSVMs, fit_svms
from spp_det.runtime.cache import Arrays
from spp_det.runtime.sharing import dealt, shared_map
from spp_det.runtime.threads import on_all_cores

logger = logging.getLogger(__name__)

SCORED = 256  # examples that a core scores at a time, their vectors converted to float32
# What `memory_for` counts on. SqueezeNet's pool5 had at the end: negatives a photo VOC 2007 20, zoo6 21, BCCD
# 27; positives an object, where windows from IoU .7 on count too, VOC 2007 4, zoo6 6, BCCD 2.
NEGATIVES = 20
POSITIVES, CLOSE = 8, 0.7  # from this overlap on...
MORE_POSITIVES = 32  # ...and below it
LEAST_MB = 896  # R's


def memory_for(settings: SVM, records: Sequence[Record], dimension: int) -> SVM:
    """The settings with a number of MiB in place of ``memory_mb: auto``: an estimate from the photos and
    their objects, and the length D of a vector; never from what memory a machine has.

    VOC 2007 by SqueezeNet's pool5 has 5509 where objects alone are positives.
    """
    if settings.memory_mb != "auto":
        return settings
    objects = sum(int((~(record.difficult | record.crowd)).sum()) for record in records)
    each = POSITIVES if settings.positive_iou >= CLOSE else MORE_POSITIVES
    examples = NEGATIVES * len(records) + (1 if settings.positive_iou == 1 else each) * objects
    examples *= 1 + settings.flips
    needed = examples * bytes_of(dimension) // 2**20
    return settings.model_copy(update={"memory_mb": max(LEAST_MB, needed)})


def capacity_of(settings: SVM, dimension: int) -> int:
    """How many examples the memory of the settings holds, where it is a number."""
    assert settings.memory_mb != "auto"
    return settings.memory_mb * 2**20 // bytes_of(dimension)


def bytes_of(dimension: int) -> int:
    """The bytes of an example's vector."""
    return 2 * dimension


class ExamplePool:
    """Examples of all classes: vectors in half precision in one array, and the sign of each for each class.

    Each example knows the fold of its image, so that SVMs can be fitted without a fold, and where its vector
    came from, so that the vector can be made again.

    The array is allocated whole, but memory that was never written to costs nothing.

    Half precision loses nothing of max-pooled vectors, because conv5 maps are stored in it and a maximum adds
    no digits. Of hellinger vectors, 11 bits of each number remain.
    """

    def __init__(self, dimension: int, classes: int, capacity: int) -> None:
        """Raises UserError where the system refuses so much memory at once."""
        self.size = 0
        self.capacity = capacity
        self.signs = np.zeros((0, classes), np.int8)
        self.alpha = np.zeros((0, classes))
        self.folds = np.zeros(0, np.int64)
        self.origins = np.zeros((0, 2), np.int64)
        self._vectors = _allocated(capacity, dimension)

    @property
    def vectors(self) -> Tensor:
        """float16 ``[size, D]``."""
        return self._vectors[: self.size]

    def add(
        self, vectors: Tensor, signs: npt.NDArray[np.int8], fold: int | Ints = 0, image: int = -1
    ) -> None:
        """Append ``[n, D]`` vectors, their ``[n, K]`` signs, and the fold of all or of each ``[n]``.

        Their origins are ``image`` and their places in ``vectors``. Raises ValueError where they do not fit.
        """
        total = self.size + len(vectors)
        if total > self.capacity:
            raise ValueError(f"{total} examples do not fit in the room for {self.capacity}")
        self._vectors[self.size : total] = vectors
        self.size = total
        self.signs = np.concatenate([self.signs, signs])
        self.alpha = np.concatenate([self.alpha, np.zeros(signs.shape)])
        self.folds = np.concatenate([self.folds, np.broadcast_to(fold, len(signs)).astype(np.int64)])
        places = np.stack([np.full(len(signs), image), np.arange(len(signs))], axis=1)
        self.origins = np.concatenate([self.origins, places])

    def restore(
        self, signs: npt.NDArray[np.int8], alpha: npt.NDArray[np.float64], folds: Ints, origins: Ints
    ) -> None:
        """Have these examples, whose vectors are to be written to `vectors` afterwards. Raises ValueError
        where they do not fit."""
        if len(signs) > self.capacity:
            raise ValueError(f"{len(signs)} examples do not fit in the room for {self.capacity}")
        self.size = len(signs)
        self.signs, self.alpha, self.folds, self.origins = signs.copy(), alpha, folds, origins

    def grow(self, capacity: int) -> None:
        """Have room for so many examples: all are copied. Raises UserError as the constructor does."""
        if capacity > self.capacity:
            larger = _allocated(capacity, self._vectors.shape[1])
            larger[: self.size] = self.vectors
            self._vectors, self.capacity = larger, capacity

    def fit(self, objective: Hinge, tolerance: float) -> Fit:
        """Train on all examples, starting from the last fit; the processes share the classes out."""
        fit = self._fit(objective, tolerance, self.signs)
        self.alpha = fit.alpha
        return fit

    def fit_without(
        self, fold: int, objective: Hinge, tolerance: float, signs: npt.NDArray[np.int8] | None = None
    ) -> Fit:
        """The same without the examples of a fold; the next fit starts from `fit`'s solution nevertheless.

        ``signs [size, K]`` take the place of the pool's own.
        """
        signs = self.signs if signs is None else signs
        return self._fit(objective, tolerance, np.where(self.folds[:, None] == fold, 0, signs))

    def _fit(self, objective: Hinge, tolerance: float, every: npt.NDArray[np.int8]) -> Fit:
        def fitted(labels: Sequence[int]) -> Arrays:
            signs = every[:, labels]
            alpha = np.where(signs != 0, self.alpha[:, labels], 0)
            fit = fit_svms(self.vectors, signs, objective, tolerance, alpha)
            weights = {"weight": fit.svms.weight.numpy(), "bias": fit.svms.bias.numpy()}
            return weights | {"alpha": fit.alpha.T, "gap": fit.gap, "primal": fit.primal}

        parts = dealt(range(self.signs.shape[1]))
        found = list(shared_map(fitted, parts))
        back = np.argsort(np.concatenate(parts))  # from the order of the parts to that of the labels
        whole = {name: np.concatenate([part[name] for part in found])[back] for name in found[0]}
        for label in np.flatnonzero(whole["gap"] > tolerance):
            logger.warning("SVM %d: the relative duality gap is still %.1e", label, whole["gap"][label])
        svms = LinearSVMs(torch.from_numpy(whole["weight"]), torch.from_numpy(whole["bias"]))
        return Fit(svms, np.ascontiguousarray(whole["alpha"].T), whole["gap"], whole["primal"])

    def evict(self, svms: LinearSVMs, below: float) -> None:
        """Forget negatives below a score that are no support vectors, and rows that no class then needs."""
        scores = self._scores(svms)
        self.signs[(self.signs < 0) & (scores < below) & (self.alpha == 0)] = 0
        self._keep(np.flatnonzero((self.signs != 0).any(axis=1)))

    def make_room(self, svms: LinearSVMs, count: int) -> None:
        """Forget the easiest rows, positives excepted, until ``count`` more rows fit or none is left."""
        positive = (self.signs > 0).any(axis=1)
        excess = min(self.size + count - self.capacity, int((~positive).sum()))
        if excess > 0:
            hardest = np.where(self.signs < 0, self._scores(svms), -np.inf).max(axis=1)
            hardest[positive] = np.inf
            self._keep(np.sort(np.argsort(hardest, kind="stable")[excess:]))

    def _scores(self, svms: LinearSVMs) -> Floats:
        """``[size, K]``, the same bits in every process: all must forget the same examples."""
        kept = threading.local()

        def scored(start: int) -> Arrays:
            part = self.vectors[start : start + SCORED]
            if not hasattr(kept, "floats"):  # glibc would leave a hole behind each
                kept.floats = torch.empty(SCORED, part.shape[1])
            return {"scores": svms(kept.floats[: len(part)].copy_(part)).numpy()}

        parts = shared_map(scored, range(0, self.size, SCORED), run=on_all_cores)
        none = np.zeros((0, self.signs.shape[1]), np.float32)
        return np.concatenate([none, *(part["scores"] for part in parts)])

    def _keep(self, used: Ints) -> None:
        for row, source in enumerate(used):  # in place: the vectors are most of the memory
            self._vectors[row] = self._vectors[source]
        self.signs, self.alpha = self.signs[used], self.alpha[used]
        self.folds, self.origins = self.folds[used], self.origins[used]
        self.size = len(used)


def _allocated(capacity: int, dimension: int) -> Tensor:
    """float16 ``[capacity, D]``, of which the system gives no page before it is written to."""
    try:
        return torch.from_numpy(np.empty((capacity, dimension), np.float16))
    except MemoryError:
        needed = capacity * bytes_of(dimension) // 2**20
        raise UserError(
            f"svm.memory_mb = {needed}: the system does not give so much memory; with a smaller number the "
            "easiest negatives are left out"
        ) from None
