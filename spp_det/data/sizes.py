"""Whether the size that an annotation states is the size of its photo, and photos that EXIF turns.

Boxes are wrong without a sign of it where a photo was resized after it was labelled, or where it was labelled
unturned: older tools show the stored pixels, while `spp_det.images.read_image` turns them upright.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from spp_det.boxes import Boxes, as_boxes
from spp_det.data.records import Change, Record
from spp_det.errors import UserError
from spp_det.images import SIDEWAYS, UnreadableImageError, image_turn

logger = logging.getLogger(__name__)

Size = tuple[int, int]  # width, height in pixels


def settle_sizes(records: Sequence[Record], source: str) -> list[Record]:
    """The records, with the boxes of photos that were labelled unturned turned upright, and what was odd.

    Such a photo has an EXIF orientation of 5 to 8, and its annotation states the size of the stored pixels.
    Its boxes are turned with it, unless they would leave the photo while the boxes as they are do not: then
    the stated size is the wrong one. One warning counts these photos, another one counts the photos whose
    size differs from the stated size for no reason that can be told. Both begin with ``source``. Headers of
    image files are read, no pixels; a photo without a readable header is left to whoever decodes it.
    """
    settled, turned, differing = list(records), [], []
    for index, record in enumerate(records):
        true = _true_size(record)
        if record.size is None or true is None or record.size == true[0]:
            continue
        (width, height), orientation = true
        if record.size == (height, width) and orientation in SIDEWAYS:
            boxes = turn(record.boxes, orientation, (width, height))
            if _inside(boxes, (width, height)) or not _inside(record.boxes, (width, height)):
                turned.append(record)
                change = Change("turned", f"labelled unturned; EXIF orientation {orientation} turns it")
                settled[index] = replace(record, boxes=boxes, changes=(*record.changes, change))
            settled[index] = replace(settled[index], size=(width, height))
        elif _inside(record.boxes, record.size):  # else the boxes themselves tell that the size is wrong
            differing.append((record, (width, height)))
            change = Change("size", "labelled at {}x{}, is {}x{}".format(*record.size, width, height))
            settled[index] = replace(record, changes=(*record.changes, change))
    if turned:
        logger.warning(
            "%s: %d photos are turned by their EXIF orientation but were labelled unturned; their boxes are "
            "turned with them, the first is %s",
            *(source, len(turned), turned[0].path),
        )
    if differing:
        logger.warning("%s: %s", source, _differences(differing))
    return settled


def check_sizes(records: Sequence[Record], sizes: Sequence[Size | None], source: str) -> None:
    """Refuse a truth that was drawn on photos of another size than the detections' photos.

    Args:
        records: the truth, settled by `settle_sizes`.
        sizes: ``(width, height)`` of each photo as the detections state it, or None where they do not.
        source: the truth's name, with which the message begins.

    Raises:
        UserError: one line that counts the photos, names the first, both sizes and the remedy.
    """
    differing = []
    for record, stated in zip(records, sizes, strict=True):
        true = _true_size(record) if record.size else None
        looked_at = stated or (true[0] if true else None)
        if record.size is not None and looked_at is not None and record.size != looked_at:
            differing.append((record, looked_at))
    if differing:
        raise UserError(f"{source}: {_differences(differing)}")


def _differences(differing: Sequence[tuple[Record, Size]]) -> str:
    record, (width, height) = differing[0]
    stated = "{}x{}".format(*record.size or (0, 0))
    return (
        f"the annotations of {len(differing)} photos state another size than the photos have, the first is "
        f"{record.path}: {width}x{height}, labelled at {stated}. Boxes of photos that were resized after "
        "labelling are wrong: label them again, or scale the boxes; where only the stated size is wrong, "
        "correct or remove it"
    )


def turn(boxes: Boxes, orientation: int, upright: Size) -> Boxes:
    """Boxes ``[N, 4]`` in stored pixels as boxes in the upright photo of size ``(width, height)``.

    ``orientation`` is EXIF's, 5 to 8: the orientations that exchange width and height.
    """
    (width, height), (x1, y1, x2, y2) = upright, boxes.T
    corners = {
        5: (y1, x1, y2, x2),
        6: (width - y2, x1, width - y1, x2),
        7: (width - y2, height - x2, width - y1, height - x1),
        8: (y1, height - x2, y2, height - x1),
    }[orientation]
    return as_boxes(list(zip(*(corner.tolist() for corner in corners), strict=True)))


def _inside(boxes: Boxes, size: Size) -> bool:
    width, height = size
    return bool(((boxes[:, :2] >= -1) & (boxes[:, 2:] <= (width + 1, height + 1))).all())


def _true_size(record: Record) -> tuple[Size, int] | None:
    try:
        return image_turn(record.path)
    except UnreadableImageError:  # whoever decodes the image reports it
        return None
