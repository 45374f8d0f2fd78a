"""The SPP-net detector: the paper's section 4.1, one line a step, in `Detector.detect_batch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from spp_det.boxes import Boxes, Floats, Ints, clip, nms, soft_nms
from spp_det.config.settings import Detection
from spp_det.config.values import Precision
from spp_det.errors import UserError
from spp_det.images import RGB, as_image
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.features import (
    ConvMap,
    SPPFeatures,
    WindowFeatures,
    WindowVectors,
    images_at_once,
    maps_of_each,
)
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelFile, Settings, fingerprint, read_model, write_model
from spp_det.model.rcnn import RCNNFeatures
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs
from spp_det.proposals import selective_search
from spp_det.runtime.devices import choose_device

Scorer = LinearSVMs | SoftmaxScorer
AnyImage = RGB | PIL.Image.Image | str | PathLike[str]


SCORERS: dict[str, str] = {"svm": "svm", "softmax": "fc8"}
"""The values of ``scorer``, and what their weights are called in a model file."""

REGRESSORS = ("bbox", "bbox2")
"""What the regressors' weights are called there, pass by pass."""

SECOND_LOOK_IOU = 0.7  # of candidates that overlap more, the best one alone is looked at again
SECOND_LOOKS = 3  # for each detection of a class that there may be


class Detections(TypedDict):
    """What was found in one image, best score first."""

    boxes: Boxes  # float32 [N, 4] in pixels of the image
    labels: Ints  # int64 [N], indices into Detector.classes
    scores: Floats  # float32 [N], SVM margins or log-odds: above 0 the answer is yes


def select(detections: Detections, kept: npt.NDArray[np.bool_]) -> Detections:
    """Those detections ``[N]`` that are marked."""
    return Detections(
        boxes=detections["boxes"][kept], labels=detections["labels"][kept], scores=detections["scores"][kept]
    )


def label_of(classes: Sequence[str], name: str) -> int:
    """The label of a class by its name. Raises UserError, naming those there are, for any other name."""
    if name not in classes:
        raise UserError(f"the model knows no class {name!r}; it knows {', '.join(classes)}")
    return classes.index(name)


def features_of(backbone: Backbone, settings: Settings) -> WindowFeatures:
    """What the settings describe windows by, on the backbone's device."""
    if settings.features == "rcnn":
        return RCNNFeatures(backbone)
    return SPPFeatures.of(backbone, settings)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What one image's windows may show, before NMS.

    Attributes:
        places: float32 ``[M, 4]``: the boxes that NMS compares.
        labels: int64 ``[M]``, ascending.
        scores: float32 ``[M]``.
        boxes: the final boxes ``[n, 4]`` of candidates ``[n]``.
    """

    places: Boxes
    labels: Ints
    scores: Floats
    boxes: Callable[[Ints], Boxes]


def passing(scores: Floats, threshold: float) -> tuple[Ints, Ints]:
    """Windows ``[M]`` and labels ``[M]``, class by class, of the scores ``[N, K]`` above a threshold."""
    labels, windows = np.nonzero(threshold < scores.T)
    return windows, labels


def suppress(places: Boxes, labels: Ints, scores: Floats, limits: Detection) -> tuple[Ints, Floats]:
    """Which ``[n]`` of ``[M]`` candidates NMS leaves, class by class, and their scores ``[n]``."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if limits.soft_nms is not None:
            lowest, most = limits.score_threshold, limits.max_per_image
            kept, lowered = soft_nms(places[mine], scores[mine], limits.soft_nms, lowest, most)
        else:
            kept = nms(places[mine], scores[mine], limits.nms)[: limits.max_per_image]
            lowered = scores[mine[kept]]
        parts.append((mine[kept], lowered))
    return np.concatenate([kept for kept, _ in parts]), np.concatenate([lowered for _, lowered in parts])


def ranked(boxes: Boxes, labels: Ints, scores: Floats, image: RGB) -> Detections:
    """Detections ``[N]`` clipped to their image, best score first."""
    boxes = clip(boxes, image.shape[1], image.shape[0])
    best = np.argsort(-scores, kind="stable")
    return Detections(boxes=boxes[best], labels=labels[best], scores=scores[best])


class Detects(Protocol):
    """A `Detector`, or several as one."""

    @property
    def device(self) -> torch.device: ...

    def propose(self, image: RGB) -> Boxes: ...

    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]: ...


def detect_each(detector: Detects, images: AnyImage | Iterable[AnyImage]) -> Detections | list[Detections]:
    """What a detector finds in one image, or the list of what it finds in each of several."""
    if isinstance(images, str | PathLike | np.ndarray | PIL.Image.Image):
        (found,) = _detect_all(detector, [images])
        return found
    return list(_detect_all(detector, images))


def _detect_all(detector: Detects, images: Iterable[AnyImage]) -> Iterator[Detections]:
    rest = iter(images)
    while batch := [as_image(image) for image in islice(rest, images_at_once(detector.device))]:
        yield from detector.detect_batch(batch, [detector.propose(image) for image in batch])


class Detector:
    """Finds objects of known classes in images.

    >>> detector = Detector.load("model.safetensors")
    >>> found = detector("photo.jpg")  # or an RGB array, or a PIL image; a list of them gives a list
    >>> found["boxes"].shape[1], found["labels"].dtype, found["scores"].dtype
    (4, dtype('int64'), dtype('float32'))
    >>> names = [detector.classes[label] for label in found["labels"]]  # best score first
    """

    def __init__(
        self,
        classes: Sequence[str],
        features: WindowFeatures,
        head: FCHead | None,
        scorer: Scorer,
        regressors: Sequence[BoxRegressor],
        settings: Settings,
    ) -> None:
        """``regressors`` are none, one, or two for two passes (see `BoxRegression.passes`)."""
        if isinstance(scorer, SoftmaxScorer) != (settings.scorer == "softmax"):
            raise ValueError(f"the settings say {settings.scorer}, but the scorer is {type(scorer).__name__}")
        device = features.backbone.mean.device
        self.classes = tuple(classes)
        self.features = features
        self.head = None if head is None else head.to(device).at(features.backbone.precision)
        self.scorer = scorer.to(device)
        self.regressors = tuple(regressor.to(device) for regressor in regressors)
        self.settings = settings

    def __call__(self, images: AnyImage | Iterable[AnyImage]) -> Detections | list[Detections]:
        """Detect in one image or a list of them: RGB uint8 ``[H, W, 3]`` arrays, PIL images or paths.

        A list gives a list, in order. Raises `UserError` for a file that cannot be read, and for a model
        trained on windows from elsewhere (see `detect`); ValueError for an array that is not an image.
        """
        return detect_each(self, images)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.features.backbone.mean.device

    def detect(self, image: RGB, windows: Boxes | None = None) -> Detections:
        """Detect in one RGB uint8 ``[H, W, 3]`` image, in its own ``[N, 4]`` windows or the given ones.

        Raises UserError where none are given and the model was trained on windows from elsewhere.
        """
        (found,) = self.detect_batch([image], [self.propose(image) if windows is None else windows])
        return found

    @torch.inference_mode()
    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]:
        """Detect in several RGB uint8 ``[H, W, 3]`` images, in the ``[N, 4]`` windows given for each.

        Those of one size pass the network together, which a GPU gains by; how it rounds may then depend on
        who passes together.
        """
        detections, limits = [], self.settings.detection
        all_maps = maps_of_each(self.features, images)  # each whole image, once a scale
        for image, maps, own in zip(images, all_maps, windows, strict=True):
            found = self.candidates(maps, own, limits)
            kept, scores = suppress(found.places, found.labels, found.scores, limits)
            detections.append(ranked(found.boxes(kept), found.labels[kept], scores, image))
        return detections

    def propose(self, image: RGB, threads: int | None = None) -> Boxes:
        """The windows ``[N, 4]`` of an image, searched by so many threads (None: all).

        Raises UserError where the model was trained on windows from elsewhere.
        """
        search = self.settings.proposals
        if search.mode == "edgeboxes" or search.mode == "file":
            raise UserError(
                f"the model was trained on windows from elsewhere (proposals.mode is {search.mode}): give "
                "those of the image, detector.detect(image, windows), or use the command spp-det detect"
            )
        return selective_search(image, search.mode, search.max_side, threads)

    @torch.inference_mode()
    def candidates(self, maps: Sequence[ConvMap], windows: Boxes, limits: Detection) -> Candidates:
        """Every class of every one of an image's ``[N, 4]`` windows that scores enough."""
        vectors, scores = self.score(maps, windows)
        chosen, labels = passing(scores, limits.score_threshold)
        if len(self.regressors) > 1:
            return self._twice(maps, windows[chosen], labels, scores[chosen, labels], vectors, chosen, limits)

        def refined(kept: Ints) -> Boxes:
            return self._refine(0, windows[chosen[kept]], labels[kept], vectors, chosen[kept])

        return Candidates(windows[chosen], labels, scores[chosen, labels], refined)

    @torch.inference_mode()
    def score(self, maps: Sequence[ConvMap], windows: Boxes) -> tuple[WindowVectors, Floats]:
        """The pool5 vectors of ``[N, 4]`` windows on the maps of their image, and their scores ``[N, K]``."""
        vectors = self.features.vectors(maps, windows)  # pool5 [M, D], one a distinct rectangle of cells
        return vectors, vectors.through(self.head).scores(self.scorer).cpu().numpy()[vectors.of]

    def _twice(
        self,
        maps: Sequence[ConvMap],
        boxes: Boxes,
        labels: Ints,
        scores: Floats,
        vectors: WindowVectors,
        windows: Ints,
        limits: Detection,
    ) -> Candidates:
        """Look again at where the best candidates ``[M]`` are moved: the mean of both looks.

        Candidate i is window ``windows[i]`` of the vectors.
        """
        looked = Detection(nms=SECOND_LOOK_IOU, max_per_image=SECOND_LOOKS * limits.max_per_image)
        best, _ = suppress(boxes, labels, scores, looked)
        labels, scores = labels[best], scores[best]
        moved = self._refine(0, boxes[best], labels, vectors, windows[best])
        closer, again = self.score(maps, moved)
        rows = np.arange(len(moved))
        end = self._refine(1, moved, labels, closer, rows)
        places: Boxes = np.mean([moved, end], axis=0, dtype=np.float32)
        scores = np.mean([scores, again[rows, labels]], axis=0, dtype=np.float32)
        good = scores > limits.score_threshold
        places = places[good]
        return Candidates(places, labels[good], scores[good], lambda kept: places[kept])

    @torch.inference_mode()
    def _refine(self, which: int, boxes: Boxes, labels: Ints, vectors: WindowVectors, windows: Ints) -> Boxes:
        """Boxes ``[M, 4]`` moved by a regressor, if it is there: box i is window ``windows[i]``."""
        if which >= len(self.regressors):
            return boxes
        regressor = self.regressors[which]
        parts = vectors.in_chunks(vectors.of[windows], lambda v, at: regressor(v, labels[at], boxes[at]))
        return np.concatenate(parts)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything into one safetensors file, whole or not at all. Equal models give equal bytes."""
        write_model(path, self._contents())

    def identity(self) -> str:
        """What tells its detections from those of another: the model's content, and how it is computed."""
        precision = str(self.features.backbone.precision).removeprefix("torch.")
        return f"{fingerprint(self._contents())} on {self.device.type} in {precision}"

    def _contents(self) -> ModelFile:
        tensors = {f"backbone.{name}": t for name, t in self.features.backbone.layers.state_dict().items()}
        if self.head is not None:
            tensors |= {f"fc.{name}": tensor for name, tensor in self.head.layers.state_dict().items()}
        prefix = SCORERS[self.settings.scorer]
        tensors |= {f"{prefix}.weight": self.scorer.weight, f"{prefix}.bias": self.scorer.bias}
        for name, regressor in zip(REGRESSORS, self.regressors, strict=False):
            tensors |= {f"{name}.weight": regressor.weight, f"{name}.bias": regressor.bias}
        return ModelFile(self.classes, self.settings, self.features.backbone.geometry, tensors)

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "cpu", precision: Precision = "auto") -> Detector:
        """Read a model file onto a device (see `choose_device`), to compute
        at a precision (see `Backbone.at`). Nothing in the file is executed.

        Raises `UserError` where the file is absent, damaged, of another version, or not ours, and for a
        device that is not there.
        """
        chosen = choose_device(device)
        return read_model(path, lambda model: cls._assemble(model, chosen, precision))

    @classmethod
    def _assemble(cls, model: ModelFile, device: torch.device, precision: Precision) -> Detector:
        """Put the parts together; ValueError, KeyError or RuntimeError where they do not fit each other."""
        backbone = Backbone(model.settings.backbone.name)
        if model.geometry != backbone.geometry:
            raise ValueError(f"its {backbone.name} has another geometry than this version's")
        backbone.layers.load_state_dict(model.part("backbone."))
        features = features_of(backbone.to(device).at(precision), model.settings)
        fc = model.part("fc.")
        head = FCHead.from_state(fc, features.dimension) if fc else None
        if model.settings.fc.layer != ("pool5" if head is None else head.layer):
            raise ValueError(f"its layers do not end in {model.settings.fc.layer}")
        described = features.dimension if head is None else head.dimension
        softmax = model.settings.scorer == "softmax"
        prefix, rows = SCORERS[model.settings.scorer], len(model.classes) + softmax  # and the background
        shapes: dict[str, tuple[int, ...]] = {
            f"{prefix}.weight": (rows, described),
            f"{prefix}.bias": (rows,),
        }
        passes = [name for name in REGRESSORS if f"{name}.weight" in model.tensors]
        for name in passes:
            shapes[f"{name}.weight"] = (len(model.classes), 4, features.dimension)
            shapes[f"{name}.bias"] = (len(model.classes), 4)
        heads = {name: model.tensor(name, shape) for name, shape in shapes.items()}
        weight, bias = heads[f"{prefix}.weight"], heads[f"{prefix}.bias"]
        scorer = SoftmaxScorer(weight, bias) if softmax else LinearSVMs(weight, bias)
        regressors = [BoxRegressor(heads[f"{name}.weight"], heads[f"{name}.bias"]) for name in passes]
        return cls(model.classes, features, head, scorer, regressors, model.settings)
