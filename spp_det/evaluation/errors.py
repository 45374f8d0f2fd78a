"""Every detection and every missed object, sorted by what went wrong.

After Hoiem et al., "Diagnosing error in object detectors" (2012), with names as in TIDE (2020). Pascal VOC's
matching alone (`spp_det.evaluation.voc`) decides what is a true positive, a duplicate or ignored. The first
line that fits a detection is its kind:

    correct        VOC's true positive
    ignored        on a difficult or crowd object of its class: counts neither as right nor as wrong
    duplicate      on an object of its class that a detection of higher rank has found already
    confused       IoU >= 0.5 with an object of another class
    localisation   0.1 <= IoU < 0.5 with an object of its class
    background     none of these

and an object that is neither difficult nor crowd is

    missed         when no correct detection of it reaches the score threshold.

(Where `confused` and `localisation` both fit, the box covers the object of the other class more.) Difficult
and crowd objects are never missed, but a box that overlaps such an object a little is a localisation error,
not background. The kind of a detection does not depend on detections of lower rank, so it is the same at
every score threshold; only `missed` grows with the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Doubles, Ints, exact_iou
from spp_det.data.matching import Outcome
from spp_det.data.records import Dataset, Detections, Record
from spp_det.evaluation.voc import match

LOOSE = 0.1  # IoU from which a box is badly localised rather than background


Kind = IntEnum("Kind", "CORRECT LOCALISATION CONFUSED DUPLICATE BACKGROUND IGNORED MISSED", start=0)
"""The kinds of detections, and ``MISSED``, the kind of an object without a correct detection."""


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """The detections and objects of one image, in the order of the image.

    Attributes:
        kinds: int8 ``[N]``, the `Kind` of each detection.
        objects: int64 ``[N]``, which object of the image the kind refers to; -1 for background.
        overlaps: float64 ``[N]``, the IoU with that object; 0 for background.
        found_at: float64 ``[G]``, the score of each object's correct detection: at any higher threshold the
            object is missed. -inf without such a detection, +inf for difficult and crowd objects.
    """

    kinds: npt.NDArray[np.int8]
    objects: Ints
    overlaps: Doubles
    found_at: Doubles


def sort_errors(
    dataset: Dataset, detections: Sequence[Detections], iou_threshold: float = 0.5
) -> list[ImageErrors]:
    """Sort the detections of every image; see the module for the kinds.

    Args:
        dataset: the ground truth.
        detections: one entry an image, in the order of ``dataset.records``.
        iou_threshold: takes the place of 0.5 in the module's table; at least 0.1.

    Raises:
        UserError, ValueError: as `evaluate_voc`.
    """
    matches = match(dataset, detections, iou_threshold)
    per_image = []
    first, first_object = 0, 0
    for record, found in zip(dataset.records, detections, strict=True):
        mine = slice(first, first + len(found["scores"]))
        # `match` counts the objects of all images, here each image's count from 0; -1 stays: no object.
        target = matches.target[mine]
        target = np.where(target >= 0, target - first_object, -1)
        per_image.append(
            _sort_image(record, found, matches.outcome[mine], target, matches.overlap[mine], iou_threshold)
        )
        first, first_object = mine.stop, first_object + len(record)
    return per_image


def _sort_image(
    record: Record,
    found: Detections,
    outcome: npt.NDArray[np.int8],
    target: Ints,
    overlap: Doubles,
    iou_threshold: float,
) -> ImageErrors:
    other, other_overlap = _other_class(record, found)
    false = outcome == Outcome.FALSE
    confused = false & (other_overlap >= iou_threshold)
    background = false & ~confused & (overlap < LOOSE)
    kinds = np.full(len(target), Kind.LOCALISATION, np.int8)
    kinds[outcome == Outcome.TRUE] = Kind.CORRECT
    kinds[outcome == Outcome.IGNORED] = Kind.IGNORED
    kinds[outcome == Outcome.DUPLICATE] = Kind.DUPLICATE
    kinds[confused] = Kind.CONFUSED
    kinds[background] = Kind.BACKGROUND

    found_at = np.where(record.difficult | record.crowd, np.inf, -np.inf)
    hit = outcome == Outcome.TRUE
    found_at[target[hit]] = found["scores"][hit]
    return ImageErrors(
        kinds=kinds,
        objects=np.where(background, -1, np.where(confused, other, target)),
        overlaps=np.where(background, 0.0, np.where(confused, other_overlap, overlap)),
        found_at=found_at,
    )


def _other_class(record: Record, found: Detections) -> tuple[Ints, Doubles]:
    """For N detections the object of another class that each overlaps most, and the IoU; else -1 and 0."""
    count = len(found["scores"])
    if not len(record) or not count:
        return np.full(count, -1), np.zeros(count)
    other_class = found["labels"][:, None] != record.labels[None, :]
    overlap = np.where(other_class, exact_iou(found["boxes"], record.boxes), 0.0)  # [N, G]
    best = overlap.argmax(axis=1)
    best_overlap = np.take_along_axis(overlap, best[:, None], axis=1)[:, 0]
    return np.where(best_overlap > 0, best, -1), best_overlap


def count_errors(
    dataset: Dataset,
    detections: Sequence[Detections],
    errors: Sequence[ImageErrors],
    thresholds: Mapping[str, float],
) -> dict[str, dict[str, int]]:
    """``{class name: {kind in lower case: count}}`` of detections that reach the threshold of their class.

    A class without a threshold shows no detections: all of its objects are missed. ``errors`` is what
    `sort_errors` returns.
    """
    counts = {name: dict.fromkeys((kind.name.lower() for kind in Kind), 0) for name in dataset.classes}
    lowest = _lowest(dataset, thresholds)
    for record, found, sorted_ in zip(dataset.records, detections, errors, strict=True):
        shown = found["scores"] >= lowest[found["labels"]]
        for label, kind in zip(found["labels"][shown], sorted_.kinds[shown], strict=True):
            counts[dataset.classes[label]][Kind(kind).name.lower()] += 1
        for label in record.labels[sorted_.found_at < lowest[record.labels]]:
            counts[dataset.classes[label]]["missed"] += 1
    return counts


def confusion_matrix(
    dataset: Dataset,
    detections: Sequence[Detections],
    errors: Sequence[ImageErrors],
    thresholds: Mapping[str, float],
) -> Ints:
    """How often an object of one class is found as another: ``[K + 1, K + 1]`` counts for K classes.

    Rows are the classes of objects, columns the classes that detections say. The last row counts detections
    that find no object: badly localised, duplicate, background. The last column counts missed objects. An
    object that is found as another class alone is both confused and missed. Arguments as of `count_errors`,
    whose counts are the sums: of a class's column, the diagonal is ``correct``, all other classes are
    ``confused``, the last row is ``localisation + duplicate + background``; the last column is ``missed``.
    """
    none, lowest = len(dataset.classes), _lowest(dataset, thresholds)
    matrix = np.zeros((none + 1, none + 1), np.int64)
    for record, found, sorted_ in zip(dataset.records, detections, errors, strict=True):
        shown = (found["scores"] >= lowest[found["labels"]]) & (sorted_.kinds != Kind.IGNORED)
        of_class = np.isin(sorted_.kinds, (Kind.CORRECT, Kind.CONFUSED))
        rows = np.full(len(shown), none)
        rows[of_class] = record.labels[sorted_.objects[of_class]]
        np.add.at(matrix, (rows[shown], found["labels"][shown]), 1)
        np.add.at(matrix[:, none], record.labels[sorted_.found_at < lowest[record.labels]], 1)
    return matrix


def _lowest(dataset: Dataset, thresholds: Mapping[str, float]) -> Doubles:
    """``[K]`` the score from which a detection of each class is shown; infinite without a threshold."""
    return np.array([thresholds.get(name, np.inf) for name in dataset.classes])
