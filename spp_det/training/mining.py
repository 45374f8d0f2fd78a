"""Training the SVMs: ground truth against hard negatives, mined in one pass over the images (P 4.1, R)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Ints
from spp_det.config.settings import SVM
from spp_det.errors import UserError
from spp_det.model.svm import Hinge, LinearSVMs
from spp_det.model.vectors import WindowVectors
from spp_det.runtime.cache import Arrays
from spp_det.runtime.progress import track
from spp_det.runtime.sharing import Shared, share
from spp_det.training.pool import ExamplePool, bytes_of, capacity_of
from spp_det.training.windows import LabelledWindows, spread_out

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Example:
    """One image of the training stream.

    Attributes:
        windows: its N labelled windows.
        vectors: the vectors of the windows, ``[M, D]``, made on demand.
    """

    windows: LabelledWindows
    vectors: WindowVectors


class FoldsOf(NamedTuple):
    """The folds of the images that have positives, in their order, and of all images in their order."""

    positives: Sequence[int]
    images: Sequence[int]


@dataclass(eq=False)
class Mining:
    """The state of the pass over the images. With the images still to come, it determines the SVMs.

    Attributes:
        pool: the examples.
        svms: the SVMs of the last fit.
        new: int64 ``[K]`` negatives of each class since the last fit.
        fits: the number of fits.
        images: the number of images that were mined; a mirrored image is another one.
        offered: of each mined image, the numbers ``[n]`` of the vectors that it offered to the pool.
    """

    pool: ExamplePool
    svms: LinearSVMs
    new: Ints
    fits: int = 0
    images: int = 0
    offered: dict[int, Ints] = field(default_factory=dict)

    @classmethod
    def begin(cls, dimension: int, classes: int, settings: SVM) -> Mining:
        """The state before the first example."""
        pool = ExamplePool(dimension, classes, capacity_of(settings, dimension))
        svms = LinearSVMs(torch.zeros(classes, dimension), torch.zeros(classes))
        return cls(pool, svms, np.zeros(classes, np.int64))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state but for the examples' vectors, not copied: to be written before the mining goes on.

        The vectors of Pascal VOC take gigabytes. `remake` makes them again from the images' maps.
        """
        rows = [self.offered[image] for image in self.mined().tolist()]
        return {
            "signs": self.pool.signs,
            "alpha": self.pool.alpha,
            "folds": self.pool.folds,
            "origins": self.pool.origins,
            "weight": self.svms.weight.numpy(),
            "bias": self.svms.bias.numpy(),
            "new": self.new,
            "counts": np.array([self.fits, self.images]),
            "offers": np.array([len(each) for each in rows], np.int64),
            "offered": np.concatenate([np.zeros(0, np.int64), *rows]),
        }

    @classmethod
    def of(
        cls, arrays: Mapping[str, npt.NDArray[Any]], dimension: int, classes: int, settings: SVM
    ) -> Mining:
        """The inverse of `arrays`, by the same settings, before `remake`. Raises ValueError for arrays of any
        other form."""
        state = cls.begin(dimension, classes, settings)
        none = np.array(None)
        examples = ("signs", "alpha", "folds", "origins")
        count = arrays.get("signs", none).shape[:1]
        for name, form in state.arrays().items():
            array = arrays.get(name, none)
            shape = form.shape  # but for what a new state has none of
            if name in examples:
                shape = count + form.shape[1:]
            elif name in ("offers", "offered"):
                shape = array.shape if array.ndim == 1 else form.shape
            if (array.dtype, array.shape) != (form.dtype, shape):
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {form.dtype} {shape}")
        state.pool.restore(*(arrays[name] for name in examples))
        state.svms = LinearSVMs(torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"]))
        state.new = arrays["new"]
        state.fits, state.images = arrays["counts"].tolist()
        mined, offers = state.mined(), arrays["offers"]
        of_image = np.isin(state.pool.origins[:, 0], mined)
        image, place = state.pool.origins[of_image].T
        fits = len(offers) == len(mined) and offers.sum() == len(arrays["offered"])
        fits = fits and (place < offers[np.searchsorted(mined, image)]).all()
        fits = fits and min(offers.min(initial=0), place.min(initial=0)) == 0
        negative = state.pool.origins[:, 0] >= 0
        fits = fits and bool((np.diff(negative.astype(np.int8)) >= 0).all())  # positives are first
        if not fits or mined.max(initial=-1) >= state.images or state.pool.origins.min(initial=0) < -1:
            raise ValueError("offers and offered do not fit to origins")
        rows = np.split(arrays["offered"], np.cumsum(offers)[:-1])
        state.offered = dict(zip(mined.tolist(), rows, strict=False))
        return state

    def mined(self) -> Ints:
        """The images ``[n]``, by their places in the mining's order, of which the pool has negatives."""
        images = np.unique(self.pool.origins[:, 0])
        return images[images >= 0]

    def remake(
        self, positives: Iterable[tuple[Tensor, npt.NDArray[np.int8]]], images: Shared[Example]
    ) -> None:
        """Make the examples' vectors again, to the same bits, after `of`.

        Args:
            positives: what the training began with.
            images: those of `mined`.
        """
        origins, vectors, done = self.pool.origins, self.pool.vectors, 0
        for made, _ in positives:
            vectors[done : done + len(made)] = made
            done += len(made)
        assert done == (origins[:, 0] < 0).sum()  # the key is that of the same positives
        mined = self.mined().tolist()
        offers = share([self.offered[image] for image in mined], images.owners)
        pairs = Shared(zip(images.own, offers.own, strict=True), images.owners)
        remade = track(pairs.map(lambda pair: _vectors(*pair)), "examples of before", len(mined))
        for image, found in zip(mined, remade, strict=True):
            here = np.flatnonzero(origins[:, 0] == image)
            vectors[here] = torch.from_numpy(found["vectors"])[origins[here, 1]]


def train_svms(
    positives: Iterable[tuple[Tensor, npt.NDArray[np.int8]]],
    images: Shared[Example],
    classes: tuple[str, ...],
    dimension: int,
    mean_norm: float,
    settings: SVM,
    state: Mining | None = None,
    after_image: Callable[[Mining], None] = lambda _: None,
    at_end: Callable[[ExamplePool, Hinge], object] = lambda *_: None,
    folds: FoldsOf | None = None,
) -> tuple[LinearSVMs, dict[str, object]]:
    """Train one SVM a class.

    All positives come first. One pass over the images then collects hard negatives, which the current SVMs
    get wrong or nearly wrong. After enough new ones, the SVMs are trained again and easy negatives forgotten.
    The same happens when ``settings.memory_mb`` is full; negatives that still do not fit are left out.

    Args:
        positives: vectors ``[P, D]`` and signs ``[P, K]`` of the positives of each image; see `fit_svms`.
            Every class has one.
        images: every training image once, best in random order: neighbours in a list look alike. Several
            processes end with the same SVMs.
        mean_norm: mean Euclidean norm of sampled vectors; features are scaled so that it becomes
            ``settings.norm``.
        state: where to go on, changed in place; ``positives`` are then not read, and ``images`` begin after
            the first ``state.images``. None is the beginning.
        after_image: called with the state whenever an image is done. A training that goes on from there ends
            in the same bits as one that was never interrupted.
        at_end: called with the examples and the objective after the last fit.
        folds: of the images of ``positives`` and of all images; None puts all into fold 0.

    Returns the SVMs, for unscaled vectors, and figures for the log. Raises UserError where the positives
    alone exceed the memory.
    """
    objective = Hinge(settings.C, settings.bias, settings.positive_weight, settings.norm / mean_norm)
    if state is None:
        state = Mining.begin(dimension, len(classes), settings)
        _add_positives(state.pool, positives, settings, folds.positives if folds else repeat(0))
    pool, done = state.pool, state.images
    warned = False
    mined = images.map_latest(partial(_hard_negatives, settings=settings), lambda: state.svms)
    for found in track(mined, "hard negatives", done + len(images), done=done):
        vectors, signs = torch.from_numpy(found["vectors"]), found["signs"]
        if pool.size + len(vectors) > pool.capacity and not warned:
            warned = True
            logger.warning(
                "svm.memory_mb = %s is full after %d images: the easiest negatives are left out from now "
                "on, and the detector may become much worse; raise it, or svm.positive_iou",
                settings.memory_mb,
                state.images,
            )
        if pool.size + len(vectors) > pool.capacity and state.fits:
            pool.make_room(state.svms, max(len(vectors), pool.capacity // 10))
        room = pool.capacity - pool.size
        fold = folds.images[state.images] if folds else 0
        pool.add(vectors[:room], signs[:room], fold, image=state.images)
        state.offered[state.images] = found["rows"]
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
    at_end(pool, objective)
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
    settings: SVM,
    folds: Iterable[int],
) -> None:
    needed = 0  # of those that do not fit too, so that the error can say how much would
    for (vectors, signs), fold in zip(positives, folds, strict=False):
        needed += len(vectors)
        if needed <= pool.capacity:
            pool.add(vectors, signs, fold)
    if needed > pool.capacity:
        raise positives_do_not_fit(settings, needed, pool.vectors.shape[1])


def positives_do_not_fit(settings: SVM, count: int, dimension: int) -> UserError:
    """The error for ``count`` positives of length ``dimension`` that the memory does not hold."""
    needed = count * bytes_of(dimension) // 2**20 + 1
    return UserError(
        f"svm.memory_mb = {settings.memory_mb}: the positives alone take {needed} MiB, and negatives need "
        "room too; raise it, or svm.positive_iou"
    )


def _hard_negatives(svms: LinearSVMs, example: Example, settings: SVM) -> Arrays:
    """`hard_negatives` as they are sent to other processes: ``rows``, ``signs``, and ``vectors``."""
    rows, signs = hard_negatives(svms, example, settings)
    return {"rows": rows, "signs": signs, **_vectors(example, rows)}


def _vectors(example: Example, rows: Ints) -> Arrays:
    """``vectors`` float16 ``[n, D]`` of the numbers ``[n]``. Which are made together may change bits."""
    return {"vectors": example.vectors.of_rows(rows).half().cpu().numpy()}


def hard_negatives(svms: LinearSVMs, example: Example, settings: SVM) -> tuple[Ints, npt.NDArray[np.int8]]:
    """The windows of an image that the SVMs take for objects or nearly do: the numbers ``[n]`` of their
    vectors among those of the image, and their signs ``[n, K]``, -1 or 0."""
    vector_of = example.vectors.of
    scores = example.vectors.scores(svms.to(example.vectors.device)).cpu().numpy()[vector_of]  # [N, K]
    negative = example.windows.class_overlaps(scores.shape[1]) < settings.negative_iou
    hard = negative & (scores > settings.hard_score)
    signs = np.zeros((len(example.vectors), scores.shape[1]), np.int8)  # of each vector
    for label in range(scores.shape[1]):
        kept = spread_out(example.windows.boxes, scores[:, label], hard[:, label], settings.duplicate_iou)
        signs[vector_of[kept], label] = -1
    rows = np.flatnonzero(signs.any(axis=1))
    return rows, signs[rows]
