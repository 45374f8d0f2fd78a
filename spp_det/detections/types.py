"""A detection where it is read and written, an image with its detections, and the check before any figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spp_det.data.records import Dataset, Detections
from spp_det.errors import UserError
from spp_det.images import RGB, UnreadableImageError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the image (see `spp_det.boxes`)


class Found(NamedTuple):
    """One detection as a line of a file holds it: the name of its image and of its class, score and box."""

    image: str
    name: str
    score: float
    box: Box


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """An image file, its pixels and its detections."""

    path: Path
    image: RGB
    detections: Detections


Result = DetectedImage | UnreadableImageError


def check_detections(dataset: Dataset, detections: Sequence[Detections]) -> None:
    """Refuse detections that no figure can be computed from.

    Raises:
        ValueError: there is not one entry an image, shapes disagree, or a label is no class.
        UserError: a score or a coordinate is NaN or infinite.
    """
    if len(detections) != len(dataset.records):
        raise ValueError(f"{len(detections)} detections for {len(dataset.records)} images: one entry each")
    for record, found in zip(dataset.records, detections, strict=True):
        boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
        if boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
            raise ValueError(
                f"image {record.image_id}: boxes {list(boxes.shape)}, labels {list(labels.shape)} and scores "
                f"{list(scores.shape)} must be [N, 4], [N] and [N]"
            )
        if not np.isfinite(scores).all():
            raise UserError(f"image {record.image_id}: a detection's score is NaN or infinite")
        if not np.isfinite(boxes).all():
            raise UserError(f"image {record.image_id}: a detection's box is NaN or infinite")
        if np.any((labels < 0) | (labels >= len(dataset.classes))):
            raise ValueError(f"image {record.image_id}: labels must lie in [0, {len(dataset.classes)})")
