"""The SPP-net detector: the paper's section 4.1, one line a step, in `Detector.detect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import PIL.Image
import safetensors
import torch
from safetensors.torch import save

from spp_det.boxes import Boxes, Floats, Ints, clip, nms
from spp_det.config import Backbone as BackboneConfig
from spp_det.config import Detection, Proposals, Pyramid
from spp_det.errors import UserError
from spp_det.images import RGB, as_image
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.features import SPPFeatures
from spp_det.model.svm import LinearSVMs
from spp_det.proposals import selective_search

FORMAT = 1  # of the model file

AnyImage = RGB | PIL.Image.Image | str | PathLike[str]


class Detections(TypedDict):
    """What was found in one image, best score first."""

    boxes: Boxes  # float32 [N, 4] in pixels of the image
    labels: Ints  # int64 [N], indices into Detector.classes
    scores: Floats  # float32 [N], SVM margins: above 0 the SVM says yes


@dataclass(frozen=True)
class Settings:
    """What a model file records beside its weights: everything that detection depends on."""

    proposals: Proposals
    backbone: BackboneConfig
    pyramid: Pyramid
    detection: Detection


class Detector:
    """Finds objects of known classes in images.

    >>> detector = Detector.load("model.safetensors")          # doctest: +SKIP
    >>> found = detector("photo.jpg")                          # doctest: +SKIP
    >>> detector.classes[found["labels"][0]], found["boxes"][0], found["scores"][0]   # doctest: +SKIP
    """

    def __init__(
        self,
        classes: Sequence[str],
        features: SPPFeatures,
        svms: LinearSVMs,
        regressor: BoxRegressor | None,
        settings: Settings,
    ) -> None:
        self.classes = tuple(classes)
        self.features = features
        self.svms = svms
        self.regressor = regressor
        self.settings = settings

    def __call__(self, images: AnyImage | Sequence[AnyImage]) -> Detections | list[Detections]:
        """Detect in one image or a list of them: RGB uint8 ``[H, W, 3]`` arrays, PIL images or paths.

        A list gives a list, in order. Raises `UserError` for a file that cannot be read and ValueError
        for an array that is not an image.
        """
        if isinstance(images, str | PathLike | np.ndarray | PIL.Image.Image):
            return self.detect(as_image(images))
        return [self.detect(as_image(image)) for image in images]

    @torch.inference_mode()
    def detect(self, image: RGB, windows: Boxes | None = None) -> Detections:
        """Detect in one RGB uint8 ``[H, W, 3]`` image, in its own ``[N, 4]`` windows or the given ones."""
        if windows is None:
            windows = selective_search(image, self.settings.proposals.mode, self.settings.proposals.max_side)
        maps = self.features.maps(image)  # the whole image, once a scale
        vectors, vector_of = self.features.pool(maps, windows)  # [M, D], one a distinct rectangle of cells
        scores = self.svms(vectors).cpu().numpy()[vector_of]  # [N, K]
        kept, labels = self._suppress(windows, scores)
        boxes = windows[kept]
        if self.regressor is not None:
            boxes = self.regressor(vectors[torch.from_numpy(vector_of[kept]).to(vectors.device)], labels, boxes)
        boxes = clip(boxes, image.shape[1], image.shape[0])
        return Detections(boxes=boxes, labels=labels, scores=scores[kept, labels])

    def _suppress(self, windows: Boxes, scores: Floats) -> tuple[Ints, Ints]:
        """Windows ``[M]`` and labels ``[M]`` left after threshold and NMS of each class, best first."""
        kept, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        settings = self.settings.detection
        for label in range(len(self.classes)):
            passing = np.flatnonzero(scores[:, label] > settings.score_threshold)
            best = nms(windows[passing], scores[passing, label], settings.nms)[: settings.max_per_image]
            kept.append(passing[best])
            labels.append(np.full(len(best), label, np.int64))
        window, label_of = np.concatenate(kept), np.concatenate(labels)
        order = np.argsort(-scores[window, label_of], kind="stable")
        return window[order], label_of[order]

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything into one safetensors file, whole or not at all."""
        from spp_det.cache import write_whole

        write_whole(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The model file's contents; equal models give equal bytes."""
        tensors = {f"backbone.{name}": t for name, t in self.features.backbone.layers.state_dict().items()}
        tensors |= {"svm.weight": self.svms.weight, "svm.bias": self.svms.bias}
        if self.regressor is not None:
            tensors |= {"bbox.weight": self.regressor.weight, "bbox.bias": self.regressor.bias}
        metadata = {
            "format": f"spp_det {FORMAT}",
            "classes": json.dumps(self.classes),
            "geometry": json.dumps(vars(self.features.backbone.geometry)),
            "settings": json.dumps({k: s.model_dump(mode="json") for k, s in vars(self.settings).items()}),
        }
        return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "cpu") -> Detector:
        """Read a model file. Nothing in it is executed.

        Raises UserError where the file is absent, damaged, of another version, or not ours.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise UserError(f"no such model: {path}") from None
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is not a model of spp_det, or damaged: {error}") from error
        if metadata.get("format") != f"spp_det {FORMAT}":
            raise UserError(
                f"{path} is not a model that this version reads: "
                f"its format is {metadata.get('format')!r}, not 'spp_det {FORMAT}'"
            )
        try:
            return cls._assemble(metadata, tensors, torch.device(device))
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is a damaged model: {type(error).__name__}: {reason}") from error

    @classmethod
    def _assemble(cls, metadata: dict[str, str], tensors: dict[str, torch.Tensor], device: torch.device) -> Detector:
        tree: dict[str, Any] = json.loads(metadata["settings"])
        settings = Settings(
            Proposals(**tree["proposals"]),
            BackboneConfig(**tree["backbone"]),
            Pyramid(**tree["pyramid"]),
            Detection(**tree["detection"]),
        )
        backbone = Backbone(settings.backbone.name)
        if json.loads(metadata["geometry"]) != vars(backbone.geometry):
            raise ValueError(f"its {backbone.name} has another geometry than this version's")
        prefix = "backbone."
        backbone.layers.load_state_dict(
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        )
        features = build_features(backbone.to(device), settings)
        classes = json.loads(metadata["classes"])
        svms = LinearSVMs(tensors["svm.weight"].to(device), tensors["svm.bias"].to(device))
        if svms.weight.shape != (features.dimension, len(classes)) or svms.bias.shape != (len(classes),):
            raise ValueError("the SVMs do not fit the backbone and the classes")
        regressor = None
        if "bbox.weight" in tensors:
            regressor = BoxRegressor(tensors["bbox.weight"].to(device), tensors["bbox.bias"].to(device))
            if regressor.weight.shape != (len(classes), features.dimension, 4):
                raise ValueError("the box regressor does not fit the backbone and the classes")
        return cls(classes, features, svms, regressor, settings)


def build_features(backbone: Backbone, settings: Settings) -> SPPFeatures:
    """The window features that the settings describe, on the backbone's device."""
    return SPPFeatures(
        backbone,
        settings.backbone.scales,
        settings.backbone.max_side,
        settings.pyramid.levels,
        settings.pyramid.mode,
    )
