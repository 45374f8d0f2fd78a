"""From scores to detections: which boxes score enough for a class, and which of those suppression leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spp_det.boxes import Boxes, Floats, Ints, Keep, nms, soft_nms
from spp_det.config.settings import Detection
from spp_det.model.vectors import WindowVectors


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """C boxes in one image, each with a class that it scores enough for; several classes may share a box.

    Attributes:
        boxes: float32 ``[C, 4]`` in pixels of the image.
        labels: int64 ``[C]``, ascending.
        scores: float32 ``[C]``.
        pool5: the vectors that were scored.
        windows: int64 ``[C]``, the window of the vectors that each box is.
    """

    boxes: Boxes
    labels: Ints
    scores: Floats
    pool5: WindowVectors
    windows: Ints


def above(threshold: float, boxes: Boxes, scores: Floats, pool5: WindowVectors) -> ScoredBoxes:
    """Every class of every window ``[N, 4]`` whose score, of ``[N, K]``, is above the threshold."""
    labels, windows = np.nonzero(threshold < scores.T)  # [C], [C]
    return ScoredBoxes(boxes[windows], labels, scores[windows, labels], pool5, windows)


def suppress(boxes: Boxes, labels: Ints, scores: Floats, limits: Detection) -> tuple[Ints, Floats]:
    """Non-maximum suppression, class by class: of boxes ``[C, 4]`` the kept ones ``[n]``, and their scores.

    Hard suppression leaves the scores as they are; soft suppression lowers them. The result is in the order
    of the classes.
    """
    keep = Keep(limits.score_threshold, limits.max_per_image, limits.max_all_classes)
    if limits.soft_nms is not None:
        kept, lowered = soft_nms(boxes, scores, limits.soft_nms, labels, keep)
    else:
        kept = nms(boxes, scores, limits.nms, labels, keep)
        lowered = scores[kept]
    by_class = np.argsort(labels[kept], kind="stable")
    return kept[by_class], lowered[by_class]
