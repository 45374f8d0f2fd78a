"""Several splits as one data set: splits of one folder, or of folders side by side, such as VOC's years."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spp_det.data.names import AnyPath
from spp_det.data.records import Dataset, Record
from spp_det.data.voc import read_voc

logger = logging.getLogger(__name__)


def locate_split(root: AnyPath, split: str) -> tuple[Path, str]:
    """The folder and the name of a split: ``FOLDER:NAME`` is a split of a folder below ``root``.

    >>> locate_split("VOCdevkit", "VOC2012:trainval")
    (PosixPath('VOCdevkit/VOC2012'), 'trainval')
    """
    folder, _, name = split.rpartition(":")
    return Path(root) / folder, name


def read_voc_splits(
    root: AnyPath, splits: Sequence[str], classes: Sequence[str] | None = None, *, follow_links: bool = False
) -> Dataset:
    """Read Pascal VOC splits (see `locate_split`) as one data set, in the order given.

    A single split is read as `read_voc` reads it. Of several splits, ``classes`` None takes the names that
    any of them holds, sorted. Images of different folders are different images even where their ids
    are equal: an id then begins with its folder, ``VOC2012/2008_000008``. An image that two splits of one
    folder list is read once, with a warning.

    Raises UserError as `read_voc` does.
    """
    if len(splits) == 1:
        return read_voc(*locate_split(root, splits[0]), classes, follow_links=follow_links)
    parts = [read_voc(*locate_split(root, split), classes, follow_links=follow_links) for split in splits]
    names = tuple(sorted({name for part in parts for name in part.classes}) if classes is None else classes)
    apart = len({locate_split(root, split)[0] for split in splits}) > 1
    records: dict[str, Record] = {}
    for split, part in zip(splits, parts, strict=True):
        folder = split.rpartition(":")[0]
        label_of = np.array([names.index(name) for name in part.classes], np.int64)
        again = 0
        for record in part.records:
            image_id = f"{folder}/{record.image_id}" if apart and folder else record.image_id
            again += image_id in records
            relabelled = replace(record, image_id=image_id, labels=label_of[record.labels])
            records.setdefault(image_id, relabelled)
        if again:
            logger.warning(
                "%s %s: %d images are in an earlier split too; they are read once", root, split, again
            )
    return Dataset(names, tuple(records.values()))
