"""The windows of an annotated image as examples: positives, near an object, background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Floats, Ints, area, intersection, iou, nms
from spp_det.data.records import Record


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """An image's windows, ground truth first, and how they overlap its objects.

    Attributes:
        boxes: float32 ``[N, 4]``: the objects' own boxes, then the proposals.
        objects: the number of objects.
        overlaps: float32 ``[N, G]``, the IoU of each window with every object.
        record: the annotation.
    """

    boxes: Boxes
    objects: int
    overlaps: Floats
    record: Record

    @classmethod
    def of(cls, record: Record, proposals: Boxes) -> LabelledWindows:
        """Put an image's objects and its ``[N, 4]`` proposals together."""
        boxes = np.concatenate([record.boxes, proposals])
        return cls(boxes, len(record.boxes), iou(boxes, record.boxes), record)

    def positives(self, min_iou: float) -> tuple[Ints, Ints]:
        """Indices ``[P]`` and labels ``[P]`` of the SVMs' positives.

        These are the objects themselves (P section 4.1) and, for ``min_iou < 1``, windows with that overlap.
        """
        own = np.flatnonzero(~(self.record.difficult | self.record.crowd))
        if min_iou == 1:
            return own, self.record.labels[own]
        windows, objects = self.near(min_iou)
        proposals = windows >= self.objects
        labels = [self.record.labels[own], self.record.labels[objects[proposals]]]
        return np.concatenate([own, windows[proposals]]), np.concatenate(labels)

    def class_overlaps(self, classes: int) -> Floats:
        """``[N, K]``: the largest overlap with any object of each class, difficult ones too; 0 without one.

        The overlap is IoU; for a crowd it is the part of the window inside the crowd, as in COCO's own
        evaluation: a small window in a large crowd has little IoU with it, but shows objects of its class.
        """
        best = np.zeros((len(self.boxes), classes), np.float32)
        for column, label in enumerate(self.record.labels):
            np.maximum(best[:, label], self.overlaps[:, column], out=best[:, label])
        for label, inside in zip(self.record.labels[self.record.crowd], self._inside_crowds().T, strict=True):
            np.maximum(best[:, label], inside, out=best[:, label])
        return best

    def near(self, min_iou: float) -> tuple[Ints, Ints]:
        """Windows ``[P]`` whose IoU with an object is at least ``min_iou``, and the object ``[P]`` that each
        overlaps most.

        A window is no example where this object is difficult or a crowd.
        """
        if not len(self.record.boxes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        target = self.overlaps.argmax(axis=1)
        target[: self.objects] = np.arange(self.objects)  # itself, also where two share a box
        usable = ~(self.record.difficult | self.record.crowd)[target]
        near = self.overlaps[np.arange(len(target)), target] >= min_iou
        windows = np.flatnonzero(usable & near)
        return windows, target[windows]

    def background(self, low: float, high: float) -> Ints:
        """Windows ``[M]`` whose largest IoU with any object is ``low`` or more, and below ``high``.

        A window that overlaps a difficult object by more than ``low``, or lies in a crowd with more than that
        part of its area, is left out: its class is unknown.
        """
        largest = self.overlaps.max(axis=1, initial=0)
        unknown = np.concatenate([self.overlaps[:, self.record.difficult], self._inside_crowds()], axis=1)
        known = unknown.max(axis=1, initial=0) <= low
        return np.flatnonzero((largest >= low) & (largest < high) & known)

    def _inside_crowds(self) -> Floats:
        """``[N, crowds]``: the part of each window's area that lies in each crowd."""
        shared = intersection(self.boxes, self.record.boxes[self.record.crowd])
        return np.asarray(shared / np.maximum(area(self.boxes), 1)[:, None], dtype=np.float32)


def signs_of(vector_of: Ints, windows: Ints, labels: Ints, classes: int) -> tuple[Ints, npt.NDArray[np.int8]]:
    """Positives ``[P]`` with labels ``[P]`` by their vectors: the distinct numbers ``[n]`` of these, and
    signs ``[n, K]`` that count the windows of a class with this vector, 127 at most.

    ``vector_of [N]`` is the vector of each window of the image.
    """
    rows, row_of = np.unique(vector_of[windows], return_inverse=True)
    signs = np.zeros((len(rows), classes), np.int64)
    np.add.at(signs, (row_of, labels), 1)
    return rows, np.minimum(signs, 127).astype(np.int8)


def spread_out(boxes: Boxes, scores: Floats, candidates: npt.NDArray[np.bool_], max_iou: float) -> Ints:
    """The candidates among windows ``[N]`` without duplicates, which overlap a better candidate by more than
    ``max_iou`` (P section 4.1: 0.7)."""
    index = np.flatnonzero(candidates)
    return index[nms(boxes[index], scores[index], max_iou)]
