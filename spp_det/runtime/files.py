"""The one door for files that people bring: regular files alone, of a bounded size, text as UTF-8.

A pipe in the place of a file would be waited for for ever, and a file without end would fill the memory. A
link in a folder that is written to would let whoever planted it choose what is written over.
"""

from __future__ import annotations

import os
import stat
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING

from spp_det.errors import UserError

if TYPE_CHECKING:
    from zipfile import ZipFile

MOST_BYTES = 2**30  # of an annotation or result file: COCO's largest, of 118,000 photos, has half of it
NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_MODES = {os.O_RDONLY: "rb", os.O_WRONLY: "wb", os.O_RDWR: "r+b"}  # none of them empties what is there


def check_regular(path: Path) -> None:
    """Raise UserError for a pipe, a device, a socket or a folder, and OSError where nothing is there."""
    _check_kind(path, path.stat().st_mode)


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a pipe or a device, not a file")


def open_regular(path: Path, flags: int = os.O_RDONLY) -> BufferedRandom:
    """Open a regular file to be read, or by ``flags`` of `os.open` to be changed where it lies.

    Raises UserError for anything else, with `NO_LINK` among the flags for a link too, and OSError.
    """
    if flags & NO_LINK and path.is_symlink():
        raise UserError(f"{path}: a link in the place of a file of a run; remove it")
    if path.exists():
        check_regular(path)
    # Opened without waiting: another process may put a pipe in the place of the file meanwhile.
    handle = os.open(path, flags | _AT_ONCE, 0o666)
    try:
        _check_kind(path, os.fstat(handle).st_mode)
        return open(handle, _MODES[flags & 3])  # type: ignore[return-value]  # noqa: PTH123
    except BaseException:
        os.close(handle)
        raise


def unlinked(folder: Path, below: str | os.PathLike[str]) -> Path:
    """The folder ``below`` in a folder that is written to; it need not be there yet.

    Raises UserError where it, or a folder above it up to ``folder``, is a link: writing there would write
    elsewhere.
    """
    for part in Path(below).parts:
        folder = folder / part
        if folder.is_symlink():
            raise UserError(f"{folder}: a link, behind which nothing is written; remove it")
    return folder


def most_unpacked(packed: int) -> int:
    """The bytes that a packed file of so many bytes may hold; more is taken for a bomb and refused.

    Tables of windows pack to a fifth. What is read from a file takes up to eight times its unpacked bytes.
    """
    return 2**24 + 32 * packed


def check_unpacked(archive: ZipFile, packed: int) -> None:
    """Raise UserError for a zip archive whose members hold too much; each counts as 512 bytes more."""
    most = most_unpacked(packed)
    if sum(member.file_size + 512 for member in archive.infolist()) > most:
        raise UserError(f"its members would take more than {most:,} bytes")


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Raises UserError, one line that begins with the path, for anything else, and where it cannot be read.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            longer = os.fstat(file.fileno()).st_size > most
            data = b"" if longer else file.read(most)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"{path}: {error}") from error
    if longer:
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
