"""Matching the files that a detector read with the images of a data set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import PurePath

from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError

MOST_ALIKE = 100  # images whose names differ in their separators alone
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
    by_name = _by_name(dataset)
    claims: dict[int, dict[int, Fit]] = defaultdict(dict)  # record -> the files that fit it
    found: dict[Parts, tuple[int, Fit] | None] = {}  # a file's name is looked up once, whoever repeats it
    for position, file_name in enumerate(file_names):
        parts = _parts(file_name)
        if parts not in found:
            node = by_name.get(parts[-1]) or by_name.get(PurePath(parts[-1]).stem)
            candidates = [] if node is None else node.fitting(parts[:-1])
            fits = {index: _fit(parts, dataset.records[index]) for index in candidates}
            best = _best(fits) if fits else []
            if len(best) > 1:
                ids = [dataset.records[index].image_id for index in best]
                raise UserError(
                    f"{file_name} could be image {ids[0]} or {ids[1]} of the data set: write its folder too"
                )
            found[parts] = (best[0], fits[best[0]]) if best else None
        if (chosen := found[parts]) is not None:
            claims[chosen[0]][position] = chosen[1]

    matches: list[int | None] = [None] * len(file_names)
    for index, fits in claims.items():
        position, *others = _best(fits)
        if others:
            image_id = dataset.records[index].image_id
            both = f"{file_names[position]} and {file_names[others[0]]}"
            raise UserError(f"{both} could both be image {image_id} of the data set: leave one of them out")
        matches[position] = index
    return matches


class _Node:
    """The records whose ids end alike, from a last name upwards through its folders.

    Attributes:
        below: all of them, ``ends`` those whose ids have no more folders, ``folders`` those with one more.
    """

    def __init__(self) -> None:
        self.below: list[int] = []
        self.ends: list[int] = []
        self.folders: dict[str, _Node] = {}

    def fitting(self, folders: Parts) -> list[int]:
        """The records of which a file in ``folders`` may be the image: one is the tail of the other."""
        node, found = self, []
        for folder in reversed(folders):
            found += node.ends
            if folder not in node.folders:
                return found
            node = node.folders[folder]
        return found + node.below


def _by_name(dataset: Dataset) -> dict[str, _Node]:
    roots: dict[str, _Node] = {}
    for index, record in enumerate(dataset.records):
        *folders, name = _parts(record.image_id)
        node = roots.setdefault(name, _Node())
        node.below.append(index)
        for folder in reversed(folders):
            node = node.folders.setdefault(folder, _Node())
            node.below.append(index)
        node.ends.append(index)
        if len(node.ends) > MOST_ALIKE:
            raise UserError(f"more than {MOST_ALIKE} images of the data set are called {record.image_id}")
    return roots


def _fit(parts: Parts, record: Record) -> Fit:
    """How well a file fits a record of which its name is the tail, or the other way round."""
    folders, id_folders = parts[:-1], _parts(record.image_id)[:-1]
    agreeing = min(len(folders), len(id_folders))
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
