"""Detections as YOLO text: ``yolo/NAME.txt``, a file an image, a line a detection.

A line is ``LABEL X Y WIDTH HEIGHT SCORE``: the class's number from 0, the box's centre and size as fractions
of the image, and the score, which label files for training lack. Boxes that were float32 come back as the
same float32 numbers, unless a corner lies nearer to 0 than 4e-7 of the box's farther corner, where fractions
in float64 lose the last digits. 0 is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spp_det.data.bounds import MAX_COORDINATE
from spp_det.data.yolo import ends_of, label_line
from spp_det.detections.text import numbered_lines
from spp_det.detections.types import Box, Found
from spp_det.errors import UserError

Size = tuple[int, int]  # width, height of an image in pixels


def yolo_text(found: Iterable[tuple[int, float, Box]], size: Size, scores: bool = True) -> str:
    """A line for each label, score and box; labelling tools want none of the ``scores``."""
    return "".join(
        f"{label_line(label, box, size)}{f' {score!r}' if scores else ''}\n" for label, score, box in found
    )


def read_yolo(path: Path, size: Size) -> list[tuple[int, float, Box]]:
    """The inverse of `yolo_text`: label, score and box of each line.

    Raises UserError, naming the line, for a line without score or with anything but numbers.
    """
    width, height = size
    found = []
    for number, line in numbered_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise UserError(
                f"{path}: line {number}: wanted are label x y width height score, got {line[:100]!r}"
            )
        try:
            label, (x, y, w, h, score) = int(fields[0]), map(float, fields[1:])
        except ValueError as error:
            raise UserError(f"{path}: line {number}: {error}") from None
        (x1, x2), (y1, y2) = ends_of(x, w, width), ends_of(y, h, height)
        found.append((label, score, (x1, y1, x2, y2)))
    return found


def read_listed(path: Path, image: Mapping[str, Any], names: Sequence[str], listing: str) -> Iterator[Found]:
    """The detections of one image, of which ``listing`` tells the size in pixels and the class names.

    ``image`` is its entry there. Raises UserError where size or file is missing, or a label has no name.
    """
    file_name, sides = image["file_name"], [image.get(side) for side in ("width", "height")]
    width, height = (side if isinstance(side, int) else 0 for side in sides)
    if not (0 < width <= MAX_COORDINATE and 0 < height <= MAX_COORDINATE):
        raise UserError(
            f"{path}: {listing} does not state the size of {file_name}, of which the boxes are fractions"
        )
    if not path.exists():
        raise UserError(f"{path}: no such file, but {listing} lists {file_name}")
    rows = read_yolo(path, (width, height))
    for label, score, box in rows:
        if not 0 <= label < len(names):
            raise UserError(f"{path}: label {label} is none of the {len(names)} classes in {listing}")
        yield Found(file_name, names[label], score, box)
