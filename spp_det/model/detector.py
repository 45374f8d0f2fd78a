"""The SPP-net detector (He et al., arXiv 1406.4729, section 4.1): one line is one step of the method.

Read `detect_on`, then `scored_boxes`, `score` and `refined`. The sizes in their comments: an image has N
windows, float32 ``[N, 4]`` as (x1, y1, x2, y2) in its pixels. Windows a few pixels apart may project to the
same rectangle of conv5 cells: N windows give M <= N distinct rectangles. Each is pooled once, to pool5, a
vector of D float32 numbers: bins of the pyramid (50 in the paper) times channels. Of the N x K pairs of a
window and a class, C score above the threshold; the n that survive non-maximum suppression are the
detections.
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
from spp_det.model.device_detection import DeviceDetection, fits_device
from spp_det.model.features import ConvMap, WindowFeatures, images_at_once
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelParts, ModelSettings, fingerprint, load_parts, save_parts
from spp_det.model.probability import Probabilities
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
        probability: Probabilities | None = None,
    ) -> None:
        """``head``: the fc layers; None where pool5 itself is scored. ``regressors``: none, one, which moves
        the detections, or two, for a second look at moved windows (`look_again`). ``probability``: what
        scores mean; None where no training has found that out."""
        if isinstance(scorer, SoftmaxScorer) != (settings.scorer == "softmax"):
            raise ValueError(f"the settings say {settings.scorer}, but the scorer is {type(scorer).__name__}")
        device = features.backbone.mean.device
        self.classes = tuple(classes)
        self.features = features
        self.head = None if head is None else head.to(device).at(features.backbone.precision)
        self.scorer = scorer.to(device)
        self.regressors = tuple(regressor.to(device) for regressor in regressors)
        self.settings = settings
        self.probability = probability
        self.name = "the model"  # in errors; its file, where it was loaded from one

    # ------------------------------------------------------------ the steps

    @torch.inference_mode()
    def detect_batch(self, images: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]:
        """Detect in several RGB uint8 ``[H, W, 3]`` images, in the ``[N, 4]`` windows given for each.

        Images of one size pass the network together, which is faster on a GPU and may change last bits there.
        """
        all_maps = self.features.maps_of(images)  # of each image, one conv5 map [channels, h, w] a scale
        if fits_device(self.features, windows):  # the same steps on a GPU, which nothing then waits for
            parts = self.features, self.head, self.scorer, self.regressors
            on_device = DeviceDetection(*parts, self.settings.detection, self._check_finite)
            return on_device(all_maps, windows, [image.shape[1::-1] for image in images])
        every = zip(images, all_maps, windows, strict=True)
        return [self.detect_on(maps, own, image.shape[1], image.shape[0]) for image, maps, own in every]

    @torch.inference_mode()
    def detect_on(self, maps: Sequence[ConvMap], windows: Boxes, width: int, height: int) -> Detections:
        """Detect in windows ``[N, 4]`` of an image of ``width x height`` pixels, of which there are maps."""
        limits = self.settings.detection
        found = self.scored_boxes(maps, windows, limits)  # boxes [C, 4], labels [C], scores [C]
        kept, scores = suppress(found.boxes, found.labels, found.scores, limits)  # rows of C: [n], [n]
        boxes = self.refined(found, kept)  # box regression: [n, 4]
        return ranked(boxes, found.labels[kept], scores, width, height)

    @torch.inference_mode()
    def scored_boxes(self, maps: Sequence[ConvMap], windows: Boxes, limits: Detection) -> ScoredBoxes:
        """The pairs of a window, of ``[N, 4]`` in one image, and a class whose score passes the threshold."""
        pool5, scores = self.score(maps, windows)  # [M, D], [N, K]
        found = above(limits.score_threshold, windows, scores, pool5)  # boxes [C, 4]
        if len(self.regressors) == 2:  # a second look, which is not in the paper: move, score and move again
            pool = partial(self.pool5, maps)
            found = look_again(found, pool, self.own_scores, self.regressors, limits)  # C' <= C best
            self._check_finite("boxes", found.boxes)
        return found

    @torch.inference_mode()
    def score(self, maps: Sequence[ConvMap], windows: Boxes) -> tuple[WindowVectors, Floats]:
        """The pool5 vectors of windows ``[N, 4]`` on the maps of their image, and their scores ``[N, K]``."""
        on_maps = self.features.project(maps, windows)  # choice of scale (P 4.1), appendix A: [M, 4]
        pool5 = self.features.pool(maps, on_maps)  # spatial pyramid pooling (P 2.2): [M, D], in chunks
        fc7 = pool5.through(self.head)  # fc layers: [M, 4096]; without a head, pool5 as it is
        scores = fc7.scores(self.scorer)  # SVMs, or fc8 and softmax: [M, K]
        of_windows: Floats = scores.cpu().numpy()[on_maps.of]  # every window has its rectangle's: [N, K]
        self._check_finite("scores", of_windows)
        return pool5, of_windows

    def pool5(self, maps: Sequence[ConvMap], windows: Boxes) -> WindowVectors:
        """The pool5 vectors ``[M, D]`` of windows ``[N, 4]``, in chunks that the fc layers take at once."""
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
        """The kept boxes ``[n, 4]``, each moved by its class's regressor, which reads the window's pool5."""
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

        Without windows, it searches for them as in its training. Raises UserError where the training read
        them from a file or took Edge Boxes, which cannot be repeated here.
        """
        (found,) = self.detect_batch([image], [own_windows(self, image) if windows is None else windows])
        return found

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.features.backbone.mean.device

    @property
    def searches(self) -> tuple[Proposals, ...]:
        """The settings of the search for windows in the training."""
        return (self.settings.proposals,)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything into one safetensors file, whole or not at all. Equal models give equal bytes."""
        save_parts(path, self._parts())

    def identity(self) -> str:
        """A text that changes with parameters, settings, kind of device and precision."""
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
        parts = (self.features, self.head, self.scorer, self.regressors, self.settings, self.probability)
        return ModelParts(self.classes, *parts)


def ranked(boxes: Boxes, labels: Ints, scores: Floats, width: int, height: int) -> Detections:
    """Detections ``[n]`` clipped to their image of ``width x height`` pixels, best score first."""
    boxes = clip(boxes, width, height)
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
    """The detections in one image, or a list with the detections in each of several images."""
    if isinstance(images, str | PathLike | np.ndarray | PIL.Image.Image):
        (found,) = _detect_all(detector, [images])
        return found
    return list(_detect_all(detector, images))


def _detect_all(detector: Detects, images: Iterable[AnyImage]) -> Iterator[Detections]:
    rest = iter(images)
    while batch := [as_image(image) for image in islice(rest, images_at_once(detector.device))]:
        yield from detector.detect_batch(batch, [own_windows(detector, image) for image in batch])
