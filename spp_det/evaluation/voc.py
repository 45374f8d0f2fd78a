"""Pascal VOC average precision, as the devkit's ``VOCevaldet`` defines it.

The detections of one class are ranked by score over all images. Each is compared with the object
of its class and image that it overlaps most:

    no object, or IoU below the threshold     false positive
    the object is difficult (or COCO crowd)   ignored: neither true nor false
    the object is not found yet               true positive
    the object is found already               false positive (a duplicate)

Equal scores rank in the order given: images in the order of the data set, then detections in the
order of the image. Scores are never rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Ints, iou
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.evaluation.detections import ImageDetections, check_detections

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ClassResult:
    """How well one class is detected. Figures are fractions of 1.

    Attributes:
        ap_area: area under the monotone precision-recall curve (VOC2010 and later).
        ap_11point: mean of that curve at recall 0, 0.1, ..., 1 (VOC2007). Both are NaN, that is
            not defined, where ``positives`` is 0; both are 0 where objects exist and none is found.
        precision, recall: float64 ``[N]``, after each ranked detection, ignored ones left out.
            As measured: the monotone envelope is taken only for the average. ``recall`` is NaN
            where ``positives`` is 0.
        scores: ``[N]``, the score of each of these detections, highest first.
        positives: the number of objects to find; difficult and crowd ones do not count.
    """

    ap_area: float
    ap_11point: float
    precision: Doubles
    recall: Doubles
    scores: npt.NDArray[np.floating]
    positives: int


@dataclass(frozen=True, eq=False)
class VocResult:
    """Per-class results by class name, and their means over the classes that have objects.

    Both means are NaN where no class has any.
    """

    mAP_area: float  # noqa: N815  the field's own spelling
    mAP_11point: float  # noqa: N815
    per_class: dict[str, ClassResult]


def evaluate_voc(
    dataset: Dataset, detections: Sequence[ImageDetections], iou_threshold: float = 0.5
) -> VocResult:
    """Average precision of every class, at one IoU threshold.

    Args:
        dataset: the ground truth.
        detections: one entry an image, in the order of ``dataset.records``.
        iou_threshold: the overlap, in (0, 1], from which a detection can count as true.

    Raises:
        UserError: a score or a box is NaN or infinite, or the threshold is out of range.
        ValueError: detections do not fit the data set (see `check_detections`).

    >>> from pathlib import Path
    >>> from spp_det import Record
    >>> no, cat = np.zeros(2, np.bool_), np.zeros(2, np.int64)
    >>> cats = np.float32([[0, 0, 10, 10], [50, 0, 90, 30]])
    >>> dataset = Dataset(("cat",), [Record("a", Path("a.jpg"), cats, cat, difficult=no, crowd=no)])
    >>> found = {"boxes": cats[:1] + 1, "labels": cat[:1], "scores": np.float32([0.9])}
    >>> evaluate_voc(dataset, [found]).mAP_area  # one of two, and nothing wrong
    0.5
    """
    if not 0 < iou_threshold <= 1:
        raise UserError(f"the IoU threshold must lie in (0, 1], got {iou_threshold}")
    check_detections(dataset, detections)

    object_labels = _join([record.labels for record in dataset.records], np.int64)
    object_ignored = _join([record.difficult | record.crowd for record in dataset.records], np.bool_)
    labels = _join([found["labels"] for found in detections], np.int64)
    scores = _join([found["scores"] for found in detections], np.float32)
    overlap, target = _best_objects(dataset, detections)
    target = np.where(overlap >= iou_threshold, target, -1)

    per_class = {}
    for label, name in enumerate(dataset.classes):
        mine = np.flatnonzero(labels == label)
        ranked = mine[np.argsort(-scores[mine], kind="stable")]
        positives = int(np.count_nonzero((object_labels == label) & ~object_ignored))
        per_class[name] = _class_result(target[ranked], scores[ranked], object_ignored, positives)
    return VocResult(
        mAP_area=_mean_defined([result.ap_area for result in per_class.values()]),
        mAP_11point=_mean_defined([result.ap_11point for result in per_class.values()]),
        per_class=per_class,
    )


def _best_objects(dataset: Dataset, detections: Sequence[ImageDetections]) -> tuple[Doubles, Ints]:
    """For all N detections of all images: the largest IoU with an object of the same class and image,
    and that object's index among all objects; -inf and -1 where there is none. Of equal IoUs the
    first object wins.
    """
    overlaps, targets, first = [], [], 0
    for record, found in zip(dataset.records, detections, strict=True):
        if len(record) and len(found["scores"]):
            # Float64, so that 7/10 >= 0.7 holds; `iou` keeps the precision that it is given.
            a = cast(Boxes, found["boxes"].astype(np.float64))
            b = cast(Boxes, record.boxes.astype(np.float64))
            same_class = found["labels"][:, None] == record.labels[None, :]
            overlap = np.where(same_class, iou(a, b), -np.inf)  # [N, G]
            best = overlap.argmax(axis=1)
            best_overlap = np.take_along_axis(overlap, best[:, None], axis=1)[:, 0]
            overlaps.append(best_overlap)
            targets.append(np.where(best_overlap > -np.inf, first + best, -1))
        else:
            overlaps.append(np.full(len(found["scores"]), -np.inf))
            targets.append(np.full(len(found["scores"]), -1))
        first += len(record)
    return _join(overlaps, np.float64), _join(targets, np.int64)


def _class_result(
    target: Ints, scores: npt.NDArray[np.floating], ignored_objects: Flags, positives: int
) -> ClassResult:
    """The result of one class from its ranked detections.

    ``target`` int64 ``[N]`` is the object that each detection overlaps enough, or -1.
    """
    ignored = target >= 0
    ignored[ignored] = ignored_objects[target[ignored]]
    target, scores = target[~ignored], scores[~ignored]

    # The best-ranked detection of an object finds it; the others are duplicates.
    found_objects, first_rank = np.unique(target, return_index=True)
    hit = np.zeros(len(target), np.bool_)
    hit[first_rank[found_objects >= 0]] = True

    hits = np.cumsum(hit, dtype=np.int64)
    precision = hits / np.arange(1, len(hits) + 1)
    if positives == 0:
        return ClassResult(np.nan, np.nan, precision, np.full(len(hits), np.nan), scores, positives)
    # The best precision at this or any higher recall.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return ClassResult(
        ap_area=_area(hit, envelope, positives),
        ap_11point=_eleven_points(hits, envelope, positives),
        precision=precision,
        recall=hits / positives,
        scores=scores,
        positives=positives,
    )


def _area(hit: Flags, envelope: Doubles, positives: int) -> float:
    """Area under the envelope: recall rises by 1/positives at every hit, and nowhere else."""
    return float(envelope[hit].sum() / positives)


def _eleven_points(hits: Ints, envelope: Doubles, positives: int) -> float:
    """Mean of the envelope at recall 0, 0.1, ..., 1; 0 at a recall that is never reached.

    Recall is compared in whole numbers. The devkit compares floats, and by an accident of 0.1 * 3
    takes 3 of 10 found for less than recall 0.3; here it is 0.3.
    """
    reached = np.searchsorted(10 * hits, np.arange(11) * positives)  # the first rank of that recall
    return float(np.append(envelope, 0.0)[reached].mean())


def _mean_defined(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def _join(parts: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Concatenate; ``dtype`` is that of the result where there is nothing to join."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
