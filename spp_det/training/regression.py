"""Training the box regressors: windows near an object learn to move onto it (P section 4.1, R)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, decode_deltas, encode_deltas, iou
from spp_det.config.settings import BoxRegression
from spp_det.errors import UserError
from spp_det.model.bbox import BoxRegressor, centred_products, fit_ridge
from spp_det.runtime.cache import Arrays, check_form, digest
from spp_det.runtime.devices import has_room
from spp_det.runtime.progress import track
from spp_det.runtime.sharing import Shared, rounds, share, shared_map
from spp_det.runtime.threads import on_one_core
from spp_det.training.checkpoint import CommonCache
from spp_det.training.folds import Folds
from spp_det.training.windows import LabelledWindows

CPU = torch.device("cpu")
MOST_BYTES = 2**30  # of the vectors and products that regressions of several ridges share
Which = tuple[int, int]  # a label, and a pass from 0
Fitted = Mapping[str, npt.NDArray[Any]]  # one class's ``weight``, ``bias``, ``left_out`` ...: see `fit_ridge`


class CachedRegressors:
    """Regressors on vectors ``[D]`` that were fitted in earlier runs, as artefacts of the cache."""

    def __init__(self, cache: CommonCache, key: str, dimension: int, passes: int, folds: int = 0) -> None:
        self.cache = cache
        self.key = key
        self.dimension = dimension
        self.passes = passes
        self.folds = folds

    def get(self, which: Which) -> Fitted | None:
        """The regressor; None where it is absent or damaged."""

        def check(arrays: Arrays) -> None:
            weight = np.broadcast_to(np.float32(0), (4, self.dimension))
            fold_weight = np.broadcast_to(np.float32(0), (self.folds, 4, self.dimension))
            fold_bias = np.zeros((self.folds, 4), np.float32)
            check_form(arrays, weight=weight, bias=np.zeros(4, np.float32))
            check_form(arrays, fold_weight=fold_weight, fold_bias=fold_bias)
            left_out = arrays.get("left_out")
            if which[1] < self.passes - 1 and (left_out is None or left_out.shape[1:] != (4,)):
                raise ValueError("left_out is not [n, 4]")

        return self.cache.load_checked("regressors", digest(self.key, which), check)

    def __setitem__(self, which: Which, fitted: Fitted) -> None:
        """Keep a regressor."""
        self.cache.store("regressors", digest(self.key, which), fitted)


@dataclass(frozen=True, eq=False)
class Examples:
    """Boxes ``[n, 4]`` in one image, and the object ``[n, 4]`` that each box is to be moved onto."""

    image: int
    boxes: Boxes
    objects: Boxes


@dataclass(frozen=True, eq=False)
class Pooled:
    """What a class's examples are pooled to, for regressions of any ridge.

    Attributes:
        vectors: float16 ``[m, D]``.
        vector_of: int64 ``[n]``, the vector of each example.
        image_of: int64 ``[m]``, the image of each vector.
        gram: float64 ``[m, m]``; see `centred_products`. None: to be made for a single regression.
    """

    vectors: Tensor
    vector_of: Ints
    image_of: Ints
    gram: Tensor | None = None

    @property
    def bytes(self) -> int:
        """The memory that vectors and products take."""
        return 2 * self.vectors.numel() + (0 if self.gram is None else 8 * self.gram.numel())


VectorsOf = Callable[[Sequence[tuple[int, Boxes]]], Iterable[tuple[Tensor, Ints]]]


def train_regressors(
    windows: Sequence[LabelledWindows],
    vectors_of: VectorsOf,
    classes: tuple[str, ...],
    dimension: int,
    mean_norm: float,
    settings: BoxRegression,
    generator: np.random.Generator,
    kept: dict[Which, Fitted] | CachedRegressors | None = None,
    folds: Folds | None = None,
    device: torch.device = CPU,
    pooled_first: dict[int, Pooled] | None = None,
) -> list[tuple[BoxRegressor, ...]]:
    """Fit each class's regressor on windows that overlap one of its objects by ``settings.min_iou``.

    With two passes, a second regressor learns from the boxes that the first regressor makes of the same
    windows: these boxes are closer to their objects, and need other corrections. Each box is moved by a
    regressor that has not learnt from the box's image: otherwise the second regressor would learn from better
    boxes than it meets in detection.

    Several processes fit one class each at a time, and all end with all regressors.

    Args:
        windows: the labelled windows of every training image.
        vectors_of: gives, for images with boxes ``[n, 4]`` each, the vectors ``[M, D]`` of each image and
            the row ``[n]`` of each box.
        mean_norm: as for the SVMs; ``settings.ridge`` is meant for vectors of mean norm ``settings.norm``.
        generator: draws ``settings.max_windows`` examples where a class has more.
        kept: holds regressors by (label, pass): missing ones are fitted and added. None keeps nothing.
        folds: of the images; None: there are none.
        device: where a class is fitted, if its memory suffices, else on the CPU.
        pooled_first: filled with the vectors and products of each class's first pass, as far as `MOST_BYTES`
            hold them. A later call with another ridge, but a generator in the same state, reads them instead
            of making them. For a single process, and without ``kept``.

    Returns one regressor for each pass; then, for each fold, those that have not learnt from its images.
    """
    pairs = [image.near(settings.min_iou) for image in windows]
    ridge = settings.ridge * (mean_norm / settings.norm) ** 2  # for the vectors as they are
    folds = folds or Folds.none(len(windows))
    weights = torch.zeros(1 + folds.count, settings.passes, len(classes), 4, dimension)
    biases = torch.zeros(1 + folds.count, settings.passes, len(classes), 4)
    kept = {} if kept is None else kept
    for labels in rounds(range(len(classes))):
        drawn = {label: _draw(windows, pairs, label, settings.max_windows, generator) for label in labels}
        for number in range(settings.passes):
            drawn = {label: examples for label, examples in drawn.items() if examples}
            last = number == settings.passes - 1
            pooled = pooled_first if number == 0 else None
            fits = _fitted(drawn, number, vectors_of, ridge, not last, kept, folds, device, pooled)
            for label, fitted in fits.items():
                weights[0, number, label] = torch.from_numpy(fitted["weight"])
                biases[0, number, label] = torch.from_numpy(fitted["bias"])
                weights[1:, number, label] = torch.from_numpy(fitted["fold_weight"])
                biases[1:, number, label] = torch.from_numpy(fitted["fold_bias"])
                if not last:
                    drawn[label] = moved_examples(drawn[label], fitted["left_out"], settings.min_iou)
    return [
        tuple(BoxRegressor(*parameters) for parameters in zip(*passes, strict=True))
        for passes in zip(weights, biases, strict=True)
    ]


def _fitted(
    drawn: Mapping[int, Sequence[Examples]],
    number: int,
    vectors_of: VectorsOf,
    ridge: float,
    leave_out: bool,
    kept: dict[Which, Fitted] | CachedRegressors,
    folds: Folds,
    device: torch.device,
    pooled_before: dict[int, Pooled] | None,
) -> dict[int, Fitted]:
    """The regressors of some classes in one pass: kept ones, and new ones, each fitted by one process.

    ``pooled_before`` is read and filled as ``pooled_first`` of `train_regressors`; None keeps nothing.
    """
    found = {}
    for label, examples in drawn.items():
        fitted, count = kept.get((label, number)), sum(len(each.boxes) for each in examples)
        if fitted is not None and (not leave_out or len(fitted["left_out"]) == count):
            found[label] = fitted
    missing = [label for label in drawn if label not in found]
    parts, known = {}, pooled_before or {}
    own = set(share(missing).own)
    for label in missing:  # all vectors are collected before any fit, so that no process waits for a fit
        if label in known:
            continue
        vectors = vectors_of([(each.image, each.boxes) for each in drawn[label]])
        if label in own:
            parts[label] = [(part.half(), of) for part, of in vectors]
        else:
            deque(vectors, maxlen=0)  # only to send the vectors of this process's images

    def fit(label: int) -> Fitted:
        pooled = known.get(label) or _pooled(drawn[label], parts.pop(label), leave_out, device)
        if pooled_before is not None and label not in known:
            pooled = replace(pooled, gram=centred_products(pooled.vectors, pooled.vector_of))
            if sum(each.bytes for each in (pooled, *pooled_before.values())) <= MOST_BYTES:
                pooled_before[label] = pooled
        return _fit(drawn[label], pooled, ridge, leave_out, folds)

    results = shared_map(fit, missing)
    for label, fitted in zip(missing, results, strict=True):
        kept[label, number] = found[label] = fitted
    return found


def _pooled(
    examples: Sequence[Examples],
    parts: Sequence[tuple[Tensor, Ints]],
    leave_out: bool,
    device: torch.device,
) -> Pooled:
    """The vectors of each image's boxes put together, on the device if there is room for the regression."""
    vectors = torch.cat([part for part, _ in parts])
    squares = 5 if leave_out else 3  # m x m matrices in float64 at a time: the factors, an inverse, a copy
    if has_room(device, squares * 8 * len(vectors) ** 2 + 2 * vectors.numel()):
        vectors = vectors.to(device)
    counts = [len(part) for part, _ in parts]
    starts = np.cumsum(counts) - counts
    vector_of = np.concatenate([of + start for (_, of), start in zip(parts, starts, strict=True)])
    return Pooled(vectors, vector_of, np.repeat([each.image for each in examples], counts))


def _fit(examples: Sequence[Examples], pooled: Pooled, ridge: float, leave_out: bool, folds: Folds) -> Fitted:
    """The regression of one class; see `fit_ridge` for its names."""
    groups = pooled.image_of if leave_out else None
    targets = np.concatenate([encode_deltas(each.boxes, each.objects) for each in examples])
    fitted = fit_ridge(
        pooled.vectors,
        targets,
        ridge,
        pooled.vector_of,
        groups,
        folds.of[pooled.image_of],
        folds.count,
        pooled.gram,
    )
    names = ("weight", "bias", "fold_weight", "fold_bias")
    arrays = {name: getattr(fitted, name).cpu().numpy() for name in names}
    return arrays if fitted.left_out is None else arrays | {"left_out": fitted.left_out}


def moved_examples(examples: Sequence[Examples], deltas: Floats, min_iou: float) -> list[Examples]:
    """The examples with their boxes moved, without boxes that then overlap their object too little.

    ``deltas`` are ``[n, 4]`` for the n boxes of all examples.
    """
    found, start = [], 0
    for each in examples:
        boxes = decode_deltas(each.boxes, deltas[start : start + len(each.boxes)])
        start += len(boxes)
        near = np.diagonal(iou(boxes, each.objects)) >= min_iou
        if near.any():
            found.append(Examples(each.image, boxes[near], each.objects[near]))
    return found


def _draw(
    windows: Sequence[LabelledWindows],
    pairs: Sequence[tuple[Ints, Ints]],
    label: int,
    most: int,
    generator: np.random.Generator,
) -> list[Examples]:
    """At most ``most`` windows near objects of a class, image by image."""
    found: list[Examples] = []
    for image, (index, objects) in enumerate(pairs):
        mine = windows[image].record.labels[objects] == label
        if mine.any():
            boxes = windows[image].boxes  # objects come first among them
            found.append(Examples(image, boxes[index[mine]], boxes[objects[mine]]))
    total = sum(len(each.boxes) for each in found)
    if total <= most:
        return found
    keep = np.zeros(total, bool)
    keep[generator.choice(total, most, replace=False)] = True
    parts = np.split(keep, np.cumsum([len(each.boxes) for each in found])[:-1])
    drawn = zip(found, parts, strict=True)
    return [Examples(e.image, e.boxes[part], e.objects[part]) for e, part in drawn if part.any()]


def mean_vector_norm(images: Shared[Tensor]) -> float:
    """Mean Euclidean norm of the vectors ``[n, D]`` of some images.

    Raises UserError where the mean is 0 or not finite: nothing can be learnt from such vectors.
    """
    found = images.map(lambda v: {"norms": on_one_core(lambda: v.norm(dim=1)).cpu().numpy()})
    norms = [each["norms"] for each in track(found, "length of the vectors", len(images))]
    mean = float(np.concatenate(norms).mean(dtype=np.float64))
    if not 0 < mean < math.inf:
        raise UserError(f"backbone.weights: the features of the training images have mean norm {mean:g}")
    return mean
