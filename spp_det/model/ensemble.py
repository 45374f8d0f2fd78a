"""Model combination (P section 4.3): several detectors score the windows, NMS takes from all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike

import numpy as np
import torch

from spp_det.boxes import Boxes
from spp_det.config.values import Precision
from spp_det.errors import UserError
from spp_det.images import RGB
from spp_det.model.detector import AnyImage, Detections, Detector, detect_each, ranked, suppress
from spp_det.model.features import ConvMap, maps_of_each


class Ensemble:
    """Several detectors of the same classes as one, to be called like a `Detector`.

    Every model scores every window. The union of their candidates goes
    through one NMS a class, so that a surer model suppresses what a less sure one says of the same
    place; a window that is left is refined by the model that scored it. Threshold, NMS and limit are
    those of the first model. A model combined with itself detects what it detects alone.

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
        for number, model in enumerate(models[1:], 2):
            _check_classes(self.classes, model.classes, number)
        # Of each model, what each of its labels is in the ensemble.
        self._labels = [np.array([self.classes.index(name) for name in model.classes]) for model in models]

    def __call__(self, images: AnyImage | Iterable[AnyImage]) -> Detections | list[Detections]:
        """Detect in one image or a list of them; see `Detector.__call__`."""
        return detect_each(self, images)

    @property
    def device(self) -> torch.device:
        """Where the first model computes."""
        return self.models[0].device

    def identity(self) -> str:
        """What tells its detections from those of another; see `Detector.identity`."""
        return " + ".join(model.identity() for model in self.models)

    def detect(self, image: RGB, windows: Boxes | None = None) -> Detections:
        """Detect in one RGB uint8 ``[H, W, 3]`` image, in its own ``[N, 4]`` windows or the given ones."""
        (found,) = self.detect_batch([image], [self.propose(image) if windows is None else windows])
        return found

    @torch.inference_mode()
    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]:
        """See `Detector.detect_batch`."""
        maps = zip(*(maps_of_each(model.features, images) for model in self.models), strict=True)
        return [self._detect(*each) for each in zip(images, maps, windows, strict=True)]

    def _detect(self, image: RGB, maps: Sequence[Sequence[ConvMap]], windows: Boxes) -> Detections:
        """``maps`` are those of each model."""
        limits = self.settings.detection
        looks = zip(self.models, maps, strict=True)
        parts = [model.candidates(own, windows, limits) for model, own in looks]
        places = np.concatenate([part.places for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        labels = np.concatenate([own[part.labels] for own, part in zip(self._labels, parts, strict=True)])
        kept, lowered = suppress(places, labels, scores, limits)
        boxes, start = places[kept], 0
        for part in parts:
            mine = np.flatnonzero((kept >= start) & (kept < start + len(part.places)))
            mine = mine[np.argsort(part.labels[kept[mine] - start], kind="stable")]  # in the model's order
            boxes[mine] = part.boxes(kept[mine] - start)
            start += len(part.places)
        return ranked(boxes, labels[kept], lowered, image)

    def propose(self, image: RGB, threads: int | None = None) -> Boxes:
        """The windows ``[N, 4]`` that any of the models would look at, sorted, each once.

        An image is searched once for all models that search alike.
        """
        searchers = {model.settings.proposals: model for model in self.models}
        found = [model.propose(image, threads) for model in searchers.values()]
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found), axis=0)

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
    """One model file as the `Detector` that it is, several as an `Ensemble`."""
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
