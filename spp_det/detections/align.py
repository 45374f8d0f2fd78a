"""Detections from files, assigned to the images and classes of a data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spp_det.boxes import as_boxes
from spp_det.data.records import Dataset, Detections
from spp_det.detections.coco import LISTING, check_listing, check_results
from spp_det.detections.image_names import match_images
from spp_det.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Detections of the images and classes of a data set.

    Attributes:
        detections: one entry an image, in the order of the data set's records.
        coco: the same detections as a COCO results list with the data set's ids, values as they were read.
        outside: the number of detections left out because their image is not in the data set.
        unknown: the number of detections left out, by the name of a class that the data set lacks.
        sizes: ``(width, height)`` of each image as the listing states it, else None.
    """

    detections: list[Detections]
    coco: list[dict[str, Any]]
    outside: int
    unknown: dict[str, int]
    sizes: list[tuple[int, int] | None]


def align(
    dataset: Dataset, results: Any, listing: Any = None, name: str = "results", listing_name: str = LISTING
) -> Aligned:
    """Sort a COCO results list into the images and classes of a data set.

    With a ``listing`` (the content of an ``images.json``) images are found by file name (see
    `match_images`) and classes by name; without one the ids are the data set's own ``coco_ids`` and
    ``category_ids``. Detections on other images are left out and counted, as the detector may have read more
    images than the split has; detections of other classes are left out with a warning. An image that the
    listing lacks counts as an image without detections, also with a warning.

    Args:
        dataset: the ground truth.
        results: the list, as `json` reads it.
        listing: the listing, as `json` reads it, or None.
        name: what errors call the results.
        listing_name: what errors call the listing.

    Raises:
        UserError: an argument is malformed, or has no image or no class in common with the data set.
    """
    check_results(results, name)
    label_of = {class_name: label for label, class_name in enumerate(dataset.classes)}
    images: dict[Any, int | None]  # id in the results -> index of the record
    sizes: list[tuple[int, int] | None] = [None] * len(dataset.records)
    if listing is None:
        images = {key: index for index, key in enumerate(dataset.coco_ids)}
        class_names = dict(zip(dataset.category_ids, dataset.classes, strict=True))
    else:
        listing = check_listing(listing, listing_name)
        images = _listed_images(dataset, listing, listing_name)
        class_names = _listed_classes(dataset, listing, listing_name)
        for image in listing["images"]:
            index = images[image["id"]]
            if index is not None and image["width"]:
                sizes[index] = (image["width"], image["height"])

    rows: list[list[tuple[Any, int, float]]] = [[] for _ in dataset.records]  # of (bbox, label, score)
    coco = []
    outside, unknown = 0, Counter[str]()
    for position, entry in enumerate(results):
        for key, known in (("image_id", images), ("category_id", class_names)):
            if listing is not None and entry[key] not in known:
                raise UserError(f"{name}[{position}]: {key} {entry[key]!r} is not in {listing_name}")
        index = images.get(entry["image_id"])
        class_name = class_names.get(entry["category_id"])
        if index is None:
            outside += 1
        elif class_name is None or class_name not in label_of:
            unknown[class_name or f"id {entry['category_id']}"] += 1
        else:
            label = label_of[class_name]
            rows[index].append((entry["bbox"], label, entry["score"]))
            ids = {"image_id": dataset.coco_ids[index], "category_id": dataset.category_ids[label]}
            coco.append({**ids, "bbox": list(entry["bbox"]), "score": entry["score"]})

    if listing is None and results and outside == len(results):
        raise UserError(
            f"{name}: none of its image ids is one of the data set, and no {LISTING} lies beside it, which "
            "would give the ids their files"
        )
    if outside:
        first = next(entry["image_id"] for entry in results if images.get(entry["image_id"]) is None)
        logger.warning(
            "%s: %d of %d detections are on images that the data set does not have and are left out, the "
            "first has image_id %r",
            *(name, outside, len(results), first),
        )
    if unknown:
        counts = ", ".join(f"{class_name} ({count})" for class_name, count in unknown.most_common())
        logger.warning(
            "%s: detections of classes that the data set does not have are left out: %s", name, counts
        )
    return Aligned([_detections(found) for found in rows], coco, outside, dict(unknown), sizes)


def _listed_images(dataset: Dataset, listing: Mapping[str, Any], name: str) -> dict[Any, int | None]:
    """Listed id -> index of the record, or None."""
    file_names = [image["file_name"] for image in listing["images"]]
    try:
        matches = match_images(dataset, file_names)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None

    seen = set(matches)
    missing = [record.image_id for index, record in enumerate(dataset.records) if index not in seen]
    if missing and file_names and len(missing) == len(dataset.records):
        raise UserError(
            f"{name}: none of its {len(file_names)} images is one of the data set "
            f"(its first is {file_names[0]}, the data set's {missing[0]})"
        )
    if missing:
        logger.warning(
            "%d of %d images are not in %s and count as images without detections; the first is %s",
            *(len(missing), len(dataset.records), name, missing[0]),
        )
    return {image["id"]: match for image, match in zip(listing["images"], matches, strict=True)}


def _listed_classes(dataset: Dataset, listing: Mapping[str, Any], name: str) -> dict[Any, str]:
    """Listed id -> class name."""
    names = {category["id"]: category["name"] for category in listing["categories"]}
    if names and dataset.classes and not set(names.values()) & set(dataset.classes):
        raise UserError(
            f"{name}: none of its categories ({', '.join(names.values())}) is a class of the data set "
            f"({', '.join(dataset.classes)})"
        )
    return names


def _detections(rows: Sequence[tuple[Any, int, float]]) -> Detections:
    corners = [(x, y, x + width, y + height) for (x, y, width, height), _, _ in rows]
    return {
        "boxes": as_boxes(corners),
        "labels": np.array([label for _, label, _ in rows], np.int64),
        "scores": np.array([score for _, _, score in rows], np.float64),  # as exact as they were written
    }
