"""What annotation tools export in one file, without the photos: a data set of the photos in a folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from spp_det.boxes import as_boxes
from spp_det.data.bounds import MAX_COORDINATE, clip_records
from spp_det.data.names import Links, can_be_a_file, check_class_names
from spp_det.data.photos import images_below
from spp_det.data.records import Dataset, Record
from spp_det.data.sizes import settle_sizes
from spp_det.errors import UserError

logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]
_PREFIX = re.compile("[0-9a-f]{8}-(?=.)")  # Label Studio's, before the name of a photo that it was given


@dataclass(frozen=True)
class Labelled:
    """A photo as a tool's file describes it.

    Attributes:
        where: the place in the file, for messages.
        name: of the photo, as the file states it: a path, or an address.
        size: ``(width, height)`` in pixels, or None.
        boxes: the corners of each object in pixels (see `spp_det.boxes`).
        classes: the class of each object.
    """

    where: str
    name: str
    size: tuple[int, int] | None
    boxes: Sequence[Box] = ()
    classes: Sequence[str] = ()


@dataclass
class LeftOut:
    """Counts what a file holds and a data set of boxes cannot, for one warning that names the first."""

    what: str
    places: list[str] = field(default_factory=list)

    def warn(self, source: str) -> None:
        """Say how many there are, where there are any."""
        if self.places:
            logger.warning(
                "%s: %d %s are left out, the first is %s", source, len(self.places), self.what, self.places[0]
            )


def dataset_of(
    labelled: Sequence[Labelled], classes: Sequence[str], photos: Path, source: str, *, follow_links: bool
) -> Dataset:
    """The data set of labelled photos, in their order. ``classes`` are declared ones; others come behind.

    Photos of which the folder ``photos`` has none are left out, in one warning. Sizes that differ from those
    of the photos are settled as `settle_sizes` says, and boxes are clipped.

    Raises UserError, one line, where no photo is found, two photos have the name of one, or one photo is
    there twice; for a name or a box that cannot be; and for a link out of the folder.
    """
    links = Links(photos, follow=follow_links)
    by_name: dict[str, list[Path]] = {}
    for path in images_below(photos, links):
        by_name.setdefault(path.name, []).append(path)
    names = list(dict.fromkeys([*classes, *(name for each in labelled for name in each.classes)]))
    check_class_names(names, source)
    label_of = {name: label for label, name in enumerate(names)}
    records: list[Record] = []
    missing, taken = LeftOut("photos that the folder does not have"), dict[Path, str]()
    for each in labelled:
        photo = _photo(each, photos, by_name)
        if photo is None:
            missing.places.append(f"{each.where} ({each.name[:200]!r})")
            continue
        if photo in taken:
            raise UserError(f"{each.where}: its photo {photo} is that of {taken[photo]}, too")
        taken[photo] = each.where
        count = len(each.boxes)
        records.append(
            Record(
                image_id=photo.relative_to(photos).as_posix(),
                path=photo,
                boxes=as_boxes([_checked(box, each.where) for box in each.boxes]),
                labels=np.array([label_of[name] for name in each.classes], np.int64),
                difficult=np.zeros(count, np.bool_),
                crowd=np.zeros(count, np.bool_),
                size=each.size,
            )
        )
    if not records:
        first = f"; the first is {missing.places[0]}" if missing.places else ""
        raise UserError(f"{source}: none of its {len(labelled)} photos lies in {photos}{first}: say --photos")
    missing.warn(source)

    def name_object(record: Record, index: int) -> str:
        return f"{source}: {record.image_id}: object {index + 1} ({names[record.labels[index]]})"

    settled = settle_sizes(records, source)
    return Dataset(tuple(names), clip_records(settled, name_object, source))


def _photo(each: Labelled, photos: Path, by_name: dict[str, list[Path]]) -> Path | None:
    """The photo that a stated name ends in: below the folder by as many of its parts as lead there, or the
    only one of that name, which may have lost the prefix that Label Studio adds."""
    stated = each.name.replace("\\", "/")
    if stated.startswith(("/data/", "http://", "https://", "s3://", "gs://")):
        address = urlsplit(stated)
        inner = parse_qs(address.query, errors="surrogateescape").get("d")
        stated = inner[0] if inner else unquote(address.path, errors="surrogateescape")
    if not can_be_a_file(stated) or not PurePosixPath(stated).name:
        raise UserError(f"{each.where} has the photo {each.name[:100]!r}, which no file can have as a name")
    parts = [part for part in PurePosixPath(stated).parts if part not in ("/", "..", ".")]
    spellings = [parts, [*parts[:-1], _PREFIX.sub("", parts[-1], count=1)]] if parts else []
    for spelled in spellings:
        same = by_name.get(spelled[-1], [])
        for start in range(len(spelled)):
            place = photos.joinpath(*spelled[start:])
            if place in same:
                return place
        if len(same) > 1:
            raise UserError(f"{each.where}: the photo {each.name[:200]!r} may be {same[0]} or {same[1]}")
        if same:
            return same[0]
    return None


def _checked(box: Box, where: str) -> Box:
    x1, y1, x2, y2 = box
    if not all(abs(value) <= MAX_COORDINATE for value in box):
        raise UserError(f"{where} has a box with a corner that is no number of pixels: {box}")
    if x2 < x1 or y2 < y1:
        raise UserError(f"{where} has an inverted box: x {x1:g} to {x2:g}, y {y1:g} to {y2:g}")
    return box
