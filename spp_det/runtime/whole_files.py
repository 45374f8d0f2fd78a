"""Files that are written whole or not at all, whenever the machine stops."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")  # the name of a file while `write_whole` writes it
ABANDONED = 3600.0  # seconds without a new byte, after which a file counts as abandoned


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an error of the system that names none, such as ``write`` on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # without a number it is not the system's, and has a message of its own
            error.filename = error.filename or str(path)
        raise


@contextmanager
def whole_file(path: Path, partial: Path) -> Iterator[BinaryIO]:
    """A file that is called ``partial`` while the block writes it, and ``path`` once the block ended well:
    whenever the machine stops, the old file or the new one is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.parent.mkdir(exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        with naming(path), partial.open("xb") as file:  # closing writes too, and may fail
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_whole(
    path: Path, data: bytes | str | Iterable[bytes | memoryview], partials: Path | None = None
) -> None:
    """Write a file as `whole_file` does; several buffers are written one after the other, without a copy. The
    unfinished file lies in the folder ``partials``, on the same disk; None is the folder of ``path``."""
    data = data.encode() if isinstance(data, str) else data
    partial = (partials or path.parent) / f".{secrets.token_hex(8)}.partial"
    with whole_file(path, partial) as file:
        file.writelines([data] if isinstance(data, bytes) else data)


def _sync_folder(folder: Path) -> None:
    """Make a new name last: a file's own sync does not include it."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the half-written files of killed processes from a folder: those older than `ABANDONED`."""
    for path in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(path.name):
            with suppress(OSError):  # another sweeper was faster
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()


def write_json(path: Path, tree: object) -> None:
    """Write figures, whole or not at all, for people and programs to read."""
    write_whole(path, json.dumps(tree, indent=2) + "\n")
