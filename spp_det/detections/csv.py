"""Detections as CSV: ``detections.csv``, a line a detection, every number digit for digit."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from spp_det.detections.types import Found
from spp_det.errors import UserError
from spp_det.runtime.files import read_text

HEADER = ("file", "class", "score", "x1", "y1", "x2", "y2")


def write_csv(found: Iterable[Found], file: TextIO) -> None:
    """Write a header and one line a detection; ``file`` is open with ``newline=""``."""
    writer = csv.writer(file)
    writer.writerow(HEADER)
    writer.writerows((image, name, score, *box) for image, name, score, box in found)


def read_csv(path: Path) -> list[Found]:
    """The inverse of `write_csv`; columns may have any order, and further columns are not read.

    Raises UserError, naming the line, where a column is missing or a field holds no number.
    """
    file = io.StringIO(read_text(path, errors="surrogateescape"), newline="")
    rows = csv.DictReader(file, restval="", strict=True)
    try:
        missing = [name for name in HEADER if name not in (rows.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: has no column {missing[0]!r}; wanted are {', '.join(HEADER)}")
        return [_found(row) for row in rows]
    except (csv.Error, ValueError, TypeError) as error:
        raise UserError(f"{path}: line {rows.line_num}: {error}") from None


def _found(row: dict[str, str]) -> Found:
    score, x1, y1, x2, y2 = (float(row[key]) for key in HEADER[2:])
    return Found(row["file"], row["class"], score, (x1, y1, x2, y2))
