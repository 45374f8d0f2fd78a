"""The Pascal VOC devkit's result files: ``devkit/comp4_det_test_CLASS.txt``, a file a class.

A line is ``ID SCORE XMIN YMIN XMAX YMAX``; pixels count from 1 and the last one is included. Boxes that were
float32 come back as the same float32 numbers, unless a corner lies nearer to 0 than 1e-8 of a pixel: the
format adds 1, and float64 then loses the last digits. 0 is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from spp_det.data.names import LONGEST_STEM
from spp_det.detections.text import numbered_lines, whole_text
from spp_det.detections.types import Found
from spp_det.errors import UserError

OPEN_AT_ONCE = 200  # result files; a process may not open any number

_NAME = re.compile(
    r"comp\d+(_[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})?"  # py-faster-rcnn's salt
    r"_det_((train|val|trainval|test)_\d{4}|[^_]+)_(?P<name>.+)\.txt"
)


def devkit_name(class_name: str) -> str:
    """The name of the result file of a class: ``comp4_det_test_CLASS.txt``.

    Raises UserError where the class has characters that no name of a file can have, or too many.
    """
    if re.search(r"[/\\\x00-\x1f]", class_name) or len(os.fsencode(class_name)) > LONGEST_STEM:
        why = "cannot be part of a file's name, as the devkit's files have it: leave the format out"
        raise UserError(f"class {class_name[:100]!r} {why}")
    return f"comp4_det_test_{class_name}.txt"


def devkit_line(found: Found) -> str:
    """``ID SCORE XMIN YMIN XMAX YMAX``, where ``found.image`` is the id."""
    x1, y1, x2, y2 = found.box
    return f"{found.image} {found.score!r} {x1 + 1!r} {y1 + 1!r} {x2!r} {y2!r}\n"


def write_devkit(folder: Path, found: Callable[[], Iterable[Found]], classes: Sequence[str]) -> None:
    """Write the result file of every class into a folder.

    ``found`` gives all detections, each with its image's id; it is called once for `OPEN_AT_ONCE` classes.
    """
    for first in range(0, len(classes), OPEN_AT_ONCE):
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(whole_text(folder / devkit_name(name)))
                for name in classes[first : first + OPEN_AT_ONCE]
            }
            for row in found():
                if row.name in files:
                    files[row.name].write(devkit_line(row))


def devkit_files(folder: Path) -> list[Path]:
    """The result files in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def read_devkit(folder: Path) -> list[Found]:
    """All detections of a folder of result files of any ``compN``, class by class, each file in its order.

    Files are called ``compN_det_SPLIT_CLASS.txt``, with py-faster-rcnn's ``_UUID`` behind ``compN`` or not.

    Raises UserError, naming file and line, where a line is not an id and five numbers, and where two files
    are of one class.
    """
    found = []
    file_of: dict[str, Path] = {}  # by class
    for path in devkit_files(folder):
        match = _NAME.fullmatch(path.name)
        assert match is not None
        if file_of.setdefault(match["name"], path) != path:
            both = f"{path} and {file_of[match['name']].name}"
            raise UserError(f"{both} are of the class {match['name']}: leave the files of one run there")
        for number, line in numbered_lines(path):
            image, *fields = line.rsplit(" ", 5)
            try:
                score, xmin, ymin, xmax, ymax = map(float, fields)
            except ValueError:
                wanted = "id score xmin ymin xmax ymax"
                raise UserError(f"{path}: line {number}: wanted are {wanted}, got {line[:100]!r}") from None
            found.append(Found(image, match["name"], score, (xmin - 1, ymin - 1, xmax, ymax)))
    return found
