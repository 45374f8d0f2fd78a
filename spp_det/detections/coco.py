"""COCO's two files, checked before any figure: the ground truth of boxes, and the list of results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from spp_det.errors import UserError


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
            _check_ids(entry, where, ["id"])
            if section == "annotations":
                _check_annotation(entry, where)
        _check_distinct([entry["id"] for entry in entries], f"{name}: {section}")


def check_results(results: Any, name: str) -> None:
    """Raise a UserError of one line, which starts with ``name``, where ``results`` is not a COCO
    results list of boxes, or has a value that is NaN or infinite.
    """
    if not isinstance(results, list | tuple):
        raise UserError(f"{name}: must be a JSON list of detections")
    for index, entry in enumerate(results):
        where = f"{name}[{index}]"
        _check_ids(entry, where, ["image_id", "category_id"])
        _check_box(entry, where)
        if not _is_finite(entry.get("score")):
            raise UserError(f"{where}: score must be a finite number, got {entry.get('score')!r}")


def _check_annotation(entry: Mapping[str, Any], where: str) -> None:
    _check_ids(entry, where, ["image_id", "category_id"])
    _check_box(entry, where)
    if not isinstance(entry["id"], int):
        raise UserError(f"{where}: the id of an annotation must be a whole number, got {entry['id']!r}")
    if not _is_finite(entry.get("area", 0)):
        raise UserError(f"{where}: area must be a finite number, got {entry['area']!r}")
    if entry.get("iscrowd", 0) not in (0, 1):
        raise UserError(f"{where}: iscrowd must be 0 or 1, got {entry['iscrowd']!r}")


def _check_ids(entry: Any, where: str, keys: Iterable[str]) -> None:
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


def _check_box(entry: Mapping[str, Any], where: str) -> None:
    box = entry.get("bbox")
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_finite, box)):
        raise UserError(f"{where}: bbox must be four finite numbers [x, y, width, height], got {box!r}")


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # JSON allows whole numbers beyond any float
        return False
