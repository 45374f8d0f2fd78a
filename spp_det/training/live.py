"""A training that never ends: photos are annotated, corrected and removed, and each time it learns in
seconds.

Windows, maps and vectors of a photo are computed once. The box regressors start from the products of vectors
that they have (`spp_det.training.live_regression`), and the SVMs, where photos are not few, from their last
solution (`spp_det.training.live_svms`). The result is close to that of `stages.train` on the same photos, not
equal: photos are mined in another order, and beyond the first few by the SVMs of the moment at which they
were annotated. docs/figures.md says how close.
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch

from spp_det.config.settings import Config
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.head import FCHead
from spp_det.model.model_file import features_of
from spp_det.runtime.cache import Cache
from spp_det.runtime.threads import cores
from spp_det.training.draws import NORM_IMAGES, NORM_WINDOWS
from spp_det.training.inputs import model_settings, pretrained_fc
from spp_det.training.live_photos import LivePhotos
from spp_det.training.live_probability import LiveProbability
from spp_det.training.live_regression import LiveRegressors
from spp_det.training.live_svms import LiveSVMs
from spp_det.training.network import ready
from spp_det.training.stages import scored_layers

logger = logging.getLogger(__name__)

MANY = 8  # photos, from which on half of them suffice for a first detector
STILL = 0.02  # the mean norm of the vectors counts as the same while it moves by a smaller part


class LiveTraining:
    """Learns from the photos of the moment, again and again.

    Attributes:
        config: its settings.
        detector: the last one; None before the first.
        seconds: of the steps of the last `learn`.
    """

    def __init__(self, config: Config, cache: Cache) -> None:
        """Read the network's weights. Raises UserError where that fails, and for settings that are not those
        of linear machines on frozen layers."""
        check_learns_live(config)
        network = Backbone(config.backbone.name, config.backbone.stride)
        network.load_weights(config.backbone.weights, config.seed)
        settings = model_settings(config)
        head = pretrained_fc(config, features_of(network, settings))
        features = features_of(ready(network, config), settings)
        self.config = config
        self.settings = settings
        self.head: FCHead | None = scored_layers(head, config, features)
        self.features = features
        self.cache = cache
        self.seconds: dict[str, float] = {}
        self._norms: dict[str, tuple[float, float]] = {}  # by content of a photo: of pool5, of what is scored
        self._begin()

    def _begin(self) -> None:
        """Know no photo."""
        self.photos = LivePhotos(self.features, self.head, self.config, self.cache)
        dimension = self.features.dimension if self.head is None else self.head.dimension
        self.svms = LiveSVMs(dimension, self.config.svm)
        with_boxes = self.config.bbox.enabled
        self.regressors = LiveRegressors(self.features.dimension, self.config.bbox) if with_boxes else None
        self.probability = LiveProbability()
        self.detector: Detector | None = None
        self._norm: tuple[float, float] | None = None

    def learn(self, dataset: Dataset) -> Detector | None:
        """The detector of these annotations; None where they hold no object to learn from.

        Where many photos come at once to a training that knows none, the first half is learnt first: in the
        other half that detector then shows what its scores mean.

        Raises UserError as `stages.train` does for photos and weights; what was learnt before is then kept.
        """
        self.seconds = {}
        with_curves = self.config.probability.folds > 0
        if with_curves and self.detector is None and len(dataset.records) >= MANY:
            self._learn(Dataset(dataset.classes, dataset.records[: len(dataset.records) // 2]))
        return self._learn(dataset)

    def _learn(self, dataset: Dataset) -> Detector | None:
        start = time.perf_counter()

        def lap(name: str) -> None:
            nonlocal start
            now = time.perf_counter()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + now - start, 3)
            start = now

        known = set(self.photos.photos)
        changes = self.photos.update(dataset)
        lap("windows and maps")
        if not self.photos.classes:
            self._begin()  # photos without objects are mined once there is a class
            return None
        if self.detector is not None and self.config.probability.folds > 0:
            new = [name for name in changes.changed if name not in known]
            workers = self.config.runtime.workers or cores()
            new = new[: self.config.probability.images]
            self.probability.look(self.detector, len(known), self.photos, new, workers)
            lap("looking at new photos")
        of_pool5, of_scored = self._mean_norms()
        lap("norm")
        svms = self.svms.learn(self.photos, changes, of_scored)
        lap("svm")
        regressors: tuple[BoxRegressor, ...] = ()
        if self.regressors is not None:
            regressors = self.regressors.learn(self.photos, changes, of_pool5)
        lap("bbox")
        classes, features = self.photos.classes, self.photos.features
        self.detector = Detector(classes, features, self.head, svms, regressors, self.settings)
        self.detector.probability = self.probability.curves(classes)
        lap("probability")
        return self.detector

    def _mean_norms(self) -> tuple[float, float]:
        """The mean norm of pool5 and of the vectors that are scored, over windows of at most `NORM_IMAGES`
        photos. While it stays about the same, so do the scales that rest on it."""
        features = self.photos.features
        if features.length is not None and self.head is None:
            return features.length, features.length  # the root normalisations make all vectors as long
        norms = []
        for photo in list(self.photos.photos.values())[:NORM_IMAGES]:
            if photo.content not in self._norms:
                self._norms[photo.content] = _norms(
                    photo.images.sample(
                        photo.index, NORM_WINDOWS, np.random.default_rng(int(photo.content[:8], 16))
                    ),
                    self.head,
                )
            norms.append(self._norms[photo.content])
        pool5, scored = np.mean(norms, axis=0).tolist()
        if not (0 < pool5 < np.inf and 0 < scored < np.inf):
            raise UserError(f"backbone.weights: the features of the photos have mean norm {pool5:g}")
        now = self._norm
        if now is None or any(
            abs(new - old) > STILL * old for new, old in zip((pool5, scored), now, strict=True)
        ):
            self._norm = now = (pool5, scored)
        return now


def check_learns_live(config: Config) -> None:
    """Raise UserError for settings that cannot learn in seconds."""
    if config.finetune.enabled:
        raise UserError("finetune.enabled = True: only linear machines learn in seconds; set it to false")
    if config.features != "spp":
        raise UserError(f"features = {config.features!r}: only 'spp' learns in seconds")


@torch.inference_mode()
def _norms(vectors: torch.Tensor, head: FCHead | None) -> tuple[float, float]:
    scored = vectors if head is None else head(vectors)
    return float(vectors.norm(dim=1).mean()), float(scored.norm(dim=1).mean())
