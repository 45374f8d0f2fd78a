"""One image in memory: its annotated objects, whatever format they came from, and its detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Ints


class Change(NamedTuple):
    """What a reader found odd about an annotation and, where it could, put right.

    Attributes:
        kind: ``turned``, boxes drawn on the photo before EXIF turned it; ``size``, the annotation states
            another size than the photo has; ``outside``, a box that reaches outside the photo.
        what: the same in words, with numbers.
        box: ``(x1, y1, x2, y2)`` as annotated, of a box outside; else None.
    """

    kind: Literal["turned", "size", "outside"]
    what: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """One image and its annotated objects; pixels stay on disk until somebody asks for them.

    Attributes:
        image_id: the name of the image inside its data set: a VOC id (``"000005"``), or the
            ``file_name`` of a COCO image. Unique in a data set.
        path: where the image file lies.
        boxes: float32 ``[G, 4]`` in pixels of the image (see `spp_det.boxes`).
        labels: int64 ``[G]``, indices into the data set's ``classes``.
        difficult: bool ``[G]``; VOC's ``difficult``. Such objects are neither training positives
            nor counted by the evaluation.
        crowd: bool ``[G]``; COCO's ``iscrowd``. Always false in VOC data.
        size: ``(width, height)`` as the annotation states it, or None.
        changes: what the reader found odd; the boxes here are right, as far as it could tell.

    >>> no = np.zeros(1, np.bool_)
    >>> boxes, labels = np.float32([[10, 20, 80, 90]]), np.array([0])
    >>> len(Record("000005", Path("000005.jpg"), boxes, labels, difficult=no, crowd=no))
    1
    """

    image_id: str
    path: Path
    boxes: Boxes
    labels: Ints
    difficult: npt.NDArray[np.bool_]
    crowd: npt.NDArray[np.bool_]
    size: tuple[int, int] | None = None
    changes: tuple[Change, ...] = ()

    def __len__(self) -> int:
        """The number of annotated objects."""
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class Dataset:
    """An ordered list of records and the class names that their labels index.

    Attributes:
        classes: class names; background is not one of them.
        records: one `Record` an image, in the order of the split.
        category_ids: COCO ids of the classes, in the order of ``classes``; ``1..K`` for VOC data.
        coco_ids: COCO ids of the images, in the order of ``records``; ``1..N`` for VOC data.
    """

    classes: tuple[str, ...]
    records: Sequence[Record]
    category_ids: tuple[int | str, ...] = field(default=())
    coco_ids: tuple[int | str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(1, len(self.classes) + 1)))
        if not self.coco_ids:
            object.__setattr__(self, "coco_ids", tuple(range(1, len(self.records) + 1)))

    def __len__(self) -> int:
        """The number of images."""
        return len(self.records)


class Detections(TypedDict):
    """The detections of one image, all classes together; a detector gives the highest score first.

    Attributes:
        boxes: float32 ``[N, 4]`` in pixels of the image (see `spp_det.boxes`).
        labels: int64 ``[N]``, indices into ``classes``.
        scores: ``[N]``, float32 of a detector (SVM margins or log-odds: above 0 the answer is yes), float64
            of a file, so that scores rank exactly as the file gives them.
    """

    boxes: Boxes
    labels: Ints
    scores: npt.NDArray[np.floating]


def select(detections: Detections, kept: npt.NDArray[np.bool_]) -> Detections:
    """The detections that a mask ``[N]`` marks."""
    return Detections(
        boxes=detections["boxes"][kept], labels=detections["labels"][kept], scores=detections["scores"][kept]
    )
