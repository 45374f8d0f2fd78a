"""The one door for files that people bring: regular files alone, of a bounded size, text as UTF-8.

A pipe in the place of a file would be waited for for ever, and a file without end would fill the memory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from spp_det.errors import UserError

MOST_BYTES = 2**30  # of an annotation or result file: COCO's largest, of 118,000 photos, has half of it


def check_regular(path: Path) -> None:
    """Raise UserError for a pipe, a device, a socket or a folder, and OSError where nothing is there."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a pipe or a device, not a file")


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises UserError, one line that begins with the path, for anything else, and where it cannot be read.
    """
    path = Path(path)
    try:
        check_regular(path)
        # Opened without waiting: another process may put a pipe in the place of the file meanwhile.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path}: a pipe or a device, not a file")
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"{path}: {error}") from error
    if len(data) > most:
        raise UserError(f"{path}: is larger than {most:,} bytes, which is the most that is read")
    return data


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES, errors: str = "strict") -> str:
    """The content of such a file as UTF-8, with or without a byte-order mark.

    ``errors`` is that of `bytes.decode`. Raises UserError, as `read_bytes` does, for bytes that are no text.
    """
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a readable text file: {error}") from error
