"""A look at annotated photos before anything is learnt from them: how many there are, and what is odd.

Annotations, headers of photos and the bytes of files of one length tell all of it; no pixel is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spp_det.boxes import Boxes, Ints
from spp_det.data.classes import choose_classes, objects_by_class
from spp_det.data.duplicates import groups, same_bytes
from spp_det.data.records import Change, Dataset, Record
from spp_det.errors import printable
from spp_det.images import UnreadableImageError, image_turn, skipped

TINY = 10  # pixels; no window, and no cell of conv5, is as small as a side below this
FEW = 10  # objects; a class with fewer in the training split is hardly learnt
EDGES = (16, 32, 64, 128)  # between the sizes of objects, in pixels of the side of a square of equal area
SIZES = ("<16", "16-32", "32-64", "64-128", "128+")
MOST_NAMED = 8  # classes in one sentence

NamedBox = tuple[str, tuple[float, float, float, float]]  # what it is; x1, y1, x2, y2 in pixels
Place = tuple[str, Record]  # a photo and the split that lists it


class Sighting(NamedTuple):
    """One photo of a finding: what is odd there, and which boxes show it (none: the photo as a whole)."""

    split: str
    record: Record
    what: str
    boxes: tuple[NamedBox, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something odd: its kind in two or three words, one sentence that counts it, and where it was seen."""

    kind: str
    text: str
    sightings: tuple[Sighting, ...] = ()


@dataclass(frozen=True, eq=False)
class Look:
    """What a look at a data set found.

    Attributes:
        splits: the data by split, the one that is learnt from first, all with the same classes.
        findings: what is odd, the most harmful first.
    """

    splits: Mapping[str, Dataset]
    findings: tuple[Finding, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, which all splits share."""
        return next(iter(self.splits.values())).classes


def look_at(
    splits: Mapping[str, Dataset],
    copies: Iterable[tuple[int, int]] | None = None,
    damaged: Mapping[int, str] | None = None,
) -> Look:
    """Count what is odd about a data set.

    Args:
        splits: by name, the one that is learnt from first. Class names may differ; all splits get all.
        copies: photos that are one, as pairs of their numbers through all splits; None: those of equal bytes.
        damaged: what is wrong with photos, by the same numbers; None: of those without a readable header.
    """
    classes: dict[str, None] = {}  # a set that keeps the order; without classes that no object has
    for part in splits.values():
        classes |= dict.fromkeys(name for name, count in objects_by_class(part).items() if count)
    splits = {name: choose_classes(part, list(classes), name, needed=False) for name, part in splits.items()}
    places = [(name, record) for name, part in splits.items() for record in part.records]
    if copies is None:
        copies = same_bytes([record.path for _, record in places])
    found = [
        *_copies(places, copies),
        *_changes(places),
        *_files(places, damaged),
        *_scarce(splits),
        *_tiny(places, list(classes)),
    ]
    found += _empty(places)
    return Look(splits, tuple(found))


def size_of(boxes: Boxes) -> Ints:
    """``[N, 4] -> [N]`` the place of each box in `SIZES`, by the square root of its area."""
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1))
    places: Ints = np.searchsorted(EDGES, sides, side="right")
    return places


def sizes_by_class(look: Look) -> dict[str, dict[str, int]]:
    """``{class: {size: objects}}`` of all splits together."""
    counts = np.zeros((len(look.classes), len(SIZES)), np.int64)
    for part in look.splits.values():
        for record in part.records:
            np.add.at(counts, (record.labels, size_of(record.boxes)), 1)
    return {
        name: dict(zip(SIZES, row, strict=True))
        for name, row in zip(look.classes, counts.tolist(), strict=True)
    }


def choose_sample(look: Look, count: int, seed: int) -> list[Place]:
    """Photos to search for windows in: the classes take turns to choose one, at random by the seed.

    A file is chosen once, though several splits list it. Photos without an object that counts are left out,
    and so are those whose boxes are of another size.
    """
    photos: dict[Path, Place] = {}
    for split, part in look.splits.items():
        for record in part.records:
            if any(~(record.difficult | record.crowd)) and all(c.kind != "size" for c in record.changes):
                photos.setdefault(record.path, (split, record))
    listed = list(photos.values())
    places = [listed[i] for i in np.random.default_rng(seed).permutation(len(listed))]
    queues = [[place for place in places if label in place[1].labels] for label in range(len(look.classes))]
    in_turn = chain.from_iterable(zip_longest(*queues))
    distinct = {place[1].path: place for place in in_turn if place is not None}
    return list(distinct.values())[:count]


def in_three_lines(look: Look) -> tuple[str, str, str]:
    """How much there is, how large the objects are, and what is odd."""
    parts = []
    for name, part in look.splits.items():
        counts = objects_by_class(part)
        each = f" ({min(counts.values())} to {max(counts.values())} a class)" if counts else ""
        parts.append(f"{name} {len(part)} photos with {sum(counts.values())} objects{each}")
    sizes = Counter[str]()
    for row in sizes_by_class(look).values():
        sizes.update(row)
    total = max(1, sum(sizes.values()))
    large = ", ".join(f"{name} px {100 * sizes[name] / total:.0f}%" for name in SIZES)
    odd = "; ".join(finding.text for finding in look.findings)
    shown = f"odd: {odd} (spp-det inspect-data shows it)" if odd else "nothing odd in annotations and headers"
    return f"counts: {'; '.join(parts)}", f"sizes of objects: {large}", shown


def _copies(places: Sequence[Place], pairs: Iterable[tuple[int, int]]) -> Iterator[Finding]:
    """Photos that are there twice: first those that a test knows from the training."""
    across: list[list[int]] = []
    within: list[list[int]] = []
    for group in groups(len(places), pairs):
        (across if len({places[index][0] for index in group}) > 1 else within).append(group)
    kinds = (
        ("in two splits", across, "are in more than one split, which makes the figures of a test too good"),
        ("twice in a split", within, "are there more than once in their split"),
    )
    for kind, found, text in kinds:
        if found:
            first = ", ".join(_name(places[index]) for index in found[0][:2])
            yield Finding(
                kind,
                f"{len(found)} photos {text} (the first: {printable(first)})",
                tuple(
                    Sighting(*places[index], f"{_name(places[group[0]])} again" if index != group[0] else "")
                    for group in found
                    for index in group
                ),
            )


def _name(place: Place) -> str:
    return f"{place[0]}: {place[1].image_id}"


def _changes(places: Sequence[Place]) -> Iterator[Finding]:
    """What the readers have seen."""
    texts = {
        "size": ("other size", "{photos} photos have another size than their annotation states"),
        "turned": (
            "labelled unturned",
            "{photos} photos were labelled before EXIF turned them; their boxes were turned with them",
        ),
        "outside": ("outside", "{count} boxes in {photos} photos reach outside and were clipped"),
    }
    for said, (kind, text) in texts.items():
        seen = [
            Sighting(*place, change.what, _boxes(change))
            for place in places
            for change in place[1].changes
            if change.kind == said
        ]
        if seen:
            photos = len({id(sighting.record) for sighting in seen})
            yield Finding(kind, text.format(count=len(seen), photos=photos), tuple(seen))


def _boxes(change: Change) -> tuple[NamedBox, ...]:
    return () if change.box is None else (("as annotated", change.box),)


def _files(places: Sequence[Place], damaged: Mapping[int, str] | None) -> Iterator[Finding]:
    """Photos that are damaged, and photos that EXIF turns."""
    turned, unreadable = [], []
    for index, (split, record) in enumerate(places):
        reason = (damaged or {}).get(index)
        try:
            _, orientation = image_turn(record.path)
        except UnreadableImageError as error:
            orientation, reason = 1, reason or skipped(record.path, error)["reason"]
        if reason:
            unreadable.append(Sighting(split, record, reason))
        settled = any(change.kind == "turned" for change in record.changes)
        if orientation in range(2, 9) and len(record) and not settled:
            turned.append(Sighting(split, record, f"EXIF orientation {orientation}"))
    if unreadable:
        yield Finding("damaged", f"{len(unreadable)} photos are missing or damaged", tuple(unreadable))
    if turned:
        text = "photos are turned by EXIF: see that their boxes were drawn on the turned photo"
        yield Finding("EXIF", f"{len(turned)} {text}", tuple(turned))


def _scarce(splits: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Classes that the first split hardly has."""
    first, *others = splits
    counts = _countable(splits[first])
    elsewhere = Counter[str]()
    for other in others:
        elsewhere.update(_countable(splits[other]))
    unseen = [name for name, count in counts.items() if not count]
    if unseen:
        text = f"{first} has no object of {_listed({name: elsewhere[name] for name in unseen}, ' elsewhere')}"
        yield Finding("unseen class", text, tuple(_examples(splits, unseen)))
    few = {name: count for name, count in counts.items() if 0 < count < FEW}
    if few:
        yield Finding(
            "few objects",
            f"{first} has fewer than {FEW} objects of {_listed(few)}",
            tuple(_examples(splits, few)),
        )


def _countable(part: Dataset) -> dict[str, int]:
    """Objects by class, without difficult ones and crowds, which teach nothing."""
    counts = np.zeros(len(part.classes), np.int64)
    for record in part.records:
        np.add.at(counts, record.labels[~(record.difficult | record.crowd)], 1)
    return dict(zip(part.classes, counts.tolist(), strict=True))


def _listed(counts: Mapping[str, int], where: str = "") -> str:
    shown = [f"{printable(name)} ({count}{where})" for name, count in list(counts.items())[:MOST_NAMED]]
    return ", ".join(shown) + (
        f" and {len(counts) - MOST_NAMED} other classes" if len(counts) > MOST_NAMED else ""
    )


def _examples(splits: Mapping[str, Dataset], names: Iterable[str]) -> Iterator[Sighting]:
    """The objects of some classes."""
    for split, part in splits.items():
        wanted = [part.classes.index(name) for name in names]
        for record in part.records:
            for index in np.flatnonzero(np.isin(record.labels, wanted)):
                name = part.classes[record.labels[index]]
                yield Sighting(split, record, name, ((name, tuple(record.boxes[index].tolist())),))


def _tiny(places: Sequence[Place], classes: Sequence[str]) -> Iterator[Finding]:
    seen = []
    for split, record in places:
        sides = (record.boxes[:, 2:] - record.boxes[:, :2]).min(axis=1, initial=np.inf)
        for index in np.flatnonzero(sides < TINY):
            width, height = (record.boxes[index, 2:] - record.boxes[index, :2]).tolist()
            name = classes[record.labels[index]]
            box = tuple(record.boxes[index].tolist())
            seen.append(Sighting(split, record, f"{name}, {width:.3g}x{height:.3g}", ((name, box),)))
    if seen:
        counts = Counter(sighting.boxes[0][0] for sighting in seen)
        total = sum(len(record) for _, record in places)
        share = f"{100 * len(seen) / total:.2g}% of all"
        text = f"{len(seen)} boxes ({share}) have a side under {TINY} pixels: {_listed(counts)}"
        yield Finding("tiny", text, tuple(seen))


def _empty(places: Sequence[Place]) -> Iterator[Finding]:
    seen = tuple(Sighting(*place, "") for place in places if not len(place[1]))
    if seen:
        share = f"{100 * len(seen) / len(places):.2g}% of all"
        yield Finding("without objects", f"{len(seen)} photos ({share}) have no object", seen)
