"""Matching the files that a detector read with the images of a data set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import PurePath

from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError

Parts = tuple[str, ...]  # folders, then the name of the file
Fit = tuple[int, bool]  # how many folders agree, and whether the file's ending does; more is better


def match_images(dataset: Dataset, file_names: Sequence[str]) -> list[int | None]:
    """For each file name the index of its record, or None where it is no image of the data set.

    A file matches an image when one of the two names is the tail of the other: ``5.jpg``, ``set1/5.jpg``
    and ``/data/set1/5.jpg`` are the same image, ``set2/5.jpg`` is not. An image id without a file's
    ending, as in Pascal VOC, fits any ending. Where several fit, the longest common path decides.

    Raises:
        UserError: two images fit a file equally well, or two files an image.
    """
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(dataset.records):
        by_name[_parts(record.image_id)[-1]].append(index)

    claims: dict[int, dict[int, Fit]] = defaultdict(dict)  # record -> the files that fit it
    for position, file_name in enumerate(file_names):
        parts = _parts(file_name)
        candidates = by_name.get(parts[-1]) or by_name.get(PurePath(parts[-1]).stem) or []
        fits = {index: fit for index in candidates if (fit := _fit(parts, dataset.records[index]))}
        if fits:
            index, *others = _best(fits)
            if others:
                ids = [dataset.records[i].image_id for i in (index, others[0])]
                raise UserError(
                    f"{file_name} could be image {ids[0]} or {ids[1]} of the data set: write its folder too"
                )
            claims[index][position] = fits[index]

    matches: list[int | None] = [None] * len(file_names)
    for index, fits in claims.items():
        position, *others = _best(fits)
        if others:
            image_id = dataset.records[index].image_id
            both = f"{file_names[position]} and {file_names[others[0]]}"
            raise UserError(f"{both} could both be image {image_id} of the data set: leave one of them out")
        matches[position] = index
    return matches


def _fit(parts: Parts, record: Record) -> Fit | None:
    """How well a file fits a record whose id has the same last name; None if folders disagree."""
    folders, id_folders = parts[:-1], _parts(record.image_id)[:-1]
    agreeing = _common_tail(folders, id_folders)
    if agreeing < min(len(folders), len(id_folders)):
        return None
    return max(agreeing, _common_tail(folders, record.path.parts[:-1])), parts[-1] == record.path.name


def _best(fits: dict[int, Fit]) -> list[int]:
    best = max(fits.values())
    return [key for key, fit in fits.items() if fit == best]


def _parts(name: str) -> Parts:
    """The components of a path that may come from any system; never empty."""
    return tuple(part for part in re.split(r"[\\/]", name) if part not in ("", ".")) or ("",)


def _common_tail(a: Parts, b: Parts) -> int:
    """How many components agree, counted from the end."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
