"""Precision and recall as the score threshold falls, and the threshold that balances them best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Doubles
from spp_det.evaluation.voc import Flags, VocResult


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of the detections that score at least each threshold.

    Each distinct score is one point, highest first: no threshold can tell equal scores apart.

    Attributes:
        score: ``[P]``, the thresholds.
        precision, recall: float64 ``[P]``, fractions of 1; ``recall`` is NaN where there is no object.
        f1: float64 ``[P]``, their harmonic mean; 0 where nothing is found.
    """

    score: npt.NDArray[np.floating]
    precision: Doubles
    recall: Doubles
    f1: Doubles


@dataclass(frozen=True)
class Threshold:
    """The operating point to recommend: keep detections of ``score`` and above. Fractions of 1."""

    score: float
    precision: float
    recall: float
    f1: float


def curve(scores: npt.NDArray[np.floating], hit: Flags, positives: int) -> Curve:
    """The curve of detections, each of which is a true or a false positive.

    Args:
        scores: ``[N]``, in any order.
        hit: bool ``[N]``, whether each detection is a true positive.
        positives: the number of objects to find.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(hit[order], dtype=np.int64)
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, int)
    recall = hits[last] / positives if positives else np.full(len(last), np.nan)
    # The harmonic mean in whole numbers, so that points of equal F1 are equal in floats too.
    f1 = 2 * hits[last] / (last + 1 + positives)
    return Curve(scores[last], hits[last] / (last + 1), recall, f1)


def best_f1(points: Curve) -> Threshold | None:
    """The point of the highest F1; where several points share it, the one of the highest score: fewest boxes.

    None where no F1 is above 0: there is no object, or none is found.
    """
    if not points.f1.any():
        return None
    best = int(points.f1.argmax())  # the first of equal ones
    values = (points.score, points.precision, points.recall, points.f1)
    return Threshold(*(float(value[best]) for value in values))


def class_curves(result: VocResult) -> dict[str, Curve]:
    """The curve of every class, by name."""
    return {name: curve(one.scores, one.hit, one.positives) for name, one in result.per_class.items()}


def pooled_curve(result: VocResult) -> Curve:
    """The curve of a single threshold for all classes, whose detections and objects count together."""
    classes = list(result.per_class.values())
    scores = np.concatenate([one.scores for one in classes]) if classes else np.zeros(0)
    hit = np.concatenate([one.hit for one in classes]) if classes else np.zeros(0, np.bool_)
    return curve(scores, hit, sum(one.positives for one in classes))
