"""The coordinate convention, and everything that is computed from box coordinates alone.

A box is ``(x1, y1, x2, y2)`` in pixels of the original image, 0-based and half-open: it covers the
pixels ``x1 <= x < x2``, so its width is ``x2 - x1`` and nothing is ever "+1". Arrays of boxes are
float32 ``[N, 4]``; an array without boxes is ``[0, 4]``. Readers of files convert other conventions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spp_det.kernels import numba

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


def mirrored(boxes: npt.NDArray[F], width: int) -> npt.NDArray[F]:
    """Where boxes ``[N, 4]`` lie in the mirror image of an image of this width in pixels.

    >>> mirrored(as_boxes([(10, 20, 30, 60)]), 100).tolist()
    [[70.0, 20.0, 90.0, 60.0]]
    """
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


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


@dataclass(frozen=True)
class Keep:
    """What suppression keeps: ``most`` boxes at most, ``each`` of a class, with scores above ``lowest``."""

    lowest: float = -math.inf
    each: float = math.inf
    most: float = math.inf


EVERYTHING = Keep()


def nms(
    boxes: Boxes, scores: Floats, threshold: float, labels: Ints | None = None, keep: Keep = EVERYTHING
) -> Ints:
    """Greedy non-maximum suppression, class by class; without ``labels`` all boxes are of one class.

    ``[N, 4], [N], labels [N] -> [M]`` indices of the kept boxes, best score first. A box is suppressed when
    its IoU with a kept box of its class is greater than ``threshold``, both as float32. Boxes of equal score
    keep the order of the input, class by class.

    >>> boxes = as_boxes([(0, 0, 10, 10), (1, 0, 11, 10), (30, 0, 40, 10)])
    >>> nms(boxes, np.float32([0.5, 0.9, 0.7]), threshold=0.3).tolist()
    [1, 2]
    """
    return _suppress(boxes, scores, labels, keep, threshold, 0.0)[0]


def soft_nms(
    boxes: Boxes, scores: Floats, sigma: float, labels: Ints | None = None, keep: Keep = EVERYTHING
) -> tuple[Ints, Floats]:
    """Suppression that lowers scores instead of removing boxes (Bodla et al., ICCV 2017); see also `nms`.

    A score s stands for the probability ``sigmoid(s)``. The box with the highest score is kept, and the
    probability of every other box of its class is multiplied by ``exp(-IoU^2 / sigma)``. The same is repeated
    with the remaining boxes. Objects that hide one another are thus found, and duplicates rank low.

    ``[N, 4], [N], labels [N] -> [M]`` indices of the kept boxes, highest lowered score first, and the lowered
    scores ``[M]``, float32. Boxes of equal score keep the order of the input, class by class.

    >>> boxes = as_boxes([(0, 0, 10, 10), (0, 0, 10, 5), (30, 0, 40, 10)])
    >>> kept, scores = soft_nms(boxes, np.float32([2, 1, 0]), sigma=0.5)
    >>> kept.tolist(), scores
    ([0, 2, 1], array([ 2.        ,  0.        , -0.22733629], dtype=float32))
    """
    return _suppress(boxes, scores, labels, keep, math.inf, sigma)


def _suppress(
    boxes: Boxes, scores: Floats, labels: Ints | None, keep: Keep, threshold: float, sigma: float
) -> tuple[Ints, Floats]:
    """Hard suppression where ``sigma`` is 0, else soft suppression."""
    labels = np.zeros(len(boxes), np.int64) if labels is None else labels
    order = np.lexsort((-scores, labels))  # class by class, best first
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1, append=-1))
    wide = scores[order].astype(np.float64)
    most = int(min(keep.most, len(boxes)))
    each = int(min(keep.each, len(boxes)))
    found = _take(boxes[order], wide, starts, np.float32(threshold), sigma, keep.lowest, each, most)
    return order[found], wide[found].astype(np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _take(boxes, scores, starts, threshold, sigma, lowest, each, most):  # type: ignore[no-untyped-def]
    """Take boxes, best first, and suppress others of the class; class k is ``starts[k]:starts[k + 1]``.

    A step looks at the classes' best boxes, and then at the class of the box that is taken. Lowers ``scores``
    in place. Float32 IoUs without fused operations: those of `iou`.
    """
    classes = max(len(starts) - 1, 0)
    left = np.arange(len(boxes))  # of each class from its start on: what is neither taken nor suppressed
    count = starts[1:] - starts[:-1]
    best = starts[:-1].copy()  # of each class, a place in ``left``
    taken_of = np.zeros(classes, np.int64)
    taken = np.empty(most, np.int64)
    for step in range(most):
        k = -1
        for c in range(classes):
            if count[c] > 0 and (k < 0 or scores[left[best[c]]] > scores[left[best[k]]]):
                k = c
        if k < 0 or not scores[left[best[k]]] > lowest:
            return taken[:step]
        this = left[best[k]]
        taken[step] = this
        taken_of[k] += 1
        a, size = boxes[this], _area(boxes[this])
        stop, end = starts[k] + count[k], starts[k]
        for place in range(starts[k], stop):
            other = left[place]
            if other == this or taken_of[k] >= each:
                continue
            b = boxes[other]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if width > 0 and height > 0:
                shared = width * height
                overlap = shared / (size + _area(b) - shared)
                if overlap > threshold:
                    continue
                if sigma > 0:
                    scores[other] = _less_probable(scores[other], np.float64(overlap) ** 2 / sigma)
            if not scores[other] > lowest:
                continue
            left[end] = other
            if end == starts[k] or scores[other] > scores[left[best[k]]]:
                best[k] = end
            end += 1
        count[k] = end - starts[k]
    return taken


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _area(box):  # type: ignore[no-untyped-def]
    return max(box[2] - box[0], np.float32(0)) * max(box[3] - box[1], np.float32(0))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _less_probable(score, by):  # type: ignore[no-untyped-def]
    """``logit(exp(-by) * sigmoid(score))``, by logarithms: sigmoid(score) may round to 1."""
    log = -by - max(-score, 0.0) - math.log1p(math.exp(-abs(score)))
    return log - math.log(-math.expm1(log))
