"""What the entries of COCO's JSON files must hold, for training and for COCO's own evaluation.

Both read an instances file: ``images``, ``annotations`` and ``categories``. Training (`spp_det.data.coco`)
needs whole numbers as ids, file names and boxes of a possible size. COCO's figures (`check_instances`) need
less: pycocotools takes names as ids, files without names, and annotations of unknown images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.data.bounds import MAX_COORDINATE
from spp_det.data.names import can_be_a_file, leads_out
from spp_det.errors import UserError

Json = dict[str, Any]


def entries_by_id(path: Path, content: Json, key: str) -> dict[int, Json]:
    """One of the file's three lists as a dictionary by ``id``, in the order of the file."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a COCO instances file: it lacks the list {key!r}")
    by_id: dict[int, Json] = {}
    for position, entry in enumerate(entries):
        where = f"{path}: {key}[{position}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is not an object")
        entry_id = integer_of(entry, "id", where)
        if entry_id in by_id:
            raise UserError(f"{where} has an id that is used already: {entry_id}")
        by_id[entry_id] = entry
    return by_id


def integer_of(entry: Json, key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int:  # a bool is an int too
        raise UserError(f"{where} has {key} {value!r}, which is not an integer")
    return value


def text_of(entry: Json, key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} has {key} {value!r}, which is not a text")
    return value


def has_area(annotation: Json, where: str) -> bool:
    """Whether the ``bbox``, found to be valid, covers anything."""
    bbox: Any = annotation.get("bbox")
    numbers = isinstance(bbox, list) and all(type(value) in (int, float) for value in bbox)
    if not (numbers and len(bbox) == 4 and all(abs(value) <= MAX_COORDINATE for value in bbox)):
        raise UserError(f"{where} has bbox {bbox!r}, which is not four numbers of pixels")
    x, y, width, height = bbox
    if width < 0 or height < 0:
        raise UserError(f"{where} has bbox {bbox}, whose width or height is negative")
    # In float32, as boxes are: a width of 1e-9 is none beside an x of 100.
    return bool(np.float32(x + width) > np.float32(x) and np.float32(y + height) > np.float32(y))


def file_name_of(image: Json, where: str) -> str:
    name = text_of(image, "file_name", where).replace("\\", "/")
    if leads_out(name):
        raise UserError(f"{where} has file_name {name!r}, which leads out of the folder of images")
    if not can_be_a_file(name):
        raise UserError(f"{where} has file_name {name[:100]!r}, which no file can have")
    return name


def size_of(image: Json, where: str) -> tuple[int, int] | None:
    """``(width, height)`` as stated; None where absent or zero."""
    if image.get("width") is None or image.get("height") is None:
        return None
    width, height = integer_of(image, "width", where), integer_of(image, "height", where)
    if max(width, height) > MAX_COORDINATE:
        raise UserError(f"{where} is stated to be larger than {MAX_COORDINATE} pixels")
    return (width, height) if width > 0 and height > 0 else None


# ---- COCO's own evaluation ----


def check_instances(instances: Any, name: str) -> None:
    """Raise a UserError of one line, which starts with ``name``, where ``instances`` is not a COCO
    ground truth of boxes.
    """
    if not isinstance(instances, Mapping):
        raise UserError(f"{name}: must be a JSON object with images, annotations and categories")
    for section in ("images", "annotations", "categories"):
        entries = instances.get(section)
        if not isinstance(entries, list | tuple):
            raise UserError(f"{name}: has no list of {section}")
        for index, entry in enumerate(entries):
            where = f"{name}: {section}[{index}]"
            check_ids(entry, where, ["id"])
            if section == "annotations":
                _check_annotation(entry, where)
        _check_distinct([entry["id"] for entry in entries], f"{name}: {section}")


def _check_annotation(entry: Mapping[str, Any], where: str) -> None:
    check_ids(entry, where, ["image_id", "category_id"])
    check_box(entry, where)
    if not isinstance(entry["id"], int):
        raise UserError(f"{where}: the id of an annotation must be a whole number, got {entry['id']!r}")
    if not is_finite(entry.get("area", 0)):
        raise UserError(f"{where}: area must be a finite number, got {entry['area']!r}")
    if entry.get("iscrowd", 0) not in (0, 1):
        raise UserError(f"{where}: iscrowd must be 0 or 1, got {entry['iscrowd']!r}")


def check_ids(entry: Any, where: str, keys: Iterable[str]) -> None:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: must be a JSON object, got {type(entry).__name__}")
    for key in keys:
        if key not in entry:
            raise UserError(f"{where}: has no {key}")
        if not isinstance(entry[key], int | str):
            raise UserError(f"{where}: {key} must be a whole number or a name, got {entry[key]!r}")


def _check_distinct(ids: Sequence[int | str], where: str) -> None:
    kinds = {isinstance(key, str) for key in ids}
    if len(kinds) > 1:
        raise UserError(f"{where}: some ids are numbers and some are names")
    if len(set(ids)) < len(ids):
        raise UserError(f"{where}: the id {Counter(ids).most_common(1)[0][0]!r} occurs more than once")


def check_box(entry: Mapping[str, Any], where: str) -> None:
    box = entry.get("bbox")
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_finite, box)):
        raise UserError(f"{where}: bbox must be four finite numbers [x, y, width, height], got {box!r}")


def is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # JSON allows whole numbers beyond any float
        return False
