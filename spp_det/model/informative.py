"""Which photos to label next: those that the detector is least sure of, different from one another."""

from __future__ import annotations

import numpy as np
import torch

from spp_det.boxes import Doubles, Floats, Ints
from spp_det.data.records import Detections
from spp_det.model.features import ConvMap, roots_of
from spp_det.model.probability import Probabilities

SHOWN = 0.5  # from this probability on a labeller would be shown a detection


def probabilities_of(found: Detections, curves: Probabilities | None) -> Doubles:
    """The probability of each detection ``[n]``.

    Without curves it is the logistic function of the score, which keeps the order of the detections but does
    not say how often such a detection is right.
    """
    if curves is not None:
        return curves(found["scores"], found["labels"])
    return np.exp(-np.logaddexp(0.0, -found["scores"].astype(np.float64)))


def doubt(p: Doubles, labels: Ints | None = None, objects: Doubles | None = None) -> float:
    """How many corrections a labeller would have to make, by the detector's own account of ``p [n]``.

    Of the detections that are shown, from `SHOWN` on, each is wrong with probability ``1 - p``; each of the
    others is an object that is not shown with probability ``p``. A correction counts as ``1 / (1 + objects)``
    by the number of objects of its class in the photos with labels: a class of few learns most from one more.

    Args:
        p: ``[n]``, the probability of each detection.
        labels: int64 ``[n]``, its class; may be left out together with ``objects``.
        objects: ``[K]``, of each class those in the photos with labels; see `expected_objects`.

    >>> round(doubt(np.array([0.9, 0.5, 0.2])), 3)
    0.8
    """
    expected = np.minimum(p, 1 - p)
    if labels is not None and objects is not None:
        expected = expected / (1 + objects[labels])
    return float(expected.sum())


def expected_objects(p: Doubles, labels: Ints, classes: int) -> Doubles:
    """How many objects of each class ``[K]`` there are where the detections ``[n]`` have probabilities ``p``
    and classes ``labels``."""
    return np.bincount(labels, p, minlength=classes).astype(np.float64)


@torch.inference_mode()
def describe(conv_map: ConvMap) -> Floats:
    """What a photo looks like, as one vector ``[C]`` of length 1: the mean of its map, with signed roots."""
    cells = conv_map.cells.float()
    roots = torch.copysign(roots_of(cells.abs()), cells).mean(dim=(1, 2)).cpu().numpy()
    vector: Floats = (roots / max(float(np.linalg.norm(roots)), 1e-12)).astype(np.float32)
    return vector


def choose(
    doubts: Doubles, looks: Floats, count: int, labelled: Floats | None = None
) -> tuple[Ints, Doubles]:
    """Choose photos one after the other, each with the largest product of doubt and novelty.

    Novelty is the distance of a photo's look to the nearest look that is labelled or chosen already; looks
    are centred at their mean, compared by angle, and at most 1 apart. The mean doubt is added to every
    photo's, so that a photo that looks like no other counts also where the detector finds nothing.

    Args:
        doubts: ``[n]``, see `doubt`.
        looks: ``[n, C]``, see `describe`.
        count: of photos to choose.
        labelled: ``[m, C]``, the looks of photos that have labels already.

    Returns the chosen photos ``[count]`` in order, and the novelty ``[count]`` that each had.
    """
    every = looks if labelled is None else np.concatenate([looks, labelled])
    centred = every.astype(np.float64) - every.mean(axis=0, dtype=np.float64)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    unlabelled, known = centred[: len(looks)], centred[len(looks) :]
    novelty = np.ones(len(looks))
    for look in known:
        novelty = np.minimum(novelty, 1 - unlabelled @ look)
    worth = doubts + max(float(doubts.mean()), 1e-6) if len(doubts) else doubts
    left = np.ones(len(looks), np.bool_)
    chosen: list[int] = []
    found: list[float] = []
    while len(chosen) < min(count, len(looks)):
        best = int(np.argmax(np.where(left, worth * np.maximum(novelty, 0), -1.0)))
        chosen.append(best)
        found.append(float(novelty[best]))
        left[best] = False
        novelty = np.minimum(novelty, 1 - unlabelled @ unlabelled[best])
    return np.array(chosen, np.int64), np.array(found)
