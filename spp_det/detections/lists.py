"""The files about all images of a run, written from its journal one image at a time.

Two of them are for annotation tools, which show a labeller what was found: ``cvat.xml``, and
``label-studio.json`` with its labelling configuration. As pictures do, they hold detections from a score on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TextIO

import numpy as np

from spp_det.data.corrected import Labelled
from spp_det.data.cvat_xml import write_cvat
from spp_det.data.label_studio import labelling_config, task
from spp_det.data.names import Stems
from spp_det.data.yolo import CLASS_FILES, class_files
from spp_det.detections.coco import DETECTIONS, LISTING, write_listing, write_results
from spp_det.detections.csv import write_csv
from spp_det.detections.devkit import devkit_name, write_devkit
from spp_det.detections.journal import Entry
from spp_det.detections.output import PLAIN, Output
from spp_det.detections.text import whole_text
from spp_det.detections.types import Found
from spp_det.images import Skipped
from spp_det.runtime.files import unlinked
from spp_det.runtime.whole_files import write_whole
from spp_det.version import __version__

CSV, CVAT = "detections.csv", "cvat.xml"
TASKS, TASKS_CONFIG = "label-studio.json", "label-studio.xml"


def list_names(classes: Sequence[str], formats: frozenset[str]) -> list[str]:
    """The files, below the folder of the run, that `write_lists` writes.

    Raises UserError for a class that cannot name a file of the devkit.
    """
    devkit = [f"devkit/{devkit_name(name)}" for name in classes] if "devkit" in formats else []
    yolo = [f"yolo/{name}" for name in CLASS_FILES] if "yolo" in formats else []
    single = {"csv": [CSV], "cvat": [CVAT], "label-studio": [TASKS, TASKS_CONFIG]}
    return [
        LISTING,
        *(name for format_, names in single.items() if format_ in formats for name in names),
        *(*yolo, *devkit, DETECTIONS),
    ]


def write_lists(
    folder: Path,
    entries: Callable[[], Iterator[Entry]],
    classes: Sequence[str],
    formats: frozenset[str],
    skipped: Sequence[Skipped] = (),
    output: Output = PLAIN,
) -> None:
    """Write each list whole from ``entries()``, the images that could be read. The results list comes last:
    its ids are then those of the listing beside it."""
    places = {name: place_of(folder, name) for name in list_names(classes, formats)}
    places[DETECTIONS].unlink(missing_ok=True)
    with whole_text(places[LISTING]) as file:
        write_listing(entries(), classes, skipped, file)
    if "csv" in formats:
        with whole_text(places[CSV]) as file:
            write_csv(_found(entries(), classes), file)
    if "cvat" in formats:
        with whole_text(places[CVAT]) as file:
            write_cvat((image for image, _ in pre_labels(entries(), classes, output)), classes, file)
    if "label-studio" in formats:
        write_whole(places[TASKS_CONFIG], labelling_config(classes))
        with whole_text(places[TASKS]) as file:
            write_tasks(pre_labels(entries(), classes, output), file)
    if "yolo" in formats:
        for name, text in class_files(classes).items():
            write_whole(places[f"yolo/{name}"], text)
    if "devkit" in formats:
        write_devkit(folder / "devkit", lambda: _found(entries(), classes, Stems()), classes)
    with whole_text(places[DETECTIONS]) as file:
        write_results(entries(), file)


def pre_labels(
    entries: Iterator[Entry], classes: Sequence[str], output: Output
) -> Iterator[tuple[Labelled, list[float]]]:
    """What a labeller is to see of each image: the detections of pictures, and their probabilities."""
    lowest = output.draw_score if output.score is None else output.score
    for entry in entries:
        rows = [row for row in entry["found"] if row[1] >= lowest]
        scores, labels = np.array([row[1] for row in rows]), np.array([row[0] for row in rows], np.int64)
        p = scores
        if not output.are_probabilities:
            known = output.probability
            p = np.exp(-np.logaddexp(0, -scores)) if known is None else known(scores, labels)
        boxes = [(x1, y1, x2, y2) for _, _, x1, y1, x2, y2 in rows]
        size = (entry["width"], entry["height"])
        name = entry["file_name"]
        yield Labelled(name, name, size, boxes, [classes[label] for label in labels]), p.tolist()


def write_tasks(images: Iterator[tuple[Labelled, list[float]]], file: TextIO) -> None:
    """Write the tasks that Label Studio imports, a line a photo."""
    before = "[\n"
    for image, p in images:
        file.write(before + task(image, p, f"spp_det {__version__}"))
        before = ",\n"
    file.write("[\n]\n" if before == "[\n" else "\n]\n")


def _found(
    entries: Iterator[Entry], classes: Sequence[str], name: Callable[[str], str] = str
) -> Iterator[Found]:
    """All detections of a journal, their images called by what ``name`` makes of their file name."""
    for entry in entries:
        image = name(entry["file_name"])
        for label, score, x1, y1, x2, y2 in entry["found"]:
            yield Found(image, classes[label], score, (x1, y1, x2, y2))


def place_of(folder: Path, name: str) -> Path:
    """A file of the run, whose folders are no links."""
    path = PurePosixPath(name)
    return unlinked(folder, path.parent) / path.name
