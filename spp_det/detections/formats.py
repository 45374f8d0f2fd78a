"""Detections as text, and back: CSV, YOLO's label files with scores, the VOC devkit's result files.

Each writer stands beside the reader that is its inverse: boxes of ``spp_det.boxes`` that were float32
come back as the same float32 numbers, and scores digit for digit. The limit is float64: the last digits of a
corner that lies all but on the image's edge can differ, in YOLO's files nearer to 0 than 4e-7 of the box's
farther corner, in the devkit's, which counts from 1, nearer than 1e-8 of a pixel. 0 is kept. (COCO's JSON is
read by `spp_det.evaluation.results`, VOC's XML by `spp_det.data.voc_xml`.)
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from spp_det.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the image (see `spp_det.boxes`)
Size = tuple[int, int]  # width, height of an image in pixels


class Found(NamedTuple):
    """One detection: in which image, of which class, how sure, and where."""

    image: str
    name: str
    score: float
    box: Box


# ---- CSV: one file, a line a detection --------------------------------------------------------

CSV_HEADER = ("file", "class", "score", "x1", "y1", "x2", "y2")


def write_csv(found: Iterator[Found], file: TextIO) -> None:
    """Write a header and one line a detection; ``file`` is open with ``newline=""``."""
    writer = csv.writer(file)
    writer.writerow(CSV_HEADER)
    writer.writerows((image, name, score, *box) for image, name, score, box in found)


def read_csv(path: Path) -> list[Found]:
    """The inverse of `write_csv`; columns may have any order, and others beside them are not read.

    Raises UserError, naming the line, where a column is missing or a number is none.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file, restval="", strict=True)
        try:
            missing = [name for name in CSV_HEADER if name not in (rows.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: has no column {missing[0]!r}; wanted are {', '.join(CSV_HEADER)}")
            return [_found(row["file"], row["class"], [row[key] for key in CSV_HEADER[2:]]) for row in rows]
        except (csv.Error, ValueError, TypeError) as error:
            raise UserError(f"{path}: line {rows.line_num}: {error}") from None


def _found(image: str, name: str, numbers: Sequence[str]) -> Found:
    score, x1, y1, x2, y2 = map(float, numbers)
    return Found(image, name, score, (x1, y1, x2, y2))


# ---- YOLO: a file an image: label, centre and size as fractions of the image, score -------------


def yolo_text(found: Iterable[tuple[int, float, Box]], size: Size) -> str:
    """A line for each label, score and box."""
    width, height = size
    lines = []
    for label, score, (x1, y1, x2, y2) in found:
        row = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{label} {' '.join(map(repr, row))} {score!r}\n")
    return "".join(lines)


def read_yolo(path: Path, size: Size) -> list[tuple[int, float, Box]]:
    """The inverse of `yolo_text`: label, score and box of each line.

    Fractions know where a box's two ends are to some 15 digits of the farther one, and corners are rounded
    to these: 0 comes back as 0. Raises UserError, naming the line, for a line without score (a label file for
    training has none) or with anything but numbers.
    """
    width, height = size
    found = []
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise UserError(
                f"{path}: line {number}: wanted are label x y width height score, got {line[:100]!r}"
            )
        try:
            label, (x, y, w, h, score) = int(fields[0]), map(float, fields[1:])
        except ValueError as error:
            raise UserError(f"{path}: line {number}: {error}") from None
        (x1, x2), (y1, y2) = _ends(x, w, width), _ends(y, h, height)
        found.append((label, score, (x1, y1, x2, y2)))
    return found


def _ends(centre: float, extent: float, side: int) -> tuple[float, float]:
    """Both ends of a box's side in pixels, from fractions of the image's, in the digits that these hold."""
    low, high = (centre - extent / 2) * side, (centre + extent / 2) * side
    farther = max(abs(low), abs(high))
    if not 0 < farther < math.inf:
        return low, high
    digits = 15 - math.ceil(math.log10(farther))
    return round(low, digits), round(high, digits)


# ---- VOC devkit: a file a class: image id, score, box counted from 1 with the last pixel included ----

_DEVKIT_NAME = re.compile(r"comp\d+_det_[^_]+_(?P<name>.+)\.txt")


def devkit_name(class_name: str) -> str:
    """The name of the result file of a class: ``comp4_det_test_CLASS.txt``.

    Raises UserError where the class has characters that no name of a file can have.
    """
    if re.search(r"[/\\\x00-\x1f]", class_name):
        raise UserError(f"the devkit's files are called by their class, and {class_name!r} can name no file")
    return f"comp4_det_test_{class_name}.txt"


def devkit_line(found: Found) -> str:
    """``ID SCORE XMIN YMIN XMAX YMAX``, where ``found.image`` is the id."""
    x1, y1, x2, y2 = found.box
    return f"{found.image} {found.score!r} {x1 + 1!r} {y1 + 1!r} {x2!r} {y2!r}\n"


def devkit_files(folder: Path) -> list[Path]:
    """The result files in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if _DEVKIT_NAME.fullmatch(path.name))


def read_devkit(folder: Path) -> list[Found]:
    """All detections of a folder of result files of any ``compN``, class by class, each file in its order.

    Raises UserError, naming file and line, where a line is not an id and five numbers.
    """
    found = []
    for path in devkit_files(folder):
        match = _DEVKIT_NAME.fullmatch(path.name)
        assert match is not None
        for number, line in _lines(path):
            image, *numbers = line.rsplit(" ", 5)
            try:
                row = _found(image, match["name"], numbers)
            except ValueError:
                wanted = "id score xmin ymin xmax ymax"
                raise UserError(f"{path}: line {number}: wanted are {wanted}, got {line[:100]!r}") from None
            xmin, ymin, xmax, ymax = row.box
            found.append(row._replace(box=(xmin - 1, ymin - 1, xmax, ymax)))
    return found


def shortest(value: np.float32) -> float:
    """The shortest decimal that reads back as the same float32, as all these files hold their numbers."""
    return float(str(value))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1; names in them may be no UTF-8."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")
