"""What the text files of detections have in common: numbers, lines, and how a file is written whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from spp_det.runtime.files import read_text
from spp_det.runtime.whole_files import whole_file


def shortest(value: np.floating) -> float:
    """The shortest decimal that reads back as the same float32, as every file of detections holds numbers."""
    return float(str(value))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1; names in them need not be UTF-8."""
    for number, line in enumerate(read_text(path, errors="surrogateescape").split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


@contextmanager
def whole_text(path: Path) -> Iterator[TextIO]:
    """A text file that appears in its place when the block has ended well, and not otherwise.

    Its content need not be in memory, unlike that of `write_whole`. The next run writes over what a killed
    run left, whose name is always the same.
    """
    with whole_file(path, path.with_name(f".{path.name}.partial")) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        yield text
        text.detach()
