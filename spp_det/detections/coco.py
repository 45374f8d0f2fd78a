"""COCO's results list, ``detections.json``, and the listing of what its ids mean, ``images.json``.

    [{"image_id": 1, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}, ...]

    {"images": [{"id": 1, "file_name": "a/5.jpg", "width": 640, "height": 480}, ...],
     "categories": [{"id": 1, "name": "raccoon"}, ...]}

The listing has the form of COCO's ground truth without annotations, and a list of the files ``skipped``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from spp_det.data.coco import xywh
from spp_det.data.coco_file import Json, box_of, check_object, id_of, is_finite, regular_instances
from spp_det.detections.journal import Entry
from spp_det.detections.types import Found
from spp_det.errors import UserError
from spp_det.images import Skipped

DETECTIONS = "detections.json"
LISTING = "images.json"


def write_results(entries: Iterable[Entry], file: TextIO) -> None:
    """Write the results list of the images of a journal, which are numbered from 1, as are classes."""
    before = "[\n"
    for image_id, entry in enumerate(entries, 1):
        for label, score, *box in entry["found"]:
            ids = {"image_id": image_id, "category_id": label + 1}
            file.write(before + json.dumps({**ids, "bbox": xywh(tuple(box)), "score": score}))
            before = ",\n"
    file.write("[\n]\n" if before == "[\n" else "\n]\n")


def write_listing(
    entries: Iterable[Entry], classes: Sequence[str], skipped: Sequence[Skipped], file: TextIO
) -> None:
    """Write the listing of the ids that `write_results` uses."""
    file.write('{"images": [')
    for image_id, entry in enumerate(entries, 1):
        image = {"id": image_id} | {key: entry[key] for key in ("file_name", "width", "height")}
        file.write(("\n" if image_id == 1 else ",\n") + json.dumps(image))
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    file.write(f'\n],\n"categories": {json.dumps(categories)},\n"skipped": {json.dumps(list(skipped))}}}\n')


def check_results(results: Any, name: str) -> None:
    """Raise a UserError of one line, which starts with ``name``, where ``results`` is not a COCO
    results list of boxes, or has a value that is NaN or infinite.
    """
    if not isinstance(results, list | tuple):
        raise UserError(f"{name}: must be a JSON list of detections")
    for index, entry in enumerate(results):
        where = f"{name}[{index}]"
        check_object(entry, where)
        for key in ("image_id", "category_id"):
            id_of(entry, key, where)
        box_of(entry, where)
        if not is_finite(entry.get("score")):
            raise UserError(f"{where}: score must be a finite number, got {entry.get('score')!r}")


def check_listing(listing: Any, name: str) -> Json:
    """The listing in the regular form of `regular_instances`.

    Raises a UserError of one line, which starts with ``name``, where ``listing`` is no ``images.json``.
    """
    if not isinstance(listing, Mapping):
        raise UserError(f"{name}: must be a JSON object with images and categories")
    regular = regular_instances({**listing, "annotations": []}, name)
    for section, key in (("images", "file_name"), ("categories", "name")):
        for position, entry in enumerate(regular[section]):
            if not isinstance(entry.get(key), str) or not entry[key]:
                raise UserError(f"{name}: {section}[{position}]: has no {key}")
    return regular


def as_results(found: Sequence[Found], listing: Any, name: str) -> tuple[list[dict[str, Any]], Any]:
    """Detections of another format as a results list, with the listing; where that is None, with one of the
    images and classes that the detections name.

    Raises UserError, which starts with ``name``, for an image or a class that the listing lacks.
    """
    if listing is None:
        images, names = (dict.fromkeys(row[i] for row in found) for i in (0, 1))
        listing = {
            "images": [{"id": number, "file_name": image} for number, image in enumerate(images, 1)],
            "categories": [{"id": number, "name": class_name} for number, class_name in enumerate(names, 1)],
        }
    image_ids = {entry["file_name"]: entry["id"] for entry in listing["images"]}
    category_ids = {entry["name"]: entry["id"] for entry in listing["categories"]}
    results = []
    for row in found:
        if row.image not in image_ids or row.name not in category_ids:
            what = f"image {row.image}" if row.image not in image_ids else f"class {row.name}"
            raise UserError(f"{name}: its {what} is not in {LISTING}")
        ids = {"image_id": image_ids[row.image], "category_id": category_ids[row.name]}
        results.append({**ids, "bbox": xywh(row.box), "score": row.score})
    return results, listing
