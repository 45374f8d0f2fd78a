"""Annotated boxes and the edges of their image: which size is right, and how boxes are clipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, clip
from spp_det.data.records import Change, Record
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, image_size

logger = logging.getLogger(__name__)

MAX_COORDINATE = 2**24  # pixels; float32 holds every integer up to here
SLACK = 0.05  # pixels; a box that a format rounded to two decimals may overshoot an edge by this much


def clip_records(
    records: Sequence[Record], name_object: Callable[[Record, int], str], source: str
) -> list[Record]:
    """The records with every box clipped to its image, as readers return them.

    An image's size is the one that its annotation states. Only where a box reaches beyond it is the
    header of the image file read: where the two sizes differ, the file's is right, goes into the
    record, and a warning names the file. (All other sizes that differ: `spp_det.data.sizes`.) Where no
    size is known, boxes are only clipped at the left and top edges.

    Boxes that are clipped by more than a rounding error are counted in one warning that names the first.
    ``name_object(record, index)`` names an object in a message, ``source`` names the data set.

    Raises UserError where nothing of a box lies inside its image: it names the first such object and counts
    the images that have others.
    """
    inside: list[Record] = []
    gone: list[UserError] = []
    clipped: list[str] = []
    images = 0
    for record in records:
        if _outside(record.boxes, record.size, SLACK).any():
            record = _with_true_size(record)
        overshooting = np.flatnonzero(_outside(record.boxes, record.size, SLACK))
        names = [name_object(record, int(index)) for index in overshooting]
        boxes = map(tuple, record.boxes[overshooting].tolist())
        outside = [Change("outside", name, box) for name, box in zip(names, boxes, strict=True)]
        clipped += names
        images += len(overshooting) > 0
        record = replace(record, changes=(*record.changes, *outside)) if outside else record
        try:
            inside.append(_clipped(record, name_object))
        except UserError as error:
            gone.append(error)
    if gone:
        others = f"; so do boxes in {len(gone) - 1} other images" if len(gone) > 1 else ""
        raise UserError(f"{gone[0]}{others}")
    if clipped:
        logger.warning(
            "%s: %d boxes in %d images reach outside their image and were clipped, the first is %s",
            source, len(clipped), images, clipped[0],
        )  # fmt: skip
    return inside


def fit_record(record: Record, width: int, height: int) -> Record:
    """The record of an image that has now been decoded, its boxes clipped to the true size in pixels.

    Where the annotation states another size, the image's own size counts, and the boxes are not rescaled: the
    reader has warned of it (see `spp_det.data.sizes`). Returns the record itself where nothing changes.

    Raises UserError where nothing of a box lies inside the image.
    """
    settled = record if record.size == (width, height) else replace(record, size=(width, height))
    return _clipped(settled, lambda record, index: f"{record.path}: object {index + 1}")


def _outside(boxes: Boxes, size: tuple[int, int] | None, slack: float = 0.0) -> npt.NDArray[np.bool_]:
    """``[N, 4] -> bool [N]``: whether a box reaches beyond an image by more than ``slack`` pixels."""
    low, high = boxes[:, :2], boxes[:, 2:]
    limit = np.array(size or (np.inf, np.inf))
    return np.asarray(((low < -slack) | (high > limit + slack)).any(axis=1))


def _clipped(record: Record, name_object: Callable[[Record, int], str]) -> Record:
    if not _outside(record.boxes, record.size).any():
        return record
    width, height = record.size or (np.inf, np.inf)
    boxes = clip(record.boxes, width, height)
    empty = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
    if len(empty):
        where = f"the {width}x{height} image" if record.size else "the image"
        raise UserError(f"{name_object(record, int(empty[0]))} lies outside {where}")
    return replace(record, boxes=boxes)


def _with_true_size(record: Record) -> Record:
    """The record with its image file's size, or as it was where the file cannot tell."""
    try:
        size = image_size(record.path)
    except UnreadableImageError:  # the code that decodes the image reports it
        return record
    if record.size is None or record.size == size:
        return replace(record, size=size)
    stated, true = ("{}x{}".format(*each) for each in (record.size, size))
    logger.warning(
        "%s: is %s, but its annotation says %s; the photo's own size counts", record.path, true, stated
    )
    change = Change("size", f"labelled at {stated}, is {true}")
    return replace(record, size=size, changes=(*record.changes, change))
