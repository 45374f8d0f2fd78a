"""The second look: boxes that regression has moved are scored and moved once more (`BoxRegression.passes`).

The paper moves boxes once. A second regressor learns from moved boxes, which are closer to their objects;
what a second look finds is averaged with the first look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spp_det.boxes import Boxes, Floats
from spp_det.config.settings import Detection
from spp_det.model.bbox import BoxRegressor
from spp_det.model.suppression import ScoredBoxes, suppress
from spp_det.model.vectors import WindowVectors

SAME_PLACE_IOU = 0.7  # of boxes of a class that overlap more, only the best is looked at again
LOOKS_A_DETECTION = 3  # boxes that are looked at again, for each detection that a class may have

Score = Callable[[Boxes], tuple[WindowVectors, Floats]]  # [n, 4] -> pool5 [m, D], scores [n, K]


def look_again(
    found: ScoredBoxes, score: Score, regressors: Sequence[BoxRegressor], limits: Detection
) -> ScoredBoxes:
    """The boxes of a first look, moved twice: mean boxes and mean scores of the two looks.

    Args:
        score: scores boxes of the image.
        regressors: of the first look and of the second.
        limits: what of the result is kept.
    """
    first, second = regressors
    looks = Detection(nms=SAME_PLACE_IOU, max_per_image=LOOKS_A_DETECTION * limits.max_per_image)
    best, _ = suppress(found.boxes, found.labels, found.scores, looks)  # [n]
    labels = found.labels[best]
    moved = first.move(found.pool5, found.windows[best], labels, found.boxes[best])  # [n, 4]
    pool5, scores = score(moved)  # [m, D], [n, K]
    every = np.arange(len(moved))
    moved_again = second.move(pool5, every, labels, moved)  # [n, 4]
    boxes: Boxes = np.mean([moved, moved_again], axis=0, dtype=np.float32)
    mean: Floats = np.mean([found.scores[best], scores[every, labels]], axis=0, dtype=np.float32)
    good = mean > limits.score_threshold
    return ScoredBoxes(boxes[good], labels[good], mean[good], pool5, every[good])
