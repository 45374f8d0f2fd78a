"""One image's detections beside its objects, by the rules of the VOC devkit's ``VOCevaldet``.

Each detection is compared with the object of its class that it overlaps most. The first line that fits
counts:

    no object, or IoU below the threshold     false positive        Outcome.FALSE
    the object is difficult (or COCO crowd)   counts nothing        Outcome.IGNORED
    the object is not found yet               true positive         Outcome.TRUE
    the object is found already               false positive        Outcome.DUPLICATE

A detection with a higher score comes first; of equal scores, the first in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Doubles, Ints, exact_iou
from spp_det.data.records import Detections, Record


class Outcome(IntEnum):
    """The outcome of a detection by the devkit's rules; see the table above."""

    FALSE = 0
    IGNORED = 1
    TRUE = 2
    DUPLICATE = 3


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections, each with the object that it is compared with.

    Attributes:
        outcome: int8 ``[N]``, the `Outcome` of each detection.
        target: int64 ``[N]``, the object of the same class and image that is overlapped most, as an
            index among the objects; -1 where the image has no object of the class.
        overlap: float64 ``[N]``, the IoU with that object; -inf where there is none.
    """

    outcome: npt.NDArray[np.int8]
    target: Ints
    overlap: Doubles


def match_image(record: Record, found: Detections, iou_threshold: float = 0.5) -> Matches:
    """Compare the detections ``[N]`` of one image with its objects. Of equal IoUs the first object wins.

    An outcome does not depend on detections of lower rank.
    """
    count = len(found["scores"])
    outcome = np.full(count, Outcome.FALSE, np.int8)
    if not len(record) or not count:
        return Matches(outcome, np.full(count, -1), np.full(count, -np.inf))
    same_class = found["labels"][:, None] == record.labels[None, :]
    overlaps = np.where(same_class, exact_iou(found["boxes"], record.boxes), -np.inf)  # [N, G]
    target = overlaps.argmax(axis=1)
    overlap = np.take_along_axis(overlaps, target[:, None], axis=1)[:, 0]
    target = np.where(overlap > -np.inf, target, -1)

    on_object = np.flatnonzero(overlap >= iou_threshold)
    outcome[on_object] = Outcome.DUPLICATE
    # The best-ranked detection of an object finds it; the others are duplicates.
    ranked = on_object[np.argsort(-found["scores"][on_object], kind="stable")]
    _, first = np.unique(target[ranked], return_index=True)
    outcome[ranked[first]] = Outcome.TRUE
    ignored = record.difficult | record.crowd
    outcome[on_object[ignored[target[on_object]]]] = Outcome.IGNORED
    return Matches(outcome, target, overlap)
