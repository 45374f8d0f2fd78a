"""Model combination (P section 4.3): several detectors score the windows, NMS takes from all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike

import numpy as np
import torch

from spp_det.boxes import Boxes
from spp_det.config.settings import Proposals
from spp_det.config.values import Precision
from spp_det.data.records import Detections
from spp_det.errors import UserError
from spp_det.images import RGB
from spp_det.model.detector import AnyImage, Detector, detect_each, own_windows, ranked
from spp_det.model.features import ConvMap
from spp_det.model.suppression import suppress


class Ensemble:
    """Several detectors of the same classes as one, to be called like a `Detector`.

    Every model scores every window. Their boxes go through one NMS a class: of two models' boxes in one place
    the box with the higher score stays. The regressor of the model that scored a box refines it. Threshold,
    NMS and limit come from the first model. A model combined with itself detects what it detects alone.

    >>> ensemble = Ensemble.load(["model.safetensors", "other.safetensors"])
    >>> found = ensemble("photo.jpg")
    >>> len(found["boxes"]) == len(found["scores"])
    True

    Attributes:
        classes: names in the order of the first model; the others may have another order.
        settings: the first model's.
    """

    def __init__(self, models: Sequence[Detector]) -> None:
        """Raises UserError where the models know different classes, ValueError where there are none."""
        if not models:
            raise ValueError("an ensemble needs at least one model")
        self.models = tuple(models)
        self.classes = models[0].classes
        self.settings = models[0].settings
        self.name = "the combination"  # in errors
        self.probability = None  # each model's holds for its own scores, not for the best of several
        for number, model in enumerate(models[1:], 2):
            _check_classes(self.classes, model.classes, number)
        # For each model, the ensemble's label of each of the model's labels.
        self._labels = [np.array([self.classes.index(name) for name in model.classes]) for model in models]

    def __call__(self, images: AnyImage | Iterable[AnyImage]) -> Detections | list[Detections]:
        """Detect in one image or a list of them; see `Detector.__call__`."""
        return detect_each(self, images)

    def detect(self, image: RGB, windows: Boxes | None = None) -> Detections:
        """Detect in one RGB uint8 ``[H, W, 3]`` image; see `Detector.detect`."""
        (found,) = self.detect_batch([image], [own_windows(self, image) if windows is None else windows])
        return found

    @property
    def device(self) -> torch.device:
        """The device that the first model computes on."""
        return self.models[0].device

    @property
    def searches(self) -> tuple[Proposals, ...]:
        """How windows were searched for in the trainings of the models, without repetitions."""
        return tuple(dict.fromkeys(search for model in self.models for search in model.searches))

    def identity(self) -> str:
        """See `Detector.identity`."""
        return " + ".join(model.identity() for model in self.models)

    @torch.inference_mode()
    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]:
        """See `Detector.detect_batch`."""
        maps = zip(*(model.features.maps_of(images) for model in self.models), strict=True)
        return [self._detect(*each) for each in zip(images, maps, windows, strict=True)]

    def _detect(self, image: RGB, maps: Sequence[Sequence[ConvMap]], windows: Boxes) -> Detections:
        """Detect in one image; ``maps`` holds the image's maps for each model."""
        limits = self.settings.detection
        pairs = zip(self.models, maps, strict=True)
        parts = [model.scored_boxes(own, windows, limits) for model, own in pairs]
        boxes = np.concatenate([part.boxes for part in parts])  # [C, 4]
        labels = np.concatenate([own[part.labels] for own, part in zip(self._labels, parts, strict=True)])
        scores = np.concatenate([part.scores for part in parts])  # [C]
        kept, lowered = suppress(boxes, labels, scores, limits)  # [n], [n]
        boxes, start = boxes[kept], 0  # [n, 4]
        for model, part in zip(self.models, parts, strict=True):
            mine = np.flatnonzero((kept >= start) & (kept < start + len(part.boxes)))
            mine = mine[np.argsort(part.labels[kept[mine] - start], kind="stable")]  # a run for each label
            boxes[mine] = model.refined(part, kept[mine] - start)
            start += len(part.boxes)
        return ranked(boxes, labels[kept], lowered, image.shape[1], image.shape[0])

    @classmethod
    def load(
        cls, paths: Sequence[str | PathLike[str]], device: str = "cpu", precision: Precision = "auto"
    ) -> Ensemble:
        """Read model files; see `Detector.load`. Raises UserError also where their classes differ."""
        return cls([Detector.load(path, device, precision) for path in paths])


AnyDetector = Detector | Ensemble


def load_detector(
    paths: Sequence[str | PathLike[str]], device: str = "cpu", precision: Precision = "auto"
) -> AnyDetector:
    """One model file as a `Detector`, several as an `Ensemble`."""
    if len(paths) == 1:
        return Detector.load(paths[0], device, precision)
    return Ensemble.load(paths, device, precision)


def _check_classes(expected: Sequence[str], classes: Sequence[str], number: int) -> None:
    missing, added = sorted(set(expected) - set(classes)), sorted(set(classes) - set(expected))
    if missing or added:
        parts = [f"not {name!r}" for name in missing[:1]] + [f"also {name!r}" for name in added[:1]]
        raise UserError(
            f"models that are combined must know the same classes: model {number} knows, unlike the first, "
            f"{' but '.join(parts)}"
        )
