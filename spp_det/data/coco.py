"""COCO "instances" JSON: to a data set and back.

COCO's ``bbox`` is ``[x, y, w, h]``, 0-based, so ``(x1, y1, x2, y2) = (x, y, x + w, y + h)``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from spp_det.boxes import as_boxes
from spp_det.data.bounds import MAX_COORDINATE, clip_records
from spp_det.data.coco_file import Id, Json, load_instances
from spp_det.data.names import AnyPath, Links, can_be_a_file, check_class_names, leads_out
from spp_det.data.photos import images_below
from spp_det.data.records import Dataset, Record
from spp_det.data.sizes import settle_sizes
from spp_det.errors import UserError
from spp_det.images import image_size

logger = logging.getLogger(__name__)


def read_coco(
    instances: AnyPath, images_root: AnyPath | None = None, *, follow_links: bool = False
) -> Dataset:
    """Read a COCO instances file; no image is decoded.

    Image files are looked for at ``images_root / file_name``; where ``images_root`` is None it is the
    folder that holds the JSON file. (COCO's own downloads need ``images_root="val2017"`` or the like.) A
    ``file_name`` that leads out of that folder or to no file is never opened: the one photo of that name
    inside the folder is taken, in one warning that counts such photos.

    Classes, images and objects keep the order of the file. An image's ``image_id`` is its path below the
    folder, its id goes to ``Dataset.coco_ids``; ids are numbers or texts. ``iscrowd`` is kept as ``crowd``;
    an object with ``ignore``, as `coco_instances` writes it, is ``difficult`` and no crowd. ``area`` and
    ``segmentation`` are not read: an evaluation by object area needs the file itself.

    Bad annotations. UserError, one line naming the file and the place: see `regular_instances`; a category
    without a name or two of one name, a negative width or height, a box wholly outside its image, two photos
    of a name that leads nowhere, and, unless ``follow_links``, a photo that is a link that leads out (see
    `Links`). Warning: a box that reaches outside its image is clipped (see `spp_det.data.bounds`); a box of
    width or height zero is left out, because the COCO 2017 training set itself holds two; a stated size
    differs from the photo's (see `spp_det.data.sizes`).
    """
    path = Path(instances)
    return coco_dataset(load_instances(path), path, images_root, follow_links=follow_links)


def coco_dataset(
    content: Json, path: Path, images_root: AnyPath | None = None, *, follow_links: bool = False
) -> Dataset:
    """The data set in the regular content of the file ``path``, for those who need both; see `read_coco`."""
    root = path.parent if images_root is None else Path(images_root)
    links = Links(root, follow=follow_links)
    label_of = {entry["id"]: label for label, entry in enumerate(content["categories"])}
    classes = _class_names(path, content["categories"])
    check_class_names(classes, path)
    objects = _objects(path, content)
    photos = _photos(path, content["images"], root, links)
    records: list[Record] = []
    id_of: dict[str, Id] = {}  # image id of the record -> id in the file
    for image, photo in zip(content["images"], photos, strict=True):
        name = photo.relative_to(root).as_posix()
        if name in id_of:
            raise UserError(f"{path}: image {image['id']} has the file_name of another image: {name!r}")
        id_of[name] = image["id"]
        size = None if image["width"] is None else (image["width"], image["height"])
        records.append(_record(name, photo, size, objects[image["id"]], label_of))

    def name_object(record: Record, index: int) -> str:
        annotation = objects[id_of[record.image_id]][index]
        return f"{path}: annotation {annotation['id']} ({classes[record.labels[index]]})"

    records = clip_records(settle_sizes(records, str(path)), name_object, str(path))
    return Dataset(classes, records, tuple(label_of), tuple(id_of.values()))


def instances_of(content: Json, dataset: Dataset) -> Json:
    """The part of a file's regular content that is of a data set's images and classes."""
    kept = {"images": set(dataset.coco_ids), "categories": set(dataset.category_ids)}
    part = {key: [entry for entry in content[key] if entry["id"] in ids] for key, ids in kept.items()}
    annotations = [
        entry
        for entry in content["annotations"]
        if entry["image_id"] in kept["images"] and entry["category_id"] in kept["categories"]
    ]
    return {**content, **part, "annotations": annotations}


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


def _objects(path: Path, content: Json) -> dict[Id, list[Json]]:
    """The annotations of every image, without those whose box has no area."""
    objects: dict[Id, list[Json]] = {image["id"]: [] for image in content["images"]}
    empty: list[str] = []
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        x, y, width, height = annotation["bbox"]
        if width < 0 or height < 0:
            raise UserError(f"{where} has bbox {annotation['bbox']}, whose width or height is negative")
        if not all(abs(value) <= MAX_COORDINATE for value in annotation["bbox"]):
            raise UserError(f"{where} has a bbox of more than {MAX_COORDINATE} pixels")
        # In float32, as boxes are: a width of 1e-9 is none beside an x of 100.
        if np.float32(x + width) > np.float32(x) and np.float32(y + height) > np.float32(y):
            objects[annotation["image_id"]].append(annotation)
        else:
            empty.append(where)
    if empty:
        logger.warning("%s: %d boxes without area were dropped, the first is %s", path, len(empty), empty[0])
    return objects


def _photos(path: Path, images: Sequence[Json], root: Path, links: Links) -> list[Path]:
    """The photo of every image, inside the root; where it has none, the place that its name would have."""
    photos = [_stated(f"{path}: image {image['id']}", image.get("file_name"), root) for image in images]
    there = [photo.is_file() and inside for photo, inside in photos]
    taken = {photo for (photo, _), found in zip(photos, there, strict=True) if found}
    by_name: dict[str, list[Path]] | None = None  # of all other photos, listed when first needed
    elsewhere: list[str] = []
    found: list[Path] = []
    for image, (photo, _), is_there in zip(images, photos, there, strict=True):
        if not is_there:
            if by_name is None:
                by_name = {}
                for each in images_below(root, links):
                    if each not in taken:
                        by_name.setdefault(each.name, []).append(each)
            same = by_name.get(photo.name, [])
            stated = repr(image["file_name"][:200])
            if len(same) > 1:
                raise UserError(
                    f"{path}: image {image['id']}: file_name {stated} leads to no file, and two photos have "
                    f"that name, {same[0]} and {same[1]}: write the path below {root}"
                )
            if same:
                elsewhere.append(f"{stated}, taken from {same[0]}")
                photo = same[0]
        found.append(links.checked(photo))
    if elsewhere:
        logger.warning(
            "%s: %d photos do not lie where their file_name says and were found by name, the first is %s",
            *(path, len(elsewhere), elsewhere[0]),
        )
    return found


def _stated(where: str, name: Any, root: Path) -> tuple[Path, bool]:
    """The place below the root that a ``file_name`` means, and whether it means that one: a name that leads
    out of the root is taken without its folders."""
    if not isinstance(name, str) or not name:
        raise UserError(f"{where} has file_name {repr(name)[:100]}, which is not a text")
    plain = name.replace("\\", "/")
    if not can_be_a_file(plain) or not PurePosixPath(plain).name:
        raise UserError(f"{where} has file_name {name[:100]!r}, which no file can have")
    inner = _inner(plain, root)
    return (root / PurePosixPath(plain).name, False) if inner is None else (root / inner, True)


def _inner(name: str, root: Path) -> PurePosixPath | None:
    """A stated path below the root, or None where it leads out."""
    path = PurePosixPath(name)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    return None if leads_out(str(path)) else path


def _class_names(path: Path, categories: Sequence[Json]) -> tuple[str, ...]:
    names: dict[str, None] = {}  # a set that keeps the order
    for entry in categories:
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{path}: category {entry['id']} has name {repr(name)[:100]}, which is not a text"
            )
        if name in names:
            raise UserError(f"{path}: two categories have the name {name[:100]!r}")
        names[name] = None
    return tuple(names)


def _record(
    name: str, path: Path, size: tuple[int, int] | None, annotations: list[Json], label_of: dict[Id, int]
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
