"""The SPP-net detector: section 4.1 of the paper, one line a step, from `Detector.detect_batch` on.

The sizes in the comments: N windows of an image cover M distinct rectangles of cells of its conv5 maps, for
there are fewer rectangles than windows. Each rectangle is pooled to a vector of length D, 50 bins times the
channels, and scored for K classes. C pairs of a window and a class score enough, n of them are detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from os import PathLike
from typing import Protocol

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, clip
from spp_det.config.settings import Detection, Proposals
from spp_det.config.values import Precision
from spp_det.data.records import Detections
from spp_det.errors import UserError
from spp_det.images import RGB, as_image
from spp_det.model.bbox import BoxRegressor
from spp_det.model.features import ConvMap, WindowFeatures, images_at_once
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelParts, ModelSettings, fingerprint, load_parts, save_parts
from spp_det.model.second_look import look_again
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.suppression import ScoredBoxes, above, suppress
from spp_det.model.svm import LinearSVMs
from spp_det.model.vectors import WindowVectors
from spp_det.proposals.source import WindowSource

AnyImage = RGB | PIL.Image.Image | str | PathLike[str]
GIVE_WINDOWS = (
    "give the windows of the image, detector.detect(image, windows), or use the command spp-det detect"
)


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
        scorer: LinearSVMs | SoftmaxScorer,
        regressors: Sequence[BoxRegressor],
        settings: ModelSettings,
    ) -> None:
        """``head`` is None for scores of pool5. ``regressors``: none, one, or two for two looks."""
        if isinstance(scorer, SoftmaxScorer) != (settings.scorer == "softmax"):
            raise ValueError(f"the settings say {settings.scorer}, but the scorer is {type(scorer).__name__}")
        device = features.backbone.mean.device
        self.classes = tuple(classes)
        self.features = features
        self.head = None if head is None else head.to(device).at(features.backbone.precision)
        self.scorer = scorer.to(device)
        self.regressors = tuple(regressor.to(device) for regressor in regressors)
        self.settings = settings
        self.name = "the model"  # in errors; its file, where it was loaded from one

    # ------------------------------------------------------------ the steps

    @torch.inference_mode()
    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]:
        """Detect in several RGB uint8 ``[H, W, 3]`` images, in the ``[N, 4]`` windows given for each.

        Images of one size pass the network together: a GPU is then faster, and may round otherwise.
        """
        limits, detections = self.settings.detection, []
        all_maps = self.features.maps_of(images)  # conv5 [channels, h, w] of each whole image, once a scale
        for image, maps, own in zip(images, all_maps, windows, strict=True):
            found = self.scored_boxes(maps, own, limits)  # windows [C, 4], labels [C], scores [C]
            kept, scores = suppress(found.boxes, found.labels, found.scores, limits)  # [n], [n]
            boxes = self.refined(found, kept)  # [n, 4]
            detections.append(ranked(boxes, found.labels[kept], scores, image))
        return detections

    @torch.inference_mode()
    def scored_boxes(self, maps: Sequence[ConvMap], windows: Boxes, limits: Detection) -> ScoredBoxes:
        """The windows, of ``[N, 4]`` in one image, that score enough for a class; before suppression."""
        pool5, scores = self.score(maps, windows)  # [M, D], [N, K]
        found = above(limits.score_threshold, windows, scores, pool5)  # windows [C, 4]
        if len(self.regressors) == 2:  # not in the paper
            pool = partial(self.pool5, maps)
            found = look_again(found, pool, self.own_scores, self.regressors, limits)  # moved boxes [C', 4]
            self._check_finite("boxes", found.boxes)
        return found

    @torch.inference_mode()
    def score(self, maps: Sequence[ConvMap], windows: Boxes) -> tuple[WindowVectors, Floats]:
        """The pool5 vectors of windows ``[N, 4]`` on the maps of their image, and their scores ``[N, K]``."""
        on_maps = self.features.project(maps, windows)  # windows as rectangles of cells: [M, 4]
        pool5 = self.features.pool(maps, on_maps)  # spatial pyramid pooling: [M, D], made when asked for
        fc7 = pool5.through(self.head)  # fc layers: [M, 4096]; pool5 itself for a model without them
        scores = fc7.scores(self.scorer)  # SVMs, or fc8 and softmax: [M, K]
        of_windows: Floats = scores.cpu().numpy()[on_maps.of]  # [N, K]
        self._check_finite("scores", of_windows)
        return pool5, of_windows

    def pool5(self, maps: Sequence[ConvMap], windows: Boxes) -> WindowVectors:
        """The pool5 vectors ``[M, D]`` of windows ``[N, 4]``, as many at a time as the fc layers like."""
        self._check_finite("boxes", windows)
        vectors = self.features.vectors(maps, windows)
        return vectors if self.head is None else vectors.for_layers()

    def own_scores(self, pool5: Tensor, labels: Ints) -> Floats:
        """The score ``[n]`` of each vector ``[n, D]`` for one class ``[n]``."""
        scores = self.scorer.of_classes(pool5 if self.head is None else self.head(pool5), labels)
        self._check_finite("scores", scores)
        return scores

    @torch.inference_mode()
    def refined(self, found: ScoredBoxes, kept: Ints) -> Boxes:
        """The kept boxes ``[n, 4]``, each moved by its class's regression from the pool5 of its window."""
        if len(self.regressors) != 1:  # no regression, or a second look has moved the boxes already
            return found.boxes[kept]
        (regressor,) = self.regressors
        moved = regressor.move(found.pool5, found.windows[kept], found.labels[kept], found.boxes[kept])
        self._check_finite("boxes", moved)
        return moved

    def _check_finite(self, what: str, numbers: Floats) -> None:
        """Raise UserError where an answer is NaN or infinite: sums of finite weights may overflow."""
        if not np.isfinite(numbers).all():
            raise UserError(
                f"{self.name}: its {what} are not finite numbers; its weights are too large or damaged"
            )

    # ------------------------------------------------------------ calls, files

    def __call__(self, images: AnyImage | Iterable[AnyImage]) -> Detections | list[Detections]:
        """Detect in one image or a list of them: RGB uint8 ``[H, W, 3]`` arrays, PIL images or paths.

        A list gives a list, in order. Raises `UserError` for a file that cannot be read, and for a model
        trained on windows from elsewhere (see `detect`); ValueError for an array that is not an image.
        """
        return detect_each(self, images)

    def detect(self, image: RGB, windows: Boxes | None = None) -> Detections:
        """Detect in one RGB uint8 ``[H, W, 3]`` image, in the given ``[N, 4]`` windows.

        None: in the windows that the model's own search finds. Raises UserError where the model was trained
        on windows from a file or from Edge Boxes, which it cannot search for.
        """
        (found,) = self.detect_batch([image], [own_windows(self, image) if windows is None else windows])
        return found

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.features.backbone.mean.device

    @property
    def searches(self) -> tuple[Proposals, ...]:
        """How windows were searched for in the training."""
        return (self.settings.proposals,)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything into one safetensors file, whole or not at all. Equal models give equal bytes."""
        save_parts(path, self._parts())

    def identity(self) -> str:
        """A text that differs between detectors of other content, and between ways to compute."""
        precision = self.features.backbone.precision_name
        return f"{fingerprint(self._parts())} on {self.device.type} in {precision}"

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "cpu", precision: Precision = "auto") -> Detector:
        """Read a model file, to compute on a device (see `choose_device`) at a precision (see `Backbone.at`).

        Nothing in the file is executed. Raises `UserError` where the file is absent, damaged, of another
        version, or not ours, and for a device that is not there.
        """
        detector = cls(*load_parts(path, device, precision))
        detector.name = str(path)
        return detector

    def _parts(self) -> ModelParts:
        return ModelParts(self.classes, self.features, self.head, self.scorer, self.regressors, self.settings)


def ranked(boxes: Boxes, labels: Ints, scores: Floats, image: RGB) -> Detections:
    """Detections ``[n]`` clipped to their image, best score first."""
    boxes = clip(boxes, image.shape[1], image.shape[0])
    best = np.argsort(-scores, kind="stable")
    return Detections(boxes=boxes[best], labels=labels[best], scores=scores[best])


def label_of(classes: Sequence[str], name: str) -> int:
    """The label of a class by its name. Raises UserError, naming the known classes, for any other name."""
    if name not in classes:
        raise UserError(f"the model knows no class {name!r}; it knows {', '.join(classes)}")
    return classes.index(name)


# ---------------------------------------------------------------- what a detector and an ensemble share


class Detects(Protocol):
    """A `Detector`, or an `Ensemble` of several."""

    @property
    def device(self) -> torch.device: ...

    @property
    def searches(self) -> tuple[Proposals, ...]: ...

    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]: ...


def own_windows(detector: Detects, image: RGB) -> Boxes:
    """The windows ``[N, 4]`` of an image, searched for as in the detector's training.

    Raises UserError for a model that was trained on windows from elsewhere.
    """
    return WindowSource.of_model(detector.searches, GIVE_WINDOWS).windows(image)


def detect_each(detector: Detects, images: AnyImage | Iterable[AnyImage]) -> Detections | list[Detections]:
    """The detections in one image, or the list of those in each of several images."""
    if isinstance(images, str | PathLike | np.ndarray | PIL.Image.Image):
        (found,) = _detect_all(detector, [images])
        return found
    return list(_detect_all(detector, images))


def _detect_all(detector: Detects, images: Iterable[AnyImage]) -> Iterator[Detections]:
    rest = iter(images)
    while batch := [as_image(image) for image in islice(rest, images_at_once(detector.device))]:
        yield from detector.detect_batch(batch, [own_windows(detector, image) for image in batch])
