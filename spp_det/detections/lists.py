"""The lists of all images' detections, written from a run's journal one image at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from spp_det.data.coco import xywh
from spp_det.data.names import Stems
from spp_det.detections.formats import Found, devkit_line, devkit_name, write_csv
from spp_det.detections.journal import Entry
from spp_det.images import Skipped

OPEN_AT_ONCE = 200  # result files of the devkit; a process may not open any number

Entries = Callable[[], Iterator[Entry]]  # of the images that could be read, from the first


def list_names(classes: Sequence[str], formats: frozenset[str]) -> list[str]:
    """The files, below the folder of the run, that `write_lists` writes.

    Raises UserError for a class that cannot name a file of the devkit.
    """
    devkit = [f"devkit/{devkit_name(name)}" for name in classes] if "devkit" in formats else []
    return ["images.json", *(["detections.csv"] if "csv" in formats else []), *devkit, "detections.json"]


def write_lists(
    folder: Path,
    entries: Entries,
    classes: Sequence[str],
    formats: frozenset[str],
    skipped: Sequence[Skipped] = (),
) -> None:
    """Write each list whole; ``detections.json`` comes last, so that its ids are those beside it."""
    (folder / "detections.json").unlink(missing_ok=True)
    with _whole(folder / "images.json") as file:
        _write_listing(entries(), classes, skipped, file)
    if "csv" in formats:
        with _whole(folder / "detections.csv") as file:
            write_csv((found for entry in entries() for found in _found(entry, classes)), file)
    if "devkit" in formats:
        for first in range(0, len(classes), OPEN_AT_ONCE):
            _write_devkit(folder / "devkit", entries(), classes, range(first, first + OPEN_AT_ONCE))
    with _whole(folder / "detections.json") as file:
        _write_coco(entries(), file)


def _write_listing(
    entries: Iterator[Entry], classes: Sequence[str], skipped: Sequence[Skipped], file: TextIO
) -> None:
    file.write('{"images": [')
    for image_id, entry in enumerate(entries, 1):
        image = {"id": image_id} | {key: entry[key] for key in ("file_name", "width", "height")}
        file.write(("\n" if image_id == 1 else ",\n") + json.dumps(image))
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    file.write(f'\n],\n"categories": {json.dumps(categories)},\n"skipped": {json.dumps(list(skipped))}}}\n')


def _write_coco(entries: Iterator[Entry], file: TextIO) -> None:
    before = "[\n"
    for image_id, entry in enumerate(entries, 1):
        for label, score, *box in entry["found"]:
            ids = {"image_id": image_id, "category_id": label + 1}
            file.write(before + json.dumps({**ids, "bbox": xywh(tuple(box)), "score": score}))
            before = ",\n"
    file.write("[\n]\n" if before == "[\n" else "\n]\n")


def _write_devkit(folder: Path, entries: Iterator[Entry], classes: Sequence[str], labels: range) -> None:
    """The result files of some of the classes; the id of an image is its stem (see `Stems`)."""
    stem = Stems()
    with contextlib.ExitStack() as stack:
        files = {
            label: stack.enter_context(_whole(folder / devkit_name(classes[label])))
            for label in labels[: len(classes) - labels.start]
        }
        for entry in entries:
            image_id = stem(entry["file_name"])
            for (label, *_), found in zip(entry["found"], _found(entry, classes), strict=True):
                if label in files:
                    files[label].write(devkit_line(found._replace(image=image_id)))


def _found(entry: Entry, classes: Sequence[str]) -> Iterator[Found]:
    for label, score, x1, y1, x2, y2 in entry["found"]:
        yield Found(entry["file_name"], classes[label], score, (x1, y1, x2, y2))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears in its place when the block has ended well, and not otherwise.

    Unlike that of `write_whole` its content need not be in memory, and what a killed run leaves of it has a
    name that the next run writes over.
    """
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
