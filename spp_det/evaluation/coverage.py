"""How many objects of a sample some window covers, by class and by size, and the objects that none covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spp_det.boxes import Boxes, exact_iou
from spp_det.data.inspection import SIZES, Finding, NamedBox, Place, Sighting, size_of
from spp_det.data.records import Dataset
from spp_det.errors import printable
from spp_det.evaluation.recall import Covered, evaluate_recall

IOU = 0.5  # from which a window covers an object
ENOUGH = 0.9  # of the objects; below that it is the windows that keep a detector from finding the rest
MISSES = 3  # objects that no window covers; fewer may be chance, whatever their share
FINER = {"fast": "paper", "paper": "quality"}  # the next mode of selective search to try


@dataclass(frozen=True)
class Coverage:
    """Recall at `IOU` of the windows of a sample of photos: of all objects, by class and by size."""

    overall: Covered
    windows: float
    per_class: Mapping[str, Covered]
    by_size: Mapping[str, Covered]


def coverage(places: Sequence[Place], windows: Sequence[Boxes], classes: tuple[str, ...]) -> Coverage:
    """Recall of windows, one ``[N, 4]`` array a photo. Difficult and crowd objects do not count."""
    records = [record for _, record in places]
    by_class = evaluate_recall(Dataset(classes, records), windows, [IOU])
    sized = [replace(record, labels=size_of(record.boxes)) for record in records]
    by_size = evaluate_recall(Dataset(SIZES, sized), windows, [IOU])
    return Coverage(by_class.overall, by_class.windows, by_class.per_class, by_size.per_class)


def low_recall(
    found: Coverage, mode: str, places: Sequence[Place], windows: Sequence[Boxes], classes: Sequence[str]
) -> list[Finding]:
    """A finding where windows cover less than `ENOUGH` of all objects, of a class or of a size."""
    low = {
        name: covered
        for name, covered in {
            "all objects": found.overall,
            **{f"class {printable(name)}": one for name, one in found.per_class.items()},
            **{f"{name} px": one for name, one in found.by_size.items()},
        }.items()
        if covered.objects and covered.recall[IOU] < ENOUGH and _misses(covered) >= MISSES
    }
    if not low:
        return []
    shares = ", ".join(f"{name} {_share(covered)}" for name, covered in low.items())
    remedy = f"; try proposals.mode={FINER[mode]}" if mode in FINER else ""
    text = f"the windows ({mode}) cover too few, and no detector finds the rest: {shares}{remedy}"
    return [Finding("windows", text, tuple(_uncovered(places, windows, classes)))]


def _misses(covered: Covered) -> int:
    return round(covered.objects * (1 - covered.recall[IOU]))


def _share(covered: Covered) -> str:
    return f"{100 * covered.recall[IOU]:.0f}% of {covered.objects}"


def _uncovered(places: Sequence[Place], windows: Sequence[Boxes], classes: Sequence[str]) -> list[Sighting]:
    """The objects that no window covers, each with the window that comes closest."""
    seen = []
    for (split, record), boxes in zip(places, windows, strict=True):
        overlaps = exact_iou(record.boxes, boxes)  # [G, N]
        best = overlaps.max(axis=1, initial=0.0)
        for index in np.flatnonzero((best < IOU) & ~(record.difficult | record.crowd)):
            name = classes[record.labels[index]]
            shown: list[NamedBox] = [(name, tuple(record.boxes[index].tolist()))]
            if best[index]:
                nearest = boxes[overlaps[index].argmax()].tolist()
                shown.append((f"window, IoU {best[index]:.2f}", tuple(nearest)))
            seen.append(Sighting(split, record, f"{name}, best IoU {best[index]:.2f}", tuple(shown)))
    return seen
