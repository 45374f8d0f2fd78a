"""The coordinate convention, and everything that is computed from box coordinates alone.

A box is ``(x1, y1, x2, y2)`` in pixels of the original image, 0-based and half-open: it covers the
pixels ``x1 <= x < x2``, so its width is ``x2 - x1`` and nothing is ever "+1". Arrays of boxes are
float32 ``[N, 4]``; an array without boxes is ``[0, 4]``. Readers of files convert other conventions.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torchvision

Boxes = npt.NDArray[np.float32]  # [N, 4]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

F = TypeVar("F", np.float32, np.float64)  # results have the precision of the arguments


def as_boxes(values: npt.ArrayLike) -> Boxes:
    """Any nested sequence of boxes as float32 ``[N, 4]``; an empty sequence as ``[0, 4]``.

    Raises ValueError where the values are not rows of four.

    >>> as_boxes([(10, 20, 30, 60)])
    array([[10., 20., 30., 60.]], dtype=float32)
    >>> as_boxes([]).shape
    (0, 4)
    """
    boxes = np.asarray(values, dtype=np.float32)
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape [N, 4], got {list(boxes.shape)}")
    return boxes


def area(boxes: npt.NDArray[F]) -> npt.NDArray[F]:
    """``[N, 4] -> [N]`` areas in square pixels; an inverted or empty box has area 0.

    >>> area(as_boxes([(10, 20, 30, 60), (5, 5, 5, 9)])).tolist()
    [800.0, 0.0]
    """
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: npt.NDArray[F] = size[:, 0] * size[:, 1]
    return areas


def intersection(a: npt.NDArray[F], b: npt.NDArray[F]) -> npt.NDArray[F]:
    """``[N, 4], [M, 4] -> [N, M]`` areas of the pairwise intersections in square pixels.

    >>> intersection(as_boxes([(0, 0, 10, 10)]), as_boxes([(5, 0, 15, 10), (10, 0, 20, 10)])).tolist()
    [[50.0, 0.0]]
    """
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])  # [N, M, 2]
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])  # [N, M, 2]
    size = np.maximum(bottom_right - top_left, 0)
    areas: npt.NDArray[F] = size[..., 0] * size[..., 1]
    return areas


def iou(a: npt.NDArray[F], b: npt.NDArray[F]) -> npt.NDArray[F]:
    """``[N, 4], [M, 4] -> [N, M]`` intersection over union in [0, 1]; 0 where both boxes are empty.

    On boxes read from Pascal VOC this equals the devkit's overlap of inclusive boxes.

    >>> iou(as_boxes([(0, 0, 10, 10)]), as_boxes([(0, 0, 10, 10), (5, 0, 10, 10), (10, 0, 20, 10)]))
    array([[1. , 0.5, 0. ]], dtype=float32)
    """
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    ratio: npt.NDArray[F] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def exact_iou(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Doubles:
    """`iou` in float64, to compare with thresholds: in float32 7/10 is less than 0.7.

    >>> window, target = as_boxes([(0, 0, 7, 10)]), as_boxes([(0, 0, 10, 10)])
    >>> bool(iou(window, target) >= np.float64(0.7)), bool(exact_iou(window, target) >= 0.7)
    (False, True)
    """
    return iou(a.astype(np.float64), b.astype(np.float64))


def clip(boxes: Boxes, width: float, height: float) -> Boxes:
    """A copy of ``[N, 4]`` boxes with every corner moved inside an image of ``width x height`` pixels.

    >>> clip(as_boxes([(-5, 10, 700, 90)]), width=640, height=480).tolist()
    [[0.0, 10.0, 640.0, 90.0]]
    """
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def encode_deltas(boxes: Boxes, targets: Boxes) -> Floats:
    """Regression targets ``(dx/w, dy/h, log dw, log dh)`` that move each box onto its target.

    ``[N, 4], [N, 4] -> [N, 4]``, both of positive size (R-CNN, appendix C). Inverse:
    ``decode_deltas(boxes, encode_deltas(boxes, targets)) == targets``.

    >>> window, target = as_boxes([(0, 0, 10, 20)]), as_boxes([(1, 0, 11, 20)])
    >>> encode_deltas(window, target)
    array([[0.1, 0. , 0. , 0. ]], dtype=float32)
    >>> decode_deltas(window, encode_deltas(window, target)).tolist()
    [[1.0, 0.0, 11.0, 20.0]]
    """
    size = boxes[:, 2:] - boxes[:, :2]
    target_size = targets[:, 2:] - targets[:, :2]
    centre = boxes[:, :2] + size / 2
    target_centre = targets[:, :2] + target_size / 2
    return np.concatenate([(target_centre - centre) / size, np.log(target_size / size)], axis=1)


MAX_LOG_GROWTH = 4.0  # a regressed side grows or shrinks at most e^4 = 55 times, so exp() stays finite


def decode_deltas(boxes: Boxes, deltas: Floats) -> Boxes:
    """Apply ``[N, 4]`` regression deltas to ``[N, 4]`` boxes; the inverse of `encode_deltas`."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + size / 2 + deltas[:, :2] * size
    new_size = size * np.exp(np.clip(deltas[:, 2:], -MAX_LOG_GROWTH, MAX_LOG_GROWTH))
    return np.concatenate([centre - new_size / 2, centre + new_size / 2], axis=1)


def nms(boxes: Boxes, scores: Floats, threshold: float) -> Ints:
    """Greedy non-maximum suppression of one class.

    ``[N, 4], [N] -> [M]`` indices of the kept boxes, best score first. A box is suppressed when its IoU with
    a kept box is greater than ``threshold``. Boxes of equal score keep the order of the input.

    >>> boxes = as_boxes([(0, 0, 10, 10), (1, 0, 11, 10), (30, 0, 40, 10)])
    >>> nms(boxes, np.float32([0.5, 0.9, 0.7]), threshold=0.3).tolist()
    [1, 2]
    """
    # On some devices torchvision's sort does not keep the order of equal scores: it gets sorted boxes.
    order = np.argsort(-scores, kind="stable")
    ranks = -np.arange(len(order), dtype=np.float32)
    # torchvision's IoUs are float32: an IoU of 3/10 would be above a threshold of 0.3 in float64.
    limit = float(np.float32(threshold))
    kept = torchvision.ops.nms(torch.from_numpy(boxes[order]), torch.from_numpy(ranks), limit)
    return np.asarray(order[kept.numpy()], dtype=np.int64)


def soft_nms(
    boxes: Boxes, scores: Floats, sigma: float, lowest: float = -math.inf, most: float = math.inf
) -> tuple[Ints, Floats]:
    """Suppression of one class that lowers scores instead of removing boxes (Bodla et al., ICCV 2017).

    A score s stands for the probability ``sigmoid(s)``. The box with the highest score is kept, and the
    probability of every other box is multiplied by ``exp(-IoU^2 / sigma)``. The same is repeated with the
    remaining boxes. Objects that hide one another are thus found, and duplicates rank low.

    ``[N, 4], [N] -> [M]`` indices of the kept boxes, highest lowered score first, and the lowered scores
    ``[M]``, float32. At most ``most`` boxes are kept, all with scores above ``lowest``. Boxes of equal score
    keep the order of the input.

    >>> boxes = as_boxes([(0, 0, 10, 10), (0, 0, 10, 5), (30, 0, 40, 10)])
    >>> kept, scores = soft_nms(boxes, np.float32([2, 1, 0]), sigma=0.5)
    >>> kept.tolist(), scores
    ([0, 2, 1], array([ 2.        ,  0.        , -0.22733629], dtype=float32))
    """
    order = np.argsort(-scores, kind="stable")
    boxes, wide, rest = boxes[order], scores[order].astype(np.float64), np.arange(len(order))
    kept: list[int] = []
    while len(rest) and len(kept) < most:
        first = int(np.argmax(wide[rest]))
        best = int(rest[first])
        if not wide[best] > lowest:
            break
        kept.append(best)
        rest = np.delete(rest, first)
        overlap = iou(boxes[best : best + 1], boxes[rest])[0].astype(np.float64)
        near = overlap > 0
        wide[rest[near]] = _less_probable(wide[rest[near]], overlap[near] ** 2 / sigma)
    return order[kept], wide[kept].astype(np.float32)


def _less_probable(scores: Doubles, by: Doubles) -> Doubles:
    """The scores ``logit(exp(-by) * sigmoid(score))``, by logarithms: sigmoid(score) may round to 1."""
    logs = -by - np.logaddexp(0, -scores)
    lowered: Doubles = logs - np.log(-np.expm1(logs))
    return lowered
