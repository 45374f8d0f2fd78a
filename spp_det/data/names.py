"""Names inside a data set that become paths of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

LONGEST_FOLDER = 60  # characters, of at most 4 bytes; file systems take 255 bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


def leads_out(name: str) -> bool:
    """Whether a name given by a data set is absolute or climbs by ``..``, on any operating system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return any(bool(path.anchor) or ".." in path.parts for path in paths)


class Stems:
    """Gives every image a name of its own without suffix, for the files that are written about it.

    That is its name without suffix, or with it where ``a.png`` lies beside an ``a.jpg`` that came first.
    The same names in the same order get the same stems.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        """The stem of the next image; ``name`` is its path with ``/``, which the stem keeps."""
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in self._taken:
            stem = name
        while stem in self._taken:
            stem += "_"
        self._taken.add(stem)
        return stem


def folder_names(names: Sequence[str]) -> list[str]:
    """A folder for each name, none twice, that any operating system takes: ``a/b`` becomes ``a_b``."""
    folders: dict[str, None] = {}  # a set that keeps the order
    for name in names:
        folder = re.sub(r"[^\w .,+=@()'-]", "_", name)[:LONGEST_FOLDER].strip(" .") or "_"
        if _RESERVED.fullmatch(folder):
            folder += "_"
        while folder.lower() in (taken.lower() for taken in folders):  # systems that take A for a
            folder += "_"
        folders[folder] = None
    return list(folders)
