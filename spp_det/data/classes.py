"""Which of a data set's classes are learnt or scored, and which are left out with a word."""

from __future__ import annotations

import difflib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spp_det.data.records import Dataset
from spp_det.errors import UserError

logger = logging.getLogger(__name__)

MOST_NAMED = 20  # classes in one message


def choose_classes(dataset: Dataset, wanted: Sequence[str], source: str, needed: bool = True) -> Dataset:
    """The data set with the wanted classes alone, in their order.

    Objects of other classes are left out, and so become background. One warning, which begins with
    ``source``, counts them by class, so that a misspelt name is seen. Where ``needed``, a wanted class
    without any object raises UserError; otherwise the class is kept: a test split may well hold none of it.
    """
    if len(set(wanted)) != len(wanted):
        raise UserError(f"classes must differ from each other, got {', '.join(wanted)}")
    counts = objects_by_class(dataset)
    for name in wanted if needed else ():
        if not counts.get(name):
            near = difflib.get_close_matches(name, [known for known, count in counts.items() if count], 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{source}: no object is of the class {name!r}{meant} (objects: {_listed(counts)})"
            )
    others = {name: count for name, count in counts.items() if count and name not in wanted}
    if others:
        logger.warning(
            "%s: objects of classes that were not chosen are left out: %s", source, _listed(others)
        )
    return _with_classes(dataset, wanted)


def leave_out_empty(dataset: Dataset, source: str) -> Dataset:
    """The data set without the classes that own no object at all, in one warning that names them.

    Annotation tools declare every label of a project, and Roboflow a root of all categories, whether or not a
    photo shows one. A class whose objects are all difficult or crowds is kept: somebody meant to teach it.
    """
    counts = objects_by_class(dataset)
    empty = [name for name, count in counts.items() if not count]
    if not empty or len(empty) == len(counts):  # without any object the caller has more to say
        return dataset
    shown = ", ".join(empty[:MOST_NAMED]) + (" ..." if len(empty) > MOST_NAMED else "")
    logger.warning("%s: classes without an object are left out: %s", source, shown)
    return _with_classes(dataset, [name for name in dataset.classes if counts[name]])


def objects_by_class(dataset: Dataset) -> dict[str, int]:
    """How many objects each class has, difficult ones and crowds included, in the order of the classes."""
    counts = np.zeros(len(dataset.classes), np.int64)
    for record in dataset.records:
        np.add.at(counts, record.labels, 1)
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def _with_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    if tuple(names) == dataset.classes:
        return dataset
    place = {name: label for label, name in enumerate(names)}
    label_of = np.array([place.get(name, -1) for name in dataset.classes], np.int64)
    id_of = dict(zip(dataset.classes, dataset.category_ids, strict=True))
    records = []
    for record in dataset.records:
        labels = label_of[record.labels]
        kept = labels >= 0
        records.append(
            replace(
                record,
                boxes=record.boxes[kept],
                labels=labels[kept],
                difficult=record.difficult[kept],
                crowd=record.crowd[kept],
            )
        )
    numbers = [each for each in dataset.category_ids if isinstance(each, int)]
    fresh = itertools.count(max(numbers, default=0) + 1)
    ids = tuple(id_of[name] if name in id_of else next(fresh) for name in names)
    return Dataset(tuple(names), records, ids, dataset.coco_ids)


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:MOST_NAMED]]
    return ", ".join(shown) + (" ..." if len(counts) > MOST_NAMED else "")
