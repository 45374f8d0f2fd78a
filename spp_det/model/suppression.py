"""From scores to detections: which boxes score enough for a class, and which of those suppression leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spp_det.boxes import Boxes, Floats, Ints, nms, soft_nms
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

    Hard suppression leaves the scores as they are; soft suppression lowers them.
    """
    kept, lowered = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if limits.soft_nms is not None:
            lowest, most = limits.score_threshold, limits.max_per_image
            best, own = soft_nms(boxes[mine], scores[mine], limits.soft_nms, lowest, most)
        else:
            best = nms(boxes[mine], scores[mine], limits.nms)[: limits.max_per_image]
            own = scores[mine[best]]
        kept.append(mine[best])
        lowered.append(own)
    return np.concatenate(kept), np.concatenate(lowered)
