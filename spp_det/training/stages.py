"""The order of the training: data, proposals, maps, SVMs, box regression, model file, evaluation."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass

import numpy as np

from spp_det.cache import Cache
from spp_det.config import Config, Data
from spp_det.data.coco import read_coco
from spp_det.data.records import Dataset
from spp_det.data.voc import read_voc
from spp_det.devices import choose_device
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.detector import Detector, features_of
from spp_det.model.model_file import Settings
from spp_det.training.images import TrainingImages
from spp_det.training.mining import train_svms
from spp_det.training.regression import mean_vector_norm, train_regressor

logger = logging.getLogger(__name__)

NORM_IMAGES, NORM_WINDOWS = 200, 200  # sampled for the mean norm of the vectors


def read_dataset(data: Data, split: str, classes: tuple[str, ...] | None = None) -> Dataset:
    """A split of the configured data set; ``classes`` to insist on, or None for those of the split."""
    if data.format == "voc":
        return read_voc(data.root, split, classes)
    dataset = read_coco(split, data.root)
    if classes is not None and classes != dataset.classes:
        raise UserError(
            f"data.classes: {split} has the categories {', '.join(dataset.classes)}, in this order; "
            "a COCO file is learned whole, so leave data.classes out"
        )
    return dataset


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training ends in: the model, and what to know about how it came to be."""

    detector: Detector
    metrics: dict[str, object]


def train(config: Config) -> Trained:
    """Train a detector. Writes only the cache; the caller saves the model."""
    clock = _Clock()
    dataset = read_dataset(config.data, config.data.train, config.data.classes)
    workers = config.runtime.workers or os.cpu_count() or 1
    device = choose_device(config.runtime.device)
    settings = Settings(
        features=config.features,
        proposals=config.proposals,
        backbone=config.backbone,
        pyramid=config.pyramid,
        detection=config.detection,
    )
    backbone = Backbone(config.backbone.name).load_weights(config.backbone.weights, config.seed).to(device)
    features = features_of(backbone, settings)
    cache = Cache(config.runtime.cache or config.output / "cache")
    images = TrainingImages(dataset, features, config.proposals, cache, workers, config.strict)
    clock.lap("proposals_and_maps")
    generator = np.random.default_rng(config.seed)
    sample = generator.permutation(len(images))[:NORM_IMAGES]
    mean_norm = mean_vector_norm(images.sample(int(i), NORM_WINDOWS, generator) for i in sample)
    clock.lap("norm")
    svms, figures = train_svms(
        images.positives(config.svm.positive_iou),
        images.stream(generator.permutation(len(images)), "hard negatives"),
        dataset.classes,
        features.dimension,
        mean_norm,
        config.svm,
    )
    clock.lap("svm")
    regressor = None
    if config.bbox.enabled:
        regressor = train_regressor(
            images.windows(),
            images.vectors_of,
            dataset.classes,
            features.dimension,
            mean_norm,
            config.bbox,
            generator,
        )
        clock.lap("bbox")
    detector = Detector(dataset.classes, features, svms, regressor, settings)
    metrics = {
        "images": len(images),
        "skipped": images.skipped,
        "mean_norm": mean_norm,
        "svm": figures,
        "seconds": clock.laps,
        "peak_memory_mb": _peak_memory_mb(),
    }
    return Trained(detector, metrics)


def _peak_memory_mb() -> int | None:
    """The largest resident size of this process so far; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self._last = now
        logger.info("%s took %.1f s", name, self.laps[name])
