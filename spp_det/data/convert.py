"""A data set written in another format: Pascal VOC, COCO or YOLO, with its photos and its splits."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from spp_det.data.classes import choose_classes
from spp_det.data.coco import coco_instances
from spp_det.data.names import folder_names
from spp_det.data.records import Dataset
from spp_det.data.voc import write_voc
from spp_det.data.voc_xml import writable
from spp_det.data.yolo import photo_name, write_yolo
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, image_size
from spp_det.runtime.whole_files import write_whole

logger = logging.getLogger(__name__)

Format = Literal["voc", "coco", "yolo"]


def write_dataset(splits: Mapping[str, Dataset], out: Path, format_: Format) -> None:
    """Copy the photos of all splits into a new folder, with their annotations in the given format.

    voc     ``JPEGImages/NAME.jpg``, ``Annotations/NAME.xml``, ``ImageSets/Main/SPLIT.txt``
    coco    ``images/NAME.jpg``, ``annotations/SPLIT.json``
    yolo    ``images/SPLIT/NAME.jpg``, ``labels/SPLIT/NAME.txt``, ``data.yaml``, ``classes.txt``

    NAME is the photo's own name; where two photos have the same name, the folders that hold them go before
    it. All splits get the classes of all. Photos that cannot be read are left out, in one warning; so are the
    flags of difficult objects and crowds where the format has no place for them. Boxes in VOC are rounded to
    whole pixels, as its readers want them.

    Raises UserError where ``out`` is there and holds anything.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; name a new folder")
    classes = list(dict.fromkeys(name for dataset in splits.values() for name in dataset.classes))
    odd = [name for name in classes if writable(name) != name] if format_ == "voc" else []
    if odd:
        raise UserError(f"class {odd[0]!r} has characters that VOC's XML cannot hold: take another format")
    readable = _readable({name: choose_classes(part, classes, name, False) for name, part in splits.items()})
    named = _named(readable)
    if format_ == "yolo":
        _warn_flags(named)
    folders = {"voc": "JPEGImages", "coco": "images", "yolo": "images/{split}"}
    for split, dataset in named.items():
        copied = _copied(dataset, out / folders[format_].format(split=split))
        if format_ == "voc":
            write_voc(copied, out, split)
        elif format_ == "yolo":
            write_yolo(copied, out, split)
        else:
            write_whole(out / "annotations" / f"{split}.json", json.dumps(coco_instances(copied)) + "\n")


def _readable(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The splits with the true size of every photo, without the photos that have no readable header."""
    unreadable: list[str] = []
    parts = {}
    for split, dataset in splits.items():
        records, coco_ids = [], []
        for record, coco_id in zip(dataset.records, dataset.coco_ids, strict=True):
            try:
                size = image_size(record.path)
            except UnreadableImageError as error:
                unreadable.append(str(error))
                continue
            records.append(replace(record, size=size))
            coco_ids.append(coco_id)
        parts[split] = replace(dataset, records=records, coco_ids=tuple(coco_ids))
    if unreadable:
        logger.warning(
            "%d photos cannot be read and are left out, the first: %s", len(unreadable), unreadable[0]
        )
    return parts


def _named(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The splits with ids that are names of files: one name a photo, whatever splits it is in."""
    photos = {record.path: record.image_id for dataset in splits.values() for record in dataset.records}
    count = Counter(path.stem for path in photos)
    wanted = [
        path.stem if count[path.stem] == 1 else image_id.removesuffix(path.suffix)
        for path, image_id in photos.items()
    ]
    name_of = dict(zip(photos, folder_names(wanted), strict=True))
    return {
        split: replace(
            dataset, records=[replace(record, image_id=name_of[record.path]) for record in dataset.records]
        )
        for split, dataset in splits.items()
    }


def _copied(dataset: Dataset, folder: Path) -> Dataset:
    """The data set with its photos in another folder, under their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for record in dataset.records:
        path = folder / photo_name(record)
        if not path.exists():  # another split may hold the same photo
            shutil.copyfile(record.path, path)
        records.append(replace(record, path=path))
    return replace(dataset, records=records)


def _warn_flags(splits: Mapping[str, Dataset]) -> None:
    photos = {record.path: record for dataset in splits.values() for record in dataset.records}
    flagged = sum(int(np.count_nonzero(record.difficult | record.crowd)) for record in photos.values())
    if flagged:
        logger.warning(
            "%d objects are difficult or crowds, which YOLO's format cannot say: they become like others",
            flagged,
        )
