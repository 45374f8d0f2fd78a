"""YOLO data sets: a text file a photo, whose lines are a class number and a box in fractions of the photo.

``CLASS X Y WIDTH HEIGHT``, where x and y are the box's centre; or ``CLASS X1 Y1 X2 Y2 X3 Y3 ...``, the
corners of a polygon, which is read as its bounding box. Where the files lie: `spp_det.data.yolo_layout`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from spp_det.boxes import as_boxes
from spp_det.data.bounds import clip_records
from spp_det.data.names import AnyPath, Links, leads_out
from spp_det.data.photos import images_below
from spp_det.data.records import Dataset, Record
from spp_det.data.yolo_layout import Layout, label_file, photos_of, read_layout
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, image_size
from spp_det.runtime.files import read_text, unlinked
from spp_det.runtime.whole_files import write_whole

logger = logging.getLogger(__name__)

MOST_LABEL_BYTES = 2**24  # of one photo's label file
FARTHEST = 2.0**20  # of a coordinate, in widths or heights of the photo


def read_yolo(root: AnyPath, split: str | None = None, *, follow_links: bool = False) -> Dataset:
    """Read one split of a YOLO data set, or with None all photos that have a label file.

    No image is decoded, but the header of every image is read: boxes are fractions of the photo's size. A
    photo of a split that has no label file, or an empty one, has boxes ``[0, 4]``: a source of negatives. An
    image that is missing or damaged is left to whoever decodes it, and has no boxes.

    ``image_id`` is the photo's path below the root, with its suffix. ``classes`` are all names that the data
    set declares, in the order of their numbers.

    Bad annotations. UserError, one line naming the file and the line: fewer or other than numbers, a class
    number without a name, an odd number of corners, a negative width, a box wholly outside the photo.
    Warning: a box that reaches outside is clipped, a sixth number, which is a detection's score, is not used,
    and a box without width or height is left out; each is counted and the first one named.

    Raises UserError also for a folder that is no YOLO data set, for a split that it does not have, and for a
    link that leads out of the root, unless ``follow_links``.
    """
    root = Path(root)
    links = Links(root, follow=follow_links)
    layout = read_layout(root, links)
    if split is None:
        photos = images_below(root, links)
        labelled = [photo for photo in photos if label_file(layout, photo) is not None]
        if not labelled:
            raise UserError(
                f"{root}: none of its {len(photos)} photos has a label file: NAME.txt beside NAME.jpg, or in "
                "a folder labels, or beside classes.txt"
            )
        if len(labelled) < len(photos):
            without = next(photo for photo in photos if photo not in set(labelled))
            logger.warning(
                "%s: %d photos have no label file and are left out, the first is %s; an empty label file "
                "stands for a photo without objects",
                *(root, len(photos) - len(labelled), without),
            )
    else:
        labelled = photos_of(layout, split, links)
    return _dataset(layout, labelled, links, str(root) if split is None else f"{root} {split}")


def _dataset(layout: Layout, photos: Sequence[Path], links: Links, source: str) -> Dataset:
    place = {number: label for label, number in enumerate(layout.names)}
    lines_of: dict[str, list[int]] = {}  # image id -> the lines of its objects, for messages
    scored: list[str] = []
    empty: list[str] = []
    records = []
    for photo in photos:
        image_id = photo.relative_to(layout.root).as_posix()
        file = label_file(layout, photo)
        found = _Labels([], [], [])
        size = _size(photo)
        if file is not None and size is not None:
            found = _read_labels(links.checked(file), size, layout, scored, empty)
        lines_of[image_id] = found.lines
        labels = np.array([place[number] for number in found.numbers], np.int64)
        no = np.zeros(len(labels), np.bool_)
        records.append(Record(image_id, photo, as_boxes(found.boxes), labels, no, no, size))
    odd = {"have a score, which is not used": scored, "have no area and were left out": empty}
    for what, where in odd.items():
        if where:
            logger.warning("%s: %d boxes %s, the first is %s", source, len(where), what, where[0])

    classes = tuple(layout.names.values())

    def name_object(record: Record, index: int) -> str:
        file = label_file(layout, record.path)
        line = lines_of[record.image_id][index]
        return f"{file}: line {line} ({classes[record.labels[index]]})"

    return Dataset(classes, clip_records(records, name_object, source))


class _Labels:
    """The objects of one label file: class numbers, boxes in pixels, and the lines that they stand in."""

    def __init__(
        self, numbers: list[int], boxes: list[tuple[float, float, float, float]], lines: list[int]
    ) -> None:
        self.numbers = numbers
        self.boxes = boxes
        self.lines = lines


def _read_labels(
    path: Path, size: tuple[int, int], layout: Layout, scored: list[str], empty: list[str]
) -> _Labels:
    found = _Labels([], [], [])
    for number, line in enumerate(read_text(path, MOST_LABEL_BYTES).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}: line {number}"
        try:
            label, *values = map(float, fields)
        except ValueError:
            raise UserError(f"{where}: wanted are numbers alone, got {line[:100]!r}") from None
        if not (label.is_integer() and int(label) in layout.names):
            known = f"{min(layout.names)} to {max(layout.names)}"
            raise UserError(f"{where}: class {fields[0][:20]} has no name in {layout.source} ({known})")
        if not all(abs(value) <= FARTHEST for value in values):  # NaN is not either
            raise UserError(
                f"{where}: coordinates must be fractions of the photo, 0 to 1, got {line[:100]!r}"
            )
        if len(values) == 5:
            scored.append(where)
            del values[4]
        box = _box(values, size, where)
        if np.float32(box[0]) < np.float32(box[2]) and np.float32(box[1]) < np.float32(box[3]):
            found.numbers.append(int(label))
            found.boxes.append(box)
            found.lines.append(number)
        else:
            empty.append(where)
    return found


def _box(values: list[float], size: tuple[int, int], where: str) -> tuple[float, float, float, float]:
    """A line's numbers as ``(x1, y1, x2, y2)`` in pixels."""
    width, height = size
    if len(values) == 4:
        x, y, w, h = values
        if min(w, h) < 0:
            raise UserError(f"{where}: width or height is negative: {w:g}, {h:g}")
        ends = (*ends_of(x, w, width), *ends_of(y, h, height))
        return ends[0], ends[2], ends[1], ends[3]
    if len(values) < 6 or len(values) % 2:
        raise UserError(
            f"{where}: wanted are a class and four numbers, or the corners of a polygon; "
            f"there are {len(values)} numbers after the class"
        )
    across, down = values[::2], values[1::2]
    return min(across) * width, min(down) * height, max(across) * width, max(down) * height


def ends_of(centre: float, extent: float, side: int) -> tuple[float, float]:
    """Both ends in pixels of a box's side, from fractions of a photo's side.

    Fractions know the ends to some 15 digits of the farther one, and the ends are rounded to these digits:
    0 comes back as 0.
    """
    low, high = (centre - extent / 2) * side, (centre + extent / 2) * side
    farther = max(abs(low), abs(high))
    if not 0 < farther < math.inf:
        return low, high
    digits = 15 - math.ceil(math.log10(farther))
    return round(low, digits), round(high, digits)


def label_line(number: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    """Class number, and centre, width and height of ``(x1, y1, x2, y2)`` in fractions of ``(width, height)``:
    the inverse of `ends_of`."""
    (x1, y1, x2, y2), (width, height) = box, size
    fractions = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    return f"{number} {' '.join(map(repr, fractions))}"


def _size(photo: Path) -> tuple[int, int] | None:
    try:
        return image_size(photo)
    except UnreadableImageError:  # whoever decodes the image reports it
        return None


def write_yolo(dataset: Dataset, root: AnyPath, split: str) -> None:
    """Write the label files of a split, ``classes.txt`` and ``data.yaml`` under ``root``; photos are not
    touched.

    `read_yolo` gives the same boxes back once each photo lies in ``ROOT/images/SPLIT``, under its image id
    with the suffix of its file. Difficult and crowd objects are written like all others: the format has no
    place for the difference. ``data.yaml`` names all splits that lie there, and is written last. Raises
    UserError for an image id that would lead out of ``root``, and for a photo without a readable header.
    """
    root = Path(root)
    for record in dataset.records:
        if leads_out(record.image_id):
            raise UserError(f"image id {record.image_id!r} cannot be written: it leads out of {root}")
        size = record.size or image_size(record.path)
        path = (root / "labels" / split / photo_name(record)).with_suffix(".txt")
        unlinked(root, path.parent.relative_to(root))
        rows = zip(record.labels.tolist(), record.boxes.astype(np.float64).tolist(), strict=True)
        write_whole(path, "".join(f"{label_line(*row, size)}\n" for row in rows))
    splits = {folder.name: f"images/{folder.name}" for folder in sorted((root / "labels").iterdir())}
    usual = sorted(splits, key=lambda name: ("train", "val", "test", name).index(name))  # then all others
    paths = {"path": ".", **{name: splits[name] for name in usual}}
    for name, text in class_files(dataset.classes, paths).items():
        write_whole(root / name, text)


CLASS_FILES = ("classes.txt", "data.yaml")


def class_files(classes: Sequence[str], paths: Mapping[str, str] | None = None) -> dict[str, str]:
    """The text of each of `CLASS_FILES`; ``paths`` are the splits in ``data.yaml``."""
    tree = {**(paths or {}), "nc": len(classes), "names": list(classes)}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return dict(zip(CLASS_FILES, ("".join(f"{name}\n" for name in classes), text), strict=True))


def photo_name(record: Record) -> str:
    """Where the photo of a record lies below ``images/SPLIT``: its id, with the suffix of its file."""
    suffix = record.path.suffix
    return record.image_id if record.image_id.endswith(suffix) else f"{record.image_id}{suffix}"
