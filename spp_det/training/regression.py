"""Training the box regressors: windows near an object learn to move onto it (P section 4.1, R)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, decode_deltas, encode_deltas, iou
from spp_det.config.settings import BoxRegression
from spp_det.errors import UserError
from spp_det.model.bbox import BoxRegressor, fit_ridge
from spp_det.runtime import distributed
from spp_det.training.windows import LabelledWindows

VERSION = 2  # of what is fitted to given examples, and of their mean norm; part of their cache keys
Which = tuple[int, int]  # a label, and a pass from 0
Fitted = Mapping[str, npt.NDArray[Any]]  # one class's ``weight`` and ``bias``, ``left_out``: see `fit_ridge`


class Kept(Protocol):
    """What was fitted before, such as a dictionary. Several processes ask it for the same at once, and are to
    be told the same."""

    def get(self, which: Which, /) -> Fitted | None:
        """None where it was not fitted."""

    def __setitem__(self, which: Which, fitted: Fitted, /) -> None:
        """Keep what was fitted."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Boxes ``[n, 4]`` in one image, and the object ``[n, 4]`` that each is to be moved onto."""

    image: int
    boxes: Boxes
    objects: Boxes


VectorsOf = Callable[[Sequence[tuple[int, Boxes]]], Iterable[tuple[Tensor, Ints]]]


def train_regressors(
    windows: Sequence[LabelledWindows],
    vectors_of: VectorsOf,
    classes: tuple[str, ...],
    dimension: int,
    mean_norm: float,
    settings: BoxRegression,
    generator: np.random.Generator,
    kept: Kept | None = None,
) -> tuple[BoxRegressor, ...]:
    """Fit each class's regressor on windows that overlap one of its objects by ``settings.min_iou``.

    With two passes, a second regressor learns from the boxes that the first one makes of the same
    windows: those are closer to their objects, and what is left to be said of them is something else. Each
    is moved as it would be if its image were not in the training, or the second regressor would learn from
    better boxes than it is ever to see.

    Several processes fit a class each at a time, and all end with all.

    Args:
        windows: the labelled windows of every training image.
        vectors_of: for images with boxes ``[n, 4]`` each, vectors ``[M, D]`` and the one of each box ``[n]``,
            image by image.
        mean_norm: as for the SVMs; ``settings.ridge`` is meant for vectors of mean norm ``settings.norm``.
        generator: draws ``settings.max_windows`` examples where a class has more.
        kept: is asked for each (label, pass), and given what was not there; None forgets.

    Returns one regressor a pass.
    """
    pairs = [image.near(settings.min_iou) for image in windows]
    ridge = settings.ridge * (mean_norm / settings.norm) ** 2  # for the vectors as they are
    weights = torch.zeros(settings.passes, len(classes), 4, dimension)
    biases = torch.zeros(settings.passes, len(classes), 4)
    kept = {} if kept is None else kept
    processes = distributed.world_size()
    for first in range(0, len(classes), processes):
        labels = range(first, min(first + processes, len(classes)))
        drawn = {label: _draw(windows, pairs, label, settings.max_windows, generator) for label in labels}
        for number in range(settings.passes):
            drawn = {label: examples for label, examples in drawn.items() if examples}
            last = number == settings.passes - 1
            for label, fitted in _fitted(drawn, number, vectors_of, ridge, not last, kept).items():
                weights[number, label] = torch.from_numpy(fitted["weight"])
                biases[number, label] = torch.from_numpy(fitted["bias"])
                if not last:
                    drawn[label] = _moved(drawn[label], fitted["left_out"], settings.min_iou)
    return tuple(BoxRegressor(*parameters) for parameters in zip(weights, biases, strict=True))


def _fitted(
    drawn: Mapping[int, Sequence[Examples]],
    number: int,
    vectors_of: VectorsOf,
    ridge: float,
    leave_out: bool,
    kept: Kept,
) -> dict[int, Fitted]:
    """One pass's regressions of some classes: kept, or fitted by a process each."""
    found = {}
    for label, examples in drawn.items():
        fitted, count = kept.get((label, number)), sum(len(each.boxes) for each in examples)
        if fitted is not None and (not leave_out or len(fitted["left_out"]) == count):
            found[label] = fitted
    missing = [label for label in drawn if label not in found]
    rank, mine = distributed.rank(), []
    for owner, label in enumerate(missing):  # all are collected before any is fitted: nobody waits for a fit
        vectors = vectors_of([(each.image, each.boxes) for each in drawn[label]])
        if owner == rank:
            mine = [(part.half(), of) for part, of in vectors]
        else:
            deque(vectors, maxlen=0)  # sends what is of this process's images
    own = [_fit(drawn[label], mine, ridge, leave_out) for label in missing[rank : rank + 1]]
    results = distributed.in_order(own, range(len(missing)))
    for label, fitted in zip(missing, results, strict=True):
        kept[label, number] = found[label] = fitted
    return found


def _fit(
    examples: Sequence[Examples], parts: Sequence[tuple[Tensor, Ints]], ridge: float, leave_out: bool
) -> Fitted:
    """One class's regression on the vectors of each image's boxes; ``left_out`` if asked for, each image a
    group."""
    vectors = torch.cat([part for part, _ in parts])
    counts = [len(part) for part, _ in parts]
    starts = np.cumsum(counts) - counts
    vector_of = np.concatenate([of + start for (_, of), start in zip(parts, starts, strict=True)])
    groups = np.repeat([each.image for each in examples], counts) if leave_out else None
    targets = np.concatenate([encode_deltas(each.boxes, each.objects) for each in examples])
    fitted = fit_ridge(vectors, targets, ridge, vector_of, groups)
    arrays = {"weight": fitted.weight.numpy(), "bias": fitted.bias.numpy()}
    return arrays if fitted.left_out is None else arrays | {"left_out": fitted.left_out}


def _moved(examples: Sequence[Examples], deltas: Floats, min_iou: float) -> list[Examples]:
    """The examples with their boxes moved by ``[all of them, 4]``, those that still overlap their object."""
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
    """At most that many windows near objects of a class, image by image."""
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


def mean_vector_norm(images: Iterable[Tensor], owners: Sequence[int] = ()) -> float:
    """Mean Euclidean norm of the vectors ``[n, D]`` of some images.

    Of several processes each gives those of its own images; ``owners`` are the ranks of all. Raises UserError
    where it is 0 or not finite: nothing can be learnt from such vectors.
    """
    own = ({"norms": vectors.norm(dim=1).cpu().numpy()} for vectors in images)
    norms = [found["norms"] for found in distributed.in_order(own, owners)]
    mean = float(torch.from_numpy(np.concatenate(norms)).mean())
    if not 0 < mean < math.inf:
        raise UserError(f"backbone.weights: the features of the training images have mean norm {mean:g}")
    return mean
