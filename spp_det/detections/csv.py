"""Detections as CSV: ``detections.csv``, a line a detection, every number digit for digit.

Spreadsheets run a text that begins with ``=``, ``+``, ``-`` or ``@`` as a formula, and names may be a
stranger's. So such a name gets a ``'`` before it, which `read_csv` takes off again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from spp_det.detections.types import Found
from spp_det.errors import UserError
from spp_det.runtime.files import read_text

_FORMULA = re.compile("'*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")  # behind as many quotes as were there before
HEADER = ("file", "class", "score", "x1", "y1", "x2", "y2")


def write_csv(found: Iterable[Found], file: TextIO) -> None:
    """Write a header and one line a detection; ``file`` is open with ``newline=""``."""
    writer = csv.writer(file)
    writer.writerow(HEADER)
    writer.writerows((quoted(image), quoted(name), score, *box) for image, name, score, box in found)


def quoted(text: str) -> str:
    """A text as a spreadsheet shows it: with a ``'`` before what would be run."""
    return f"'{text}" if _FORMULA.match(text) else text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


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
    return Found(_unquoted(row["file"]), _unquoted(row["class"]), score, (x1, y1, x2, y2))
