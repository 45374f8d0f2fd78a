"""COCO "instances" JSON: to a data set and back.

COCO's ``bbox`` is ``[x, y, w, h]``, 0-based, so ``(x1, y1, x2, y2) = (x, y, x + w, y + h)``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from spp_det.boxes import as_boxes
from spp_det.data.bounds import clip_records
from spp_det.data.coco_check import Json, entries_by_id, file_name_of, has_area, integer_of, size_of, text_of
from spp_det.data.names import AnyPath, Links
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.images import image_size

logger = logging.getLogger(__name__)


def read_coco(
    instances: AnyPath, images_root: AnyPath | None = None, *, follow_links: bool = False
) -> Dataset:
    """Read a COCO instances file; no image is decoded.

    Image files are looked for at ``images_root / file_name``; where ``images_root`` is None it is the
    folder that holds the JSON file. (COCO's own downloads need ``images_root="val2017"`` or the like.)

    Classes, images and objects keep the order of the file. An image's ``image_id`` is its ``file_name``,
    its id goes to ``Dataset.coco_ids``; ids may have gaps. ``iscrowd`` is kept as ``crowd``; an
    object with ``ignore``, as `coco_instances` writes it, is ``difficult`` and no crowd. ``area`` and
    ``segmentation`` are not read: an evaluation by object area needs the file itself.

    Bad annotations. UserError, one line naming the file and the annotation's id: a missing or mistyped
    field, an unknown image or category, an id used twice, a negative width or height, a box wholly
    outside its image, a ``file_name`` that leads out of ``images_root``, by itself or, unless
    ``follow_links``, as a symbolic link (see `Links`). Warning: a box that reaches
    outside its image is clipped (see `spp_det.data.bounds`); one of width or height zero is dropped,
    because the COCO 2017 training set itself holds two.
    """
    path = Path(instances)
    return coco_dataset(load_instances(path), path, images_root, follow_links=follow_links)


def coco_dataset(
    content: Json, path: Path, images_root: AnyPath | None = None, *, follow_links: bool = False
) -> Dataset:
    """`read_coco` of the content of the file ``path``, for callers that need the content too."""
    images_root = path.parent if images_root is None else Path(images_root)
    links = Links(images_root, follow=follow_links)
    categories, images = (entries_by_id(path, content, key) for key in ("categories", "images"))
    classes = _class_names(path, categories)
    label_of = {category_id: label for label, category_id in enumerate(categories)}
    objects = _objects(path, content, images, categories)

    records: list[Record] = []
    number_of: dict[str, int] = {}  # file name -> image id
    for number, image in images.items():
        where = f"{path}: image {number}"
        name = file_name_of(image, where)
        if name in number_of:
            raise UserError(f"{where} has the file_name of another image: {name!r}")
        number_of[name] = number
        file = links.checked(images_root / name)
        records.append(_record(name, file, size_of(image, where), objects[number], label_of))

    def name_object(record: Record, index: int) -> str:
        annotation = objects[number_of[record.image_id]][index]
        return f"{path}: annotation {annotation['id']} ({classes[record.labels[index]]})"

    return Dataset(classes, clip_records(records, name_object, str(path)), tuple(categories), tuple(images))


def coco_instances(dataset: Dataset, sizes: Sequence[tuple[int, int]] | None = None) -> Json:
    """The data set as a COCO instances dictionary, ready for ``json.dump`` and pycocotools.

    ``sizes`` holds one true ``(width, height)`` in pixels an image; where None, each is the record's
    own, or is read from the image. Ids are the data set's ``category_ids`` and ``coco_ids``; annotations
    are numbered from 1 (pycocotools takes an id of 0 for "no match"). ``area`` is that of the box.

    pycocotools knows no ``difficult``, overwrites ``ignore`` by ``iscrowd``, and leaves only crowds out of
    the count; difficult objects are therefore written with ``"ignore": 1`` and ``"iscrowd": 1``. `read_coco`
    tells them from crowds again by their ``ignore``. As crowds they absorb any number of detections,
    which the VOC devkit grants difficult objects too, but by the share of the *detection* inside them,
    where the devkit uses IoU.
    """
    if sizes is None:
        sizes = [record.size or image_size(record.path) for record in dataset.records]
    images: list[Json] = []
    annotations: list[Json] = []
    for record, image_id, (width, height) in zip(dataset.records, dataset.coco_ids, sizes, strict=True):
        # Gives a VOC id its suffix back and leaves a COCO file_name as it is.
        name = str(PurePosixPath(record.image_id).with_name(record.path.name))
        images.append({"id": image_id, "file_name": name, "width": int(width), "height": int(height)})
        boxes = record.boxes.astype(np.float64)
        corners_and_sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)  # [G, 4]
        for i, bbox in enumerate(corners_and_sizes.tolist()):
            difficult = bool(record.difficult[i])
            annotation: Json = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": dataset.category_ids[record.labels[i]],
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": int(difficult or bool(record.crowd[i])),
            }
            if difficult:
                annotation["ignore"] = 1
            annotations.append(annotation)
    pairs = zip(dataset.category_ids, dataset.classes, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in pairs]
    return {"images": images, "annotations": annotations, "categories": categories}


def xywh(box: tuple[float, float, float, float]) -> list[float]:
    """COCO's ``bbox`` of a box ``(x1, y1, x2, y2)`` whose corners were float32.

    Width and height have as few digits as make ``x + w`` the same float32 again.
    """
    x1, y1, x2, y2 = box
    return [x1, y1, _extent(x1, x2), _extent(y1, y2)]


def _extent(low: float, high: float) -> float:
    with np.errstate(all="ignore"):  # infinite numbers are refused elsewhere
        extent = float(str(np.float32(high - low)))
        return extent if np.float32(low + extent) == np.float32(high) else high - low


def load_instances(path: Path) -> Json:
    """The content of an instances file, checked no further than that it is a JSON object.

    Raises UserError where it cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file: {error}") from error
    if isinstance(content, list):
        raise UserError(
            f"{path}: a list, as results are; an instances file is wanted, with images and categories"
        )
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a COCO instances file, which holds an object")
    return content


def _objects(
    path: Path, content: Json, images: dict[int, Json], categories: dict[int, Json]
) -> dict[int, list[Json]]:
    """The checked annotations of every image, those without area left out."""
    objects: dict[int, list[Json]] = {image_id: [] for image_id in images}
    dropped: list[str] = []
    for annotation_id, annotation in entries_by_id(path, content, "annotations").items():
        where = f"{path}: annotation {annotation_id}"
        image_id, category_id = (integer_of(annotation, key, where) for key in ("image_id", "category_id"))
        if image_id not in images:
            raise UserError(f"{where} is of an unknown image: image_id {image_id}")
        if category_id not in categories:
            raise UserError(f"{where} is of an unknown category: category_id {category_id}")
        if has_area(annotation, where):
            objects[image_id].append(annotation)
        else:
            dropped.append(where)
    if dropped:
        logger.warning(
            "%s: %d boxes without area were dropped, the first is %s", path, len(dropped), dropped[0]
        )
    return objects


def _class_names(path: Path, categories: dict[int, Json]) -> tuple[str, ...]:
    names = tuple(
        text_of(entry, "name", f"{path}: category {number}") for number, entry in categories.items()
    )
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UserError(f"{path}: two categories have the name {name!r}")
    return names


def _record(
    name: str, path: Path, size: tuple[int, int] | None, annotations: list[Json], label_of: dict[int, int]
) -> Record:
    difficult, crowd = (
        np.array([bool(annotation.get(key, 0)) for annotation in annotations], np.bool_)
        for key in ("ignore", "iscrowd")
    )
    xywh = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    return Record(
        image_id=name,
        path=path,
        boxes=as_boxes(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)),
        labels=np.array([label_of[annotation["category_id"]] for annotation in annotations], dtype=np.int64),
        difficult=difficult,
        crowd=crowd & ~difficult,
        size=size,
    )
