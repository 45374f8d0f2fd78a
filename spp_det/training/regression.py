"""Training the box regressors: windows near an object learn to move onto it (P section 4.1, R)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, decode_deltas, encode_deltas, iou
from spp_det.config import BoxRegression
from spp_det.errors import UserError
from spp_det.model.bbox import BoxRegressor, fit_ridge
from spp_det.training.windows import LabelledWindows

VERSION = 2  # of what is fitted to given examples, and of their mean norm; part of their cache keys
Fitted = dict[str, npt.NDArray[Any]]  # one class's ``weight`` and ``bias``, and ``left_out``: see `fit_ridge`


@dataclass(frozen=True, eq=False)
class Examples:
    """Boxes ``[n, 4]`` in one image, and the object ``[n, 4]`` that each is to be moved onto."""

    image: int
    boxes: Boxes
    objects: Boxes


def train_regressors(
    windows: Sequence[LabelledWindows],
    vectors_of: Callable[[int, Boxes], tuple[Tensor, Ints]],
    classes: tuple[str, ...],
    dimension: int,
    mean_norm: float,
    settings: BoxRegression,
    generator: np.random.Generator,
    once: Callable[[tuple[int, int], Callable[[], Fitted]], Fitted] = lambda _, fit: fit(),
) -> tuple[BoxRegressor, ...]:
    """Fit each class's regressor on windows that overlap one of its objects by ``settings.min_iou``.

    With two passes, a second regressor learns from the boxes that the first one makes of the same
    windows: those are closer to their objects, and what is left to be said of them is something else. Each
    is moved as it would be if its image were not in the training, or the second regressor would learn from
    better boxes than it is ever to see.

    Args:
        windows: the labelled windows of every training image.
        vectors_of: for boxes ``[n, 4]`` of an image, vectors ``[M, D]`` and the one of each ``[n]``.
        mean_norm: as for the SVMs; ``settings.ridge`` is meant for vectors of mean norm ``settings.norm``.
        generator: draws ``settings.max_windows`` examples where a class has more.
        once: gets (label, pass) and what fits that, and returns what that gives, or gave in an earlier run.

    Returns one regressor a pass.
    """
    pairs = [image.near(settings.min_iou) for image in windows]
    ridge = settings.ridge * (mean_norm / settings.norm) ** 2  # for the vectors as they are
    weights = torch.zeros(settings.passes, len(classes), 4, dimension)
    biases = torch.zeros(settings.passes, len(classes), 4)
    for label in range(len(classes)):
        examples = _draw(windows, pairs, label, settings.max_windows, generator)  # in every run alike
        for number in range(settings.passes):
            if not examples:
                break
            last = number == settings.passes - 1
            fitted = once((label, number), partial(_fit, examples, vectors_of, ridge, leave_out=not last))
            weights[number, label] = torch.from_numpy(fitted["weight"])
            biases[number, label] = torch.from_numpy(fitted["bias"])
            if not last:
                examples = _moved(examples, fitted["left_out"], settings.min_iou)
    return tuple(BoxRegressor(*parameters) for parameters in zip(weights, biases, strict=True))


def _fit(
    examples: Sequence[Examples],
    vectors_of: Callable[[int, Boxes], tuple[Tensor, Ints]],
    ridge: float,
    leave_out: bool,
) -> Fitted:
    """One class's regression; ``left_out`` if asked for, each image a group."""
    vectors: list[Tensor] = []
    vector_of, image_of = [], []
    for each in examples:
        found, found_of = vectors_of(each.image, each.boxes)
        vector_of.append(found_of + sum(map(len, vectors)))
        image_of.append(np.full(len(found), each.image))
        vectors.append(found.half())
    targets = np.concatenate([encode_deltas(each.boxes, each.objects) for each in examples])
    groups = np.concatenate(image_of) if leave_out else None
    fitted = fit_ridge(torch.cat(vectors), targets, ridge, np.concatenate(vector_of), groups)
    arrays: Fitted = {"weight": fitted.weight.numpy(), "bias": fitted.bias.numpy()}
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


def mean_vector_norm(images: Iterable[Tensor]) -> float:
    """Mean Euclidean norm of the vectors ``[n, D]`` of some images.

    Raises UserError where it is 0 or not finite: nothing can be learnt from such vectors.
    """
    norms = [vectors.norm(dim=1) for vectors in images]
    mean = float(torch.cat(norms).mean())
    if not 0 < mean < math.inf:
        raise UserError(f"backbone.weights: the features of the training images have mean norm {mean:g}")
    return mean
