"""The second look: boxes that regression has moved are scored and moved once more (`BoxRegression.passes`).

The paper moves boxes once. A second regressor learns from moved boxes, which are closer to their objects;
what a second look finds is averaged with the first look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints
from spp_det.config.settings import Detection
from spp_det.model.bbox import BoxRegressor
from spp_det.model.suppression import ScoredBoxes, suppress
from spp_det.model.vectors import WindowVectors

SAME_PLACE_IOU = 0.7  # of boxes of a class that overlap more, only the best is looked at again
LOOKS_A_DETECTION = 2  # boxes that are looked at again, for each detection that an image may have

Pool = Callable[[Boxes], WindowVectors]  # [n, 4] -> pool5 [m, D]
OwnScores = Callable[[Tensor, Ints], Floats]  # pool5 [n, D] and classes [n] -> scores [n]


def look_again(
    found: ScoredBoxes, pool: Pool, score: OwnScores, regressors: Sequence[BoxRegressor], limits: Detection
) -> ScoredBoxes:
    """The best boxes of a first look, moved twice: mean boxes and mean scores of the two looks.

    Args:
        pool: pools boxes of the image.
        score: of each vector the score of one class.
        regressors: of the first look and of the second.
        limits: what of the result is kept.
    """
    first, second = regressors
    best, _ = suppress(found.boxes, found.labels, found.scores, looks_of(limits))  # [n]
    labels = found.labels[best]
    moved = first.move(found.pool5, found.windows[best], labels, found.boxes[best])  # [n, 4]
    pool5 = pool(moved)  # [m, D]

    def look(vectors: Tensor, at: Ints) -> tuple[Boxes, Floats]:
        return second(vectors, labels[at], moved[at]), score(vectors, labels[at])

    parts = pool5.in_chunks(pool5.of, look)
    moved_again, scores = (np.concatenate(each) for each in zip(*parts, strict=True))  # [n, 4], [n]
    boxes: Boxes = np.mean([moved, moved_again], axis=0, dtype=np.float32)
    mean: Floats = np.mean([found.scores[best], scores], axis=0, dtype=np.float32)
    good = np.flatnonzero(mean > limits.score_threshold)
    return ScoredBoxes(boxes[good], labels[good], mean[good], pool5, good)


def looks_of(limits: Detection) -> Detection:
    """Which boxes are looked at again, from what of the result is kept."""
    return Detection(
        score_threshold=limits.score_threshold,
        nms=SAME_PLACE_IOU,
        max_per_image=LOOKS_A_DETECTION * limits.max_per_image,
        max_all_classes=LOOKS_A_DETECTION * limits.max_all_classes,
    )
