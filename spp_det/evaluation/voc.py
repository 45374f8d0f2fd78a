"""Pascal VOC average precision, as the devkit's ``VOCevaldet`` defines it.

The detections of one class are ranked by score over all images. Each is compared with the object
of its class and image that it overlaps most, as `spp_det.data.matching` says.

Equal scores rank in the order given: images in the order of the data set, then detections in the
order of the image. Scores are never rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Doubles, Ints
from spp_det.data.matching import Matches, Outcome, match_image
from spp_det.data.records import Dataset, Detections
from spp_det.detections.types import check_detections
from spp_det.errors import UserError

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
        hit: bool ``[N]``, whether each of them is a true positive.
        positives: the number of objects to find; difficult and crowd ones do not count.
    """

    ap_area: float
    ap_11point: float
    precision: Doubles
    recall: Doubles
    scores: npt.NDArray[np.floating]
    hit: Flags
    positives: int


@dataclass(frozen=True, eq=False)
class VocResult:
    """Per-class results by class name, and their means over the classes that have objects.

    Both means are NaN where no class has any.
    """

    mAP_area: float  # noqa: N815  the field's own spelling
    mAP_11point: float  # noqa: N815
    per_class: dict[str, ClassResult]


def evaluate_voc(dataset: Dataset, detections: Sequence[Detections], iou_threshold: float = 0.5) -> VocResult:
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
    matches = match(dataset, detections, iou_threshold)
    ignored = matches.outcome == Outcome.IGNORED
    object_labels = _join([record.labels for record in dataset.records], np.int64)
    countable = ~_join([record.difficult | record.crowd for record in dataset.records], np.bool_)
    labels = _join([found["labels"] for found in detections], np.int64)
    scores = _join([found["scores"] for found in detections], np.float32)

    per_class = {}
    for label, name in enumerate(dataset.classes):
        mine = np.flatnonzero((labels == label) & ~ignored)
        ranked = mine[_ranking(scores[mine])]
        positives = int(np.count_nonzero((object_labels == label) & countable))
        hit = matches.outcome[ranked] == Outcome.TRUE
        per_class[name] = _class_result(hit, scores[ranked], positives)
    return VocResult(
        mAP_area=_mean_defined([result.ap_area for result in per_class.values()]),
        mAP_11point=_mean_defined([result.ap_11point for result in per_class.values()]),
        per_class=per_class,
    )


def match(dataset: Dataset, detections: Sequence[Detections], iou_threshold: float = 0.5) -> Matches:
    """Compare every detection with the objects of its class and image; arguments as of `evaluate_voc`.

    An outcome does not depend on detections of lower rank: leaving out all detections below a score changes
    no other outcome.
    """
    if not 0 < iou_threshold <= 1:
        raise UserError(f"the IoU threshold must lie in (0, 1], got {iou_threshold}")
    check_detections(dataset, detections)
    parts, first = [], 0
    for record, found in zip(dataset.records, detections, strict=True):
        matches = match_image(record, found, iou_threshold)
        target = np.where(matches.target < 0, -1, first + matches.target)
        parts.append(Matches(matches.outcome, target, matches.overlap))
        first += len(record)
    return Matches(
        _join([part.outcome for part in parts], np.int8),
        _join([part.target for part in parts], np.int64),
        _join([part.overlap for part in parts], np.float64),
    )


def _ranking(scores: npt.NDArray[np.floating]) -> Ints:
    """``[N] -> [N]`` indices, highest score first; equal ones in the order given."""
    return np.argsort(-scores, kind="stable")


def _class_result(hit: Flags, scores: npt.NDArray[np.floating], positives: int) -> ClassResult:
    """The result of one class from its ranked detections, ignored ones left out."""
    hits = np.cumsum(hit, dtype=np.int64)
    precision = hits / np.arange(1, len(hits) + 1)
    if positives == 0:
        recall = np.full(len(hits), np.nan)
        return ClassResult(np.nan, np.nan, precision, recall, scores, hit, positives)
    # The best precision at this or any higher recall.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return ClassResult(
        ap_area=_area(hit, envelope, positives),
        ap_11point=_eleven_points(hits, envelope, positives),
        precision=precision,
        recall=hits / positives,
        scores=scores,
        hit=hit,
        positives=positives,
    )


def _area(hit: Flags, envelope: Doubles, positives: int) -> float:
    """Area under the envelope: recall rises by 1/positives at every hit, and nowhere else."""
    return float(envelope[hit].sum() / positives)


def _eleven_points(hits: Ints, envelope: Doubles, positives: int) -> float:
    """Mean of the envelope at recall 0, 0.1, ..., 1; 0 at a recall that is never reached."""
    # The protocol compares floats, and so does this code: 3 of 10 found is recall 0.3, which does not reach
    # 3 * 0.1 = 0.30000000000000004. Whole numbers would reach it and give another figure.
    points = 0.1 * np.arange(11)
    reached = np.searchsorted(hits / positives, points)  # the first rank of that recall
    return float(np.append(envelope, 0.0)[reached].mean())


def _mean_defined(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def _join(parts: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Concatenate; an empty array of ``dtype`` where there is nothing to join."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
