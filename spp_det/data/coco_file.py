"""COCO's instances JSON made regular: one reader with one rule for training, evaluation and `coco_eval`.

Tools write ids as numbers, as ``1.0`` or as text, flags as numbers or truth values, sizes as ``200.0``, and
annotations without ids. What comes out has one form, which pycocotools takes as it is.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spp_det.data.bounds import MAX_COORDINATE
from spp_det.errors import UserError
from spp_det.runtime.files import read_bytes

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Id = int | str


def load_json(path: Path | str) -> Any:
    """The content of a JSON file, with or without a byte-order mark. Raises UserError where it is none."""
    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad syntax, bad UTF-8, numbers of 5,000 digits, nested
        raise UserError(f"{path}: is not JSON: {error}") from None


def load_instances(path: Path) -> Json:
    """The regular content of an instances file; see `regular_instances`."""
    return regular_instances(load_json(path), str(path))


def regular_instances(content: Any, name: str) -> Json:
    """COCO's ground truth of boxes in one form; the argument is not changed.

    ``images`` have an ``id``, and ``width`` and ``height`` as whole numbers or None; ``categories`` have an
    ``id``; ``annotations`` have ``id`` (a whole number from 1), ``image_id``, ``category_id``, ``bbox`` (four
    finite numbers), ``iscrowd`` and ``ignore`` (0 or 1) and perhaps ``area``. All other fields stay.

    Each of these is one warning that counts and names the first: annotations without an id or with an id that
    is used already, upon which all are numbered anew (ids from 0 are, without a word); annotations of images
    or categories that the file does not list, which are left out.

    Raises:
        UserError: one line that begins with ``name`` and names the place: a list is missing; an id is
            missing, there twice, or a text where others are numbers; a box or a flag is none.
    """
    if isinstance(content, list):
        raise UserError(
            f"{name}: holds a JSON list, as detections do; annotations are a JSON object with images, "
            "annotations and categories"
        )
    if not isinstance(content, Mapping):
        raise UserError(f"{name}: must be a JSON object with images, annotations and categories")
    images = [_sized(entry) for entry in _entries(content, "images", name)]
    categories = _entries(content, "categories", name)
    for key, entries in (("images", images), ("categories", categories)):
        _check_distinct([entry["id"] for entry in entries], f"{name}: {key}")
    annotations = _annotations(content, name)
    known = {"image_id": {entry["id"] for entry in images}, "category_id": {e["id"] for e in categories}}
    strangers: dict[int, str] = {}  # place of an annotation -> the key whose id is unknown
    for place, entry in enumerate(annotations):
        for key, ids in known.items():
            if entry[key] not in ids:
                if ids and isinstance(entry[key], str) != isinstance(next(iter(ids)), str):
                    where = f"{name}: annotations[{place}]"
                    raise UserError(f"{where}: some ids are numbers and some are text: {key} {entry[key]!r}")
                strangers.setdefault(place, key)
    if strangers:
        first, unknown = next(iter(strangers.items()))
        logger.warning(
            "%s: %d annotations are of images or categories that the file does not list and are left out, "
            "the first is annotations[%d], %s %r",
            *(name, len(strangers), first, unknown, annotations[first][unknown]),
        )
        annotations = [entry for place, entry in enumerate(annotations) if place not in strangers]
    return {**content, "images": images, "annotations": annotations, "categories": categories}


def id_of(entry: Mapping[str, Any], key: str, where: str) -> Id:
    """An id: a whole number, ``1.0`` being one too, or a text. Raises UserError for anything else."""
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or _is_beyond(value):
        raise UserError(f"{where}: {key} must be a whole number or a text, got {_shown(value)}")
    return value


def _is_beyond(value: int | str) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63  # pycocotools keeps ids as int64


def box_of(entry: Mapping[str, Any], where: str) -> list[float]:
    """``[x, y, width, height]`` in pixels. Raises UserError where it is not four finite numbers."""
    box = entry.get("bbox")
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_place, box)):
        raise UserError(f"{where}: bbox must be four finite numbers [x, y, width, height], got {_shown(box)}")
    return list(box)


def _is_place(value: Any) -> bool:
    return is_finite(value) and abs(value) < 1e15  # areas are products


def is_finite(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # JSON allows whole numbers beyond any float
        return False


def check_object(entry: Any, where: str) -> None:
    """Raise UserError for an entry that is no JSON object."""
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: must be a JSON object, got {type(entry).__name__}")


def _entries(content: Mapping[str, Any], key: str, name: str) -> list[Json]:
    """The images or the categories, with regular ids."""
    return [{**entry, "id": id_of(entry, "id", where)} for where, entry in _objects(content, key, name)]


def _objects(content: Mapping[str, Any], key: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects in one of the three lists, each after its place as messages name it."""
    entries = content.get(key)
    if not isinstance(entries, list | tuple):
        raise UserError(f"{name}: has no list of {key}")
    for place, entry in enumerate(entries):
        where = f"{name}: {key}[{place}]"
        check_object(entry, where)
        yield where, entry


def _annotations(content: Mapping[str, Any], name: str) -> list[Json]:
    regular = []
    for where, entry in _objects(content, "annotations", name):
        one = {**entry, "bbox": box_of(entry, where)}
        one |= {key: id_of(entry, key, where) for key in ("image_id", "category_id")}
        one |= {key: _flag(entry, key, where) for key in ("iscrowd", "ignore")}
        if not is_finite(entry.get("area")) or entry["area"] < 0:
            one.pop("area", None)  # that of the box counts
        regular.append(one)
    first = _first_without_id(regular)
    if first is not None:
        logger.warning(
            "%s: ids of annotations are missing, repeated or no numbers, so all are numbered anew, "
            "the first is annotations[%d], whose id is %s",
            *(name, first, _shown(regular[first].get("id"))),
        )
    if first is not None or any(entry["id"] == 0 for entry in regular):  # pycocotools takes 0 for "no match"
        for number, entry in enumerate(regular, 1):
            entry["id"] = number
    return regular


def _first_without_id(annotations: Sequence[Json]) -> int | None:
    """The place of the first annotation whose id is no number from 0, or another annotation's too."""
    seen: set[int] = set()
    for place, entry in enumerate(annotations):
        own = entry.get("id")
        # pycocotools keeps ids among floats
        if type(own) is not int or not 0 <= own < 2**53 or own in seen:
            return place
        seen.add(own)
    return None


def _flag(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if value is None:
        return 0
    if value in (0, 1):  # True and 1.0 are 1 too
        return int(value)
    raise UserError(f"{where}: {key} must be 0 or 1, got {_shown(value)}")


def _sized(image: Json) -> Json:
    """An image whose size is told in whole numbers, or not told."""
    sides: list[Any] = [image.get("width"), image.get("height")]
    told = all(is_finite(side) and 1 <= side <= MAX_COORDINATE and int(side) == side for side in sides)
    width, height = map(int, sides) if told else (None, None)
    return {**image, "width": width, "height": height}


def _check_distinct(ids: Sequence[Id], where: str) -> None:
    if len({isinstance(each, str) for each in ids}) > 1:
        raise UserError(f"{where}: some ids are numbers and some are text")
    if len(set(ids)) < len(ids):
        raise UserError(f"{where}: the id {Counter(ids).most_common(1)[0][0]!r} occurs more than once")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**100 else "a number of 100 digits"
    return text if len(text) <= 100 else f"{text[:100]} ..."
