"""Recall of proposals: the share of objects that some window overlaps enough, before any window is scored.

An object that no window overlaps by IoU t cannot be found at t (box regression apart), so recall is the
ceiling of a detector. Each object counts by the window that overlaps it most; one window may serve
several objects. VOC's difficult and COCO's crowd objects are left out, as in the evaluation of a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Doubles, exact_iou
from spp_det.data.records import Dataset
from spp_det.errors import UserError


@dataclass(frozen=True)
class Covered:
    """How well windows cover a set of objects. Figures are fractions of 1; NaN where there is no object.

    Attributes:
        objects: their number.
        recall: for each threshold, the fraction of objects with a window of at least that IoU.
        abo: average best overlap, the mean over the objects of the best window's IoU.
    """

    objects: int
    recall: dict[float, float]
    abo: float


@dataclass(frozen=True)
class RecallResult:
    """Recall of one set of proposals.

    Attributes:
        overall: of the objects of all classes together.
        mabo: the mean ``abo`` of the classes that have objects; NaN where no class has any.
        windows: mean number of windows an image; NaN where there is no image.
        per_class: by class name.
    """

    overall: Covered
    mabo: float
    windows: float
    per_class: dict[str, Covered]


def evaluate_recall(
    dataset: Dataset, windows: Sequence[Boxes], thresholds: Sequence[float] = (0.5, 0.7)
) -> RecallResult:
    """Recall at some IoU thresholds, and average best overlap, of every class and overall.

    Args:
        dataset: the objects to cover.
        windows: ``[N, 4]`` boxes of each image (see `spp_det.boxes`), in the order of ``dataset.records``.
        thresholds: overlaps in (0, 1] from which a window covers an object.

    Raises:
        UserError: a coordinate is NaN or infinite, or a threshold is out of range.
        ValueError: there is not one ``[N, 4]`` array an image.
    """
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise UserError(f"IoU thresholds must lie in (0, 1], got {', '.join(map(str, thresholds))}")
    if len(windows) != len(dataset.records):
        raise ValueError(
            f"windows of {len(windows)} images for {len(dataset.records)} images: one array each"
        )
    best: list[Doubles] = [np.zeros(0)]
    labels: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for record, boxes in zip(dataset.records, windows, strict=True):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"image {record.image_id}: windows {list(boxes.shape)} must be [N, 4]")
        if not np.isfinite(boxes).all():
            raise UserError(f"image {record.image_id}: a window is NaN or infinite")
        counted = ~(record.difficult | record.crowd)
        best.append(exact_iou(record.boxes[counted], boxes).max(axis=1, initial=0.0))
        labels.append(record.labels[counted])
    overlaps, label = np.concatenate(best), np.concatenate(labels)
    per_class = {
        name: _covered(overlaps[label == index], thresholds) for index, name in enumerate(dataset.classes)
    }
    return RecallResult(
        overall=_covered(overlaps, thresholds),
        mabo=_mean(np.array([covered.abo for covered in per_class.values() if covered.objects])),
        windows=_mean(np.array([float(len(boxes)) for boxes in windows])),
        per_class=per_class,
    )


def _covered(overlaps: Doubles, thresholds: Sequence[float]) -> Covered:
    recall = {threshold: _mean((overlaps >= threshold).astype(np.float64)) for threshold in thresholds}
    return Covered(objects=len(overlaps), recall=recall, abo=_mean(overlaps))


def _mean(values: Doubles) -> float:
    return float(values.mean()) if len(values) else np.nan
