"""Model combination (P section 4.3): several detectors score the windows, NMS takes from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch

from spp_det.boxes import Boxes
from spp_det.config import Precision
from spp_det.errors import UserError
from spp_det.images import RGB
from spp_det.model.detector import AnyImage, Detections, Detector, detect_each, ranked, suppress


class Ensemble:
    """Several detectors of the same classes as one, to be called like a `Detector`.

    Every model scores every window. The union of these scored windows, each model's by itself, goes
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
        # Of each model, which of its labels is the ensemble's label k.
        self._labels = [np.array([model.classes.index(name) for name in self.classes]) for model in models]

    def __call__(self, images: AnyImage | Sequence[AnyImage]) -> Detections | list[Detections]:
        """Detect in one image or a list of them; see `Detector.__call__`."""
        return detect_each(self.detect, images)

    @property
    def device(self) -> torch.device:
        """Where the first model computes."""
        return self.models[0].device

    def identity(self) -> str:
        """What tells its detections from those of another; see `Detector.identity`."""
        return " + ".join(model.identity() for model in self.models)

    @torch.inference_mode()
    def detect(self, image: RGB, windows: Boxes | None = None) -> Detections:
        """Detect in one RGB uint8 ``[H, W, 3]`` image, in its own ``[N, 4]`` windows or the given ones."""
        if windows is None:
            windows = self.propose(image)
        scored = [model.score(image, windows) for model in self.models]
        union = np.tile(windows, (len(scored), 1))  # [models * N, 4], model by model
        scores = np.concatenate(
            [own[:, labels] for (_, own), labels in zip(scored, self._labels, strict=True)]
        )
        kept, labels = suppress(union, scores, self.settings.detection)
        boxes, owner = union[kept], kept // max(1, len(windows))
        for index, (model, (vectors, _)) in enumerate(zip(self.models, scored, strict=True)):
            mine = np.flatnonzero(owner == index)
            own_labels = self._labels[index][labels[mine]]
            boxes[mine] = model.refine(boxes[mine], own_labels, vectors, kept[mine] - index * len(windows))
        return ranked(boxes, labels, scores[kept, labels], image)

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
