"""From a score to the probability that the detection is right, one curve a class (Platt, 1999).

A margin says on which side of a plane a vector lies, and how far; it says not how often such a detection is
right. That is learnt from detections in images that the SVMs have not seen: `spp_det.training.reliability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Doubles, Ints
from spp_det.data.records import Detections

FEWEST = 10  # right detections, and wrong ones, that a class needs for a curve of its own
BINS = 15  # of probability, in the reliability figure
LIKELY = 0.1  # from this probability on a detection counts for the second figure

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Probabilities:
    """``p = 1 / (1 + exp(-(slope * score + intercept)))``, with the numbers of the detection's class.

    Every slope is above 0, so that detections of a class rank by probability as they rank by score.

    Attributes:
        slope, intercept: float32 ``[K]``.
    """

    slope: npt.NDArray[np.float32]
    intercept: npt.NDArray[np.float32]

    def __call__(self, scores: npt.NDArray[np.floating], labels: Ints) -> Doubles:
        """``[N], [N] -> [N]``: the probability of each detection by its score and class, in float64."""
        logits = self.slope[labels].astype(np.float64) * scores + self.intercept[labels]
        return np.exp(-np.logaddexp(0.0, -logits))

    def of_classes(self, classes: Sequence[str], others: Sequence[str]) -> Probabilities:
        """The curves of these classes in the order of a data set's, for labels that count its ``others``.

        A class that has no curve here gets NaN: no detection is of that class.
        """
        row = {name: label for label, name in enumerate(classes)}
        both = np.column_stack([self.slope, self.intercept])
        none = np.full(2, np.nan, np.float32)
        curves = np.array([both[row[name]] if name in row else none for name in others], np.float32).reshape(
            -1, 2
        )
        return Probabilities(curves[:, 0].copy(), curves[:, 1].copy())

    def of(self, found: Detections) -> Detections:
        """The same detections with probabilities, float32, in the place of scores; the best come first."""
        p = self(found["scores"], found["labels"]).astype(np.float32)
        best = np.argsort(-p, kind="stable")
        return Detections(boxes=found["boxes"][best], labels=found["labels"][best], scores=p[best])


def fit_probabilities(
    scores: npt.NDArray[np.floating], labels: Ints, right: Flags, classes: int
) -> tuple[Probabilities | None, Flags]:
    """The curves of the classes, from detections ``[N]`` that are known to be right or not.

    A class with fewer than `FEWEST` right or wrong detections, or in which high scores are no better than low
    ones, gets the curve of all classes together. Which classes have their own curve is the second result,
    bool ``[K]``. The first is None where the detections of all classes together have no curve either.
    """
    shared = _platt(scores, right, fewest=1)
    own = np.zeros(classes, np.bool_)
    if shared is None:
        return None, own
    curves = np.tile(np.array(shared, np.float32), (classes, 1))
    for label in range(classes):
        mine = labels == label
        if (curve := _platt(scores[mine], right[mine], FEWEST)) is not None:
            curves[label], own[label] = curve, True
    return Probabilities(curves[:, 0].copy(), curves[:, 1].copy()), own


def _platt(scores: npt.NDArray[np.floating], right: Flags, fewest: int) -> tuple[float, float] | None:
    """Slope and intercept of the logistic regression of ``right`` on the scores; None where there is none.

    Platt's targets, (n + 1) / (n + 2) for each of n right detections, keep the curve finite where a threshold
    parts right from wrong. The same bits come out on any number of cores: no sum is shared out.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import, which detection does not need
    from threadpoolctl import threadpool_limits

    positives, negatives = int(right.sum()), int((~right).sum())
    if min(positives, negatives) < fewest:
        return None
    target = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = scores.astype(np.float64)
    centre, spread = x.mean(), max(float(x.std()), 1e-6)
    samples = np.tile((x - centre) / spread, 2)[:, None]
    kinds = np.repeat([1, 0], len(x))
    weights = np.concatenate([target, 1 - target])
    regression = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000)
    with threadpool_limits(1):
        regression.fit(samples, kinds, sample_weight=weights)
    slope = float(regression.coef_[0, 0]) / spread
    if not slope > 0:
        return None
    return slope, float(regression.intercept_[0]) - slope * centre


def calibration_error(p: Doubles, right: Flags, bins: int = BINS) -> float:
    """The expected calibration error of detections ``[N]``: NaN where there are none.

    The mean, over the detections, of the difference between probability and share of right detections in
    their bin, one of so many equal parts of [0, 1] (Guo et al., ICML 2017).

    >>> calibration_error(np.array([0.95, 0.95, 0.05, 0.05]), np.array([True, True, False, True]))
    0.25
    """
    if not len(p):
        return float("nan")
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    difference = np.bincount(place, weights=p - right, minlength=bins)
    return float(np.abs(difference).sum() / len(p))


def reliability(p: Doubles, right: Flags) -> dict[str, float | int]:
    """The figures of detections ``[N]``: how many, the calibration error of all, and of those above 0.1.

    Most of what a detector returns is wrong and says so, near 0, where it is easy to be right about it; hence
    the second error.
    """
    likely = p >= LIKELY
    return {
        "detections": len(p),
        "ECE": calibration_error(p, right),
        "likely_detections": int(likely.sum()),
        "likely_ECE": calibration_error(p[likely], right[likely]),
    }
