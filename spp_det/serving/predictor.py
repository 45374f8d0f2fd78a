"""The model of the moment, which looks at photos while another one is being learnt."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spp_det.boxes import Doubles
from spp_det.config.settings import Config
from spp_det.data.records import Dataset, Detections, Record
from spp_det.errors import UserError
from spp_det.model.detector import Detector
from spp_det.model.informative import probabilities_of
from spp_det.runtime.cache import Cache
from spp_det.runtime.devices import choose_device
from spp_det.training.images import TrainingImages
from spp_det.training.live import check_learns_live

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model found in a photo.

    Attributes:
        found: the detections ``[n]``.
        probabilities: float64 ``[n]``; of a model that learns while labels arrive, see `probabilities_of`.
        classes: the model's classes, which the labels index.
        size: ``(width, height)`` of the photo.
        version: of the model.
    """

    found: Detections
    probabilities: Doubles
    classes: tuple[str, ...]
    size: tuple[int, int]
    version: str


class Predictor:
    """Detects by the newest model. Several threads may use one object.

    Windows and maps of a photo go into the cache of the training: a photo is computed once, whoever meets it
    first.
    """

    def __init__(self, config: Config, cache: Cache) -> None:
        check_learns_live(config)
        self._config = config
        self._cache = cache
        self._device = str(choose_device(config.runtime.device))
        self._model: tuple[Detector, str] | None = None
        self._one = threading.Lock()  # a detection has all cores; two at once would take each other's

    @property
    def version(self) -> str:
        """The version of the model of the moment; empty before the first."""
        model = self._model
        return "" if model is None else model[1]

    def load(self, path: Path) -> str:
        """Take the model of a file from now on; detections that have begun end with the old one. Returns its
        version. Raises UserError where it cannot be read."""
        detector = Detector.load(path, self._device, self._config.runtime.precision)
        version = detector.identity().split()[0]
        self._model = detector, version
        return version

    def detect(self, path: Path) -> Seen | None:
        """What is in a photo; None while there is no model. Raises UserError where it cannot be read."""
        model = self._model
        if model is None:
            return None
        detector, version = model
        with self._one:
            photo = self._prepared(path, detector)
            windows = photo.images[0].windows
            width, height = photo.images[0].record.size or (0, 0)
            found = detector.detect_on(photo.maps(0), windows.boxes, width, height)
        probabilities = probabilities_of(found, detector.probability)
        return Seen(found, probabilities, detector.classes, (width, height), version)

    def _prepared(self, path: Path, detector: Detector) -> TrainingImages:
        """The photo with its windows and maps, from the cache or computed and kept there."""
        no = np.zeros(0, np.bool_)
        record = Record(path.name, path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), no, no)
        dataset, search = Dataset(detector.classes, [record]), self._config.proposals
        photo = TrainingImages(dataset, detector.features, search, self._cache, workers=1, strict=True)
        if not photo.make_maps(np.zeros(1, np.int64)):
            raise UserError(f"{path}: vanished while it was read")
        return photo
