"""Training the SVMs: ground truth against hard negatives, found in one pass over the images (P 4.1, R)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Floats, Ints
from spp_det.config.settings import SVM
from spp_det.errors import UserError
from spp_det.model.features import WindowVectors
from spp_det.model.svm import Fit, Hinge, LinearSVMs, fit_svms
from spp_det.runtime import distributed
from spp_det.training.windows import LabelledWindows, spread_out

logger = logging.getLogger(__name__)

VERSION = 3  # of the SVMs that given windows, vectors and settings lead to; part of their cache key


@dataclass(frozen=True, eq=False)
class Example:
    """One image of the training stream.

    Attributes:
        windows: its labelled windows, N of them.
        vectors: theirs, ``[M, D]`` when they are asked for.
    """

    windows: LabelledWindows
    vectors: WindowVectors


class ExamplePool:
    """Examples of all classes: half-precision vectors in one array, and what each is to each class.

    The array is allocated whole, but memory that nobody has written to yet costs nothing.

    Conv5 maps are stored in half precision and a maximum invents no digits, so nothing is lost here; of
    hellinger vectors 11 bits of each number remain.
    """

    def __init__(self, dimension: int, classes: int, capacity: int) -> None:
        self.size = 0
        self.capacity = capacity
        self.signs = np.zeros((0, classes), np.int8)
        self.alpha = np.zeros((0, classes))
        self._vectors = torch.from_numpy(np.empty((capacity, dimension), np.float16))

    @property
    def vectors(self) -> Tensor:
        """float16 ``[size, D]``."""
        return self._vectors[: self.size]

    def add(self, vectors: Tensor, signs: npt.NDArray[np.int8]) -> None:
        """Append ``[n, D]`` vectors and their ``[n, K]`` signs. Raises ValueError where they do not fit."""
        total = self.size + len(vectors)
        if total > self.capacity:
            raise ValueError(f"{total} examples do not fit in the room for {self.capacity}")
        self._vectors[self.size : total] = vectors
        self.size = total
        self.signs = np.concatenate([self.signs, signs])
        self.alpha = np.concatenate([self.alpha, np.zeros(signs.shape)])

    def fit(self, objective: Hinge, tolerance: float) -> Fit:
        """Train on all examples, from where the last fit ended; the processes share the classes out."""
        processes, classes = distributed.world_size(), self.signs.shape[1]
        if processes == 1:
            fit = fit_svms(self.vectors, self.signs, objective, tolerance, self.alpha)
        else:
            own = slice(distributed.rank(), None, processes)
            share = fit_svms(self.vectors, self.signs[:, own], objective, tolerance, self.alpha[:, own])
            owners = [label % processes for label in range(classes)]
            fit = _joined(list(distributed.in_order(_each_class(share), owners)))
        self.alpha = fit.alpha
        for label in np.flatnonzero(fit.gap > tolerance):
            logger.warning("SVM %d: the relative duality gap is still %.1e", label, fit.gap[label])
        return fit

    def evict(self, svms: LinearSVMs, below: float) -> None:
        """Forget negatives that score lower and carry no weight, and rows that then serve no class."""
        scores = self._scores(svms)
        self.signs[(self.signs < 0) & (scores < below) & (self.alpha == 0)] = 0
        self._keep(np.flatnonzero((self.signs != 0).any(axis=1)))

    def make_room(self, svms: LinearSVMs, count: int) -> None:
        """Forget the easiest rows that are no class's positive until ``count`` more fit, or all of them."""
        positive = (self.signs > 0).any(axis=1)
        excess = min(self.size + count - self.capacity, int((~positive).sum()))
        if excess > 0:
            hardest = np.where(self.signs < 0, self._scores(svms), -np.inf).max(axis=1)
            hardest[positive] = np.inf
            self._keep(np.sort(np.argsort(hardest, kind="stable")[excess:]))

    def _scores(self, svms: LinearSVMs) -> Floats:
        """``[size, K]``. Each process makes a share: they must agree to the bit on what to forget."""
        processes, starts = distributed.world_size(), range(0, self.size, 1024)
        own = starts[distributed.rank() :: processes]
        parts = distributed.in_order(
            ({"scores": svms(self.vectors[start : start + 1024].float()).numpy()} for start in own),
            [block % processes for block in range(len(starts))],
        )
        none = np.zeros((0, self.signs.shape[1]), np.float32)
        return np.concatenate([none, *(part["scores"] for part in parts)])

    def _keep(self, used: Ints) -> None:
        for row, source in enumerate(used):  # in place: the vectors are most of the memory
            self._vectors[row] = self._vectors[source]
        self.signs, self.alpha, self.size = self.signs[used], self.alpha[used], len(used)


@dataclass(eq=False)
class Mining:
    """How far the pass over the images is. With the images still to come it is all that the SVMs depend on.

    Attributes:
        pool: the examples.
        svms: of the last fit.
        new: int64 ``[K]`` negatives of each class since then.
        fits: how many there were.
        images: how many were looked at.
    """

    pool: ExamplePool
    svms: LinearSVMs
    new: Ints
    fits: int = 0
    images: int = 0

    @classmethod
    def begin(cls, dimension: int, classes: int, settings: SVM) -> Mining:
        """Without an example."""
        pool = ExamplePool(dimension, classes, settings.memory_mb * 2**20 // (2 * dimension))
        svms = LinearSVMs(torch.zeros(classes, dimension), torch.zeros(classes))
        return cls(pool, svms, np.zeros(classes, np.int64))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of it, not copied: to be written before the mining goes on."""
        return {
            "vectors": self.pool.vectors.numpy(),
            "signs": self.pool.signs,
            "alpha": self.pool.alpha,
            "weight": self.svms.weight.numpy(),
            "bias": self.svms.bias.numpy(),
            "new": self.new,
            "counts": np.array([self.fits, self.images]),
        }

    @classmethod
    def of(
        cls, arrays: Mapping[str, npt.NDArray[Any]], dimension: int, classes: int, settings: SVM
    ) -> Mining:
        """What `arrays` gave, under the same settings. Raises ValueError for arrays of any other form."""
        state = cls.begin(dimension, classes, settings)
        none = np.array(None)
        rows = arrays.get("signs", none).shape[:1]
        for name, form in state.arrays().items():
            array = arrays.get(name, none)
            shape = form.shape if len(form) else rows + form.shape[1:]  # examples: there are none yet
            if (array.dtype, array.shape) != (form.dtype, shape):
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {form.dtype} {shape}")
        state.pool.add(torch.from_numpy(arrays["vectors"]), arrays["signs"])
        state.pool.alpha = arrays["alpha"]
        state.svms = LinearSVMs(torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"]))
        state.new = arrays["new"]
        state.fits, state.images = arrays["counts"].tolist()
        return state


def train_svms(
    positives: Iterable[tuple[Tensor, npt.NDArray[np.int8]]],
    images: Iterable[Example | int],
    classes: tuple[str, ...],
    dimension: int,
    mean_norm: float,
    settings: SVM,
    state: Mining | None = None,
    after_image: Callable[[Mining], None] = lambda _: None,
) -> tuple[LinearSVMs, dict[str, object]]:
    """Train one SVM a class.

    All positives come first. One pass over the images then collects negatives that the current SVMs
    get wrong or nearly so; when enough are new, the SVMs are trained again and easy negatives forgotten.
    The same happens when ``settings.memory_mb`` is full; what then still does not fit is left out.

    Args:
        positives: vectors ``[P, D]`` and signs ``[P, K]`` of the positives of each image; see `fit_svms`.
        images: every training image once, best in random order: neighbours in a list look alike. In place of
            one that another process has, that one's rank; several processes end with the same SVMs.
        mean_norm: mean Euclidean norm of sampled vectors; features are scaled so that it becomes
            ``settings.norm``.
        state: where to go on, changed in place; then no positives are asked for, and ``images`` lack the
            ``state.images`` that were looked at. None is the beginning.
        after_image: called with the state whenever an image is done. Who goes on from there gets the same
            bits as who was never interrupted.

    Returns the SVMs, for unscaled vectors, and figures for the log. Raises UserError for a class without
    a positive, and where the positives alone exceed the memory.
    """
    objective = Hinge(settings.C, settings.bias, settings.positive_weight, settings.norm / mean_norm)
    if state is None:
        state = Mining.begin(dimension, len(classes), settings)
        _add_positives(state.pool, positives, classes, settings)
    pool = state.pool
    for vectors, signs in _mined(images, lambda: state.svms, settings):
        if pool.size + len(vectors) > pool.capacity and state.fits:
            pool.make_room(state.svms, max(len(vectors), pool.capacity // 10))
        room = pool.capacity - pool.size
        pool.add(vectors[:room], signs[:room])
        state.new += (signs[:room] < 0).sum(axis=0)
        full = pool.size == pool.capacity
        if state.new.max() >= settings.retrain_after or (full and state.new.any()):
            state.svms = pool.fit(objective, max(settings.tolerance, 1e-2)).svms
            pool.evict(state.svms, settings.evict_score)
            state.new[:] = 0
            state.fits += 1
            logger.info("mining: fit %d, %d examples kept", state.fits, pool.size)
        state.images += 1
        after_image(state)
    fit = pool.fit(objective, settings.tolerance)
    negatives = (pool.signs < 0).sum(axis=0)
    logger.info("mining: final fit on %d examples, duality gap %.1e", pool.size, fit.gap.max())
    return fit.svms, {
        "fits": state.fits + 1,
        "examples": pool.size,
        "negatives": dict(zip(classes, negatives.tolist(), strict=True)),
        "duality_gap": float(fit.gap.max()),
    }


def _add_positives(
    pool: ExamplePool,
    positives: Iterable[tuple[Tensor, npt.NDArray[np.int8]]],
    classes: tuple[str, ...],
    settings: SVM,
) -> None:
    for vectors, signs in positives:
        if pool.size + len(vectors) > pool.capacity:
            raise UserError(
                f"svm.memory_mb = {settings.memory_mb}: too little for the positives alone; raise it, or "
                "svm.positive_iou"
            )
        pool.add(vectors, signs)
    for label, name in enumerate(classes):
        if not (pool.signs[:, label] > 0).any():
            raise UserError(f"class {name!r} has no positive example in the training images")


def _mined(
    images: Iterable[Example | int], current: Callable[[], LinearSVMs], settings: SVM
) -> Iterator[tuple[Tensor, npt.NDArray[np.int8]]]:
    """The hard negatives of each image in turn, by the SVMs that are current when its turn comes.

    Several processes score as many images side by side. When the SVMs change meanwhile, what is left of
    these is scored anew: the result is that of one process.
    """
    coming, rank = iter(images), distributed.rank()
    while chunk := list(islice(coming, distributed.world_size())):
        scored_by = None
        for place in range(len(chunk)):
            if scored_by is not current():
                scored_by = current()
                left = chunk[place:]
                own = [image for image in left if isinstance(image, Example)]
                owners = [rank if isinstance(image, Example) else image for image in left]
                negatives = (_hard_negatives(image, scored_by, settings) for image in own)
                found = distributed.in_order(
                    ({"vectors": vectors.half().numpy(), "signs": signs} for vectors, signs in negatives),
                    owners,
                )
            arrays = next(found)
            yield torch.from_numpy(arrays["vectors"]), arrays["signs"]


def _each_class(fit: Fit) -> Iterator[distributed.Arrays]:
    for label in range(len(fit.gap)):
        yield {
            "weight": fit.svms.weight[label].numpy(),
            "bias": fit.svms.bias[label].numpy(),
            "alpha": fit.alpha[:, label],
            "gap": fit.gap[label],
            "primal": fit.primal[label],
        }


def _joined(parts: list[distributed.Arrays]) -> Fit:
    """The inverse of `_each_class`."""
    every = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    svms = LinearSVMs(torch.from_numpy(every["weight"]), torch.from_numpy(every["bias"]))
    return Fit(svms, np.ascontiguousarray(every["alpha"].T), every["gap"], every["primal"])


def _hard_negatives(example: Example, svms: LinearSVMs, settings: SVM) -> tuple[Tensor, npt.NDArray[np.int8]]:
    """What an image has to teach: vectors ``[n, D]`` and their signs ``[n, K]``."""
    vector_of = example.vectors.of
    scores = example.vectors.scores(svms.to(example.vectors.device)).cpu().numpy()[vector_of]  # [N, K]
    negative = example.windows.class_overlaps(scores.shape[1]) < settings.negative_iou
    hard = negative & (scores > settings.hard_score)
    signs = np.zeros((len(example.vectors), scores.shape[1]), np.int8)  # of each vector
    for label in range(scores.shape[1]):
        kept = spread_out(example.windows.boxes, scores[:, label], hard[:, label], settings.duplicate_iou)
        signs[vector_of[kept], label] = -1
    rows = np.flatnonzero(signs.any(axis=1))
    return example.vectors.make(rows).cpu(), signs[rows]
