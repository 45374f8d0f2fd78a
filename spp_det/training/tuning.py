"""Many settings tried on held-out folds of the training images, at little more than the cost of one training.

What settings have in common is computed once. Windows and maps are the training's own. For each
normalisation, with or without mirrored images, hard negatives are mined once, by all images; SVMs of any C
and overlap are then fitted to these examples without the images of a fold. Regressors learn from fewer
windows than in a training; those of any ridge share the products of the first pass's vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spp_det.boxes import Ints
from spp_det.config.settings import Config
from spp_det.data.records import Detections
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.features import SPPFeatures
from spp_det.model.head import FCHead
from spp_det.model.svm import Hinge, LinearSVMs
from spp_det.runtime.progress import track
from spp_det.training.draws import Draws
from spp_det.training.images import TrainingImages
from spp_det.training.inputs import model_settings
from spp_det.training.mining import FoldsOf, train_svms
from spp_det.training.pool import ExamplePool, memory_for
from spp_det.training.regression import Pooled, mean_vector_norm, train_regressors

TOLERANCE = 1e-2  # of the duality gap, as while mining: a tenth of a point of mAP is not worth a sweep
WINDOWS = 1500  # of a class at most that its regressors learn from

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class _Mined:
    """The examples of one normalisation, of the images alone or of the mirrored ones too.

    Attributes:
        images: the training images with vectors of that normalisation.
        norm, pool5_norm: the mean norm of the vectors that are scored, and of those that move boxes.
        pool: all positives first, then hard negatives.
        positives: by overlap, the signs ``[P, K]`` of the positives.
        pooled: what regressors of any ridge share; see `train_regressors`.
    """

    images: TrainingImages
    norm: float
    pool5_norm: float
    pool: ExamplePool
    positives: Mapping[float, Signs]
    pooled: dict[int, Pooled] = field(default_factory=dict)


class Trials:
    """Detectors of any settings, without each fold, and what they find in the images of the fold.

    Settings that differ from an earlier trial's in few keys are tried at little cost; see the module.
    """

    def __init__(
        self,
        images: TrainingImages,
        draws: Draws,
        head: FCHead | None,
        classes: tuple[str, ...],
        overlaps: Sequence[float],
        mined_by: float,
    ) -> None:
        """``overlaps``: every ``svm.positive_iou`` that will be tried; ``mined_by``: the C of the mining."""
        self.images, self.draws, self.head = images, draws, head
        self.classes, self.overlaps, self.mined_by = classes, sorted(overlaps), mined_by
        self._mined: dict[tuple[str, bool], _Mined] = {}
        self._svms: dict[object, list[LinearSVMs]] = {}
        self._regressors: dict[object, list[tuple[BoxRegressor, ...]]] = {}

    def detect(self, config: Config) -> list[Detections]:
        """What the detectors of these settings find in each of the images ``draws.judged``."""
        mined = self._mine(config)
        settings, features = model_settings(config), mined.images.features
        parts = zip(self._fold_svms(config, mined), self._fold_regressors(config, mined), strict=True)
        detectors = [Detector(self.classes, features, self.head, *each, settings) for each in parts]

        def look(index: int) -> Detections:
            image, detector = mined.images.images[index], detectors[self.draws.folds.of[index]]
            windows, (width, height) = image.windows, image.record.size or (0, 0)
            maps, own = mined.images.maps(index), windows.boxes[windows.objects :]
            found: Detections = detector.detect_on(maps, own, width, height)
            return found

        judged = self.draws.judged.tolist()
        looks = self.images.on_threads(look, judged)
        return list(track(looks, "held-out detections", len(judged)))

    def keep(self, config: Config) -> None:
        """Forget all other examples than those of these settings: they fill the memory."""
        self._mined = {name: mined for name, mined in self._mined.items() if name == _of(config)}

    def _mine(self, config: Config) -> _Mined:
        name = _of(config)
        if name not in self._mined:
            images = copy(self.images)
            backbone = self.images.features.backbone
            images.features = SPPFeatures(backbone, config.backbone, config.pyramid)
            heads = dict.fromkeys((None, self.head))
            norms = {head: mean_vector_norm(self.draws.norm_vectors(images, head)) for head in heads}
            self._mined[name] = self._examples(config, images, norms)
        return self._mined[name]

    def _examples(
        self, config: Config, images: TrainingImages, norms: Mapping[FCHead | None, float]
    ) -> _Mined:
        settings = config.svm.model_copy(
            update={"C": self.mined_by, "positive_iou": self.overlaps[0], "tolerance": TOLERANCE}
        )
        dimension = images.features.dimension if self.head is None else self.head.dimension
        settings = memory_for(settings, [image.record for image in images.images], dimension)
        signs: dict[float, list[Signs]] = {overlap: [] for overlap in self.overlaps}
        pools: list[ExamplePool] = []
        folds, order = self.draws.folds, self.draws.order
        views, teaching = (images.views(each, settings.flips) for each in (order, images.teaching()))
        fold_of = np.tile(folds.of, 2)  # of an image and of the mirrored one
        train_svms(
            self._positives(images, teaching, signs),
            images.stream(views, self.head),
            *(self.classes, dimension, norms[self.head], settings),
            at_end=lambda pool, _: pools.append(pool),
            folds=FoldsOf(fold_of[teaching].tolist(), fold_of[views].tolist()),
        )
        positives = {overlap: np.concatenate(parts) for overlap, parts in signs.items()}
        return _Mined(images, norms[self.head], norms[None], pools[0], positives)

    def _positives(
        self, images: TrainingImages, teaching: Ints, signs: Mapping[float, list[Signs]]
    ) -> Iterator[tuple[Tensor, Signs]]:
        """As `TrainingImages.positives` of the least overlap; the signs by each overlap go into ``signs``."""

        def found(view: int) -> tuple[Tensor, list[Signs]]:
            windows, vectors = images.images[view % len(images)].windows, images.vectors(view)
            offers = [windows.positives(overlap) for overlap in self.overlaps]
            rows = np.unique(vectors.of[np.concatenate([chosen for chosen, _ in offers])])
            counts = np.zeros((len(offers), len(rows), len(self.classes)), np.int64)
            for each, (chosen, labels) in zip(counts, offers, strict=True):
                np.add.at(each, (np.searchsorted(rows, vectors.of[chosen]), labels), 1)
            made = vectors.through(self.head).of_rows(rows).half().cpu()
            return made, list(np.minimum(counts, 127).astype(np.int8))

        every = images.on_threads(found, teaching)
        for vectors, by_overlap in track(every, "positives", len(teaching)):
            for overlap, part in zip(self.overlaps, by_overlap, strict=True):
                signs[overlap].append(part)
            yield vectors, by_overlap[0]

    def _fold_svms(self, config: Config, mined: _Mined) -> list[LinearSVMs]:
        """The SVMs of the settings, one for each fold that they do not know."""
        settings = config.svm
        key = (*_of(config), settings.C, settings.positive_iou)
        if key not in self._svms:
            signs = mined.pool.signs.copy()
            positives = mined.positives[settings.positive_iou]
            signs[: len(positives)] = positives
            scale = settings.norm / mined.norm
            objective = Hinge(settings.C, settings.bias, settings.positive_weight, scale)
            self._svms[key] = [
                mined.pool.fit_without(fold, objective, TOLERANCE, signs).svms
                for fold in range(self.draws.folds.count)
            ]
        return self._svms[key]

    def _fold_regressors(self, config: Config, mined: _Mined) -> list[tuple[BoxRegressor, ...]]:
        """The regressors of the settings, for each fold those that do not know it."""
        settings, folds = config.bbox, self.draws.folds
        if not settings.enabled:
            return [()] * folds.count
        key = (config.pyramid.normalize, settings.ridge)
        if key not in self._regressors:
            fewer = settings.model_copy(update={"max_windows": min(settings.max_windows, WINDOWS)})
            images = mined.images
            about = (images.windows(), images.distinct_vectors, self.classes, images.features.dimension)
            generator = np.random.default_rng(config.seed)
            norm, pooled = mined.pool5_norm, mined.pooled
            fitted = train_regressors(*about, norm, fewer, generator, folds=folds, pooled_first=pooled)
            self._regressors[key] = fitted[1:]
        return self._regressors[key]


def _of(config: Config) -> tuple[str, bool]:
    """What examples depend on: trials that differ in nothing else share theirs."""
    return config.pyramid.normalize, config.svm.flips
