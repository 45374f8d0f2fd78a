"""Names inside a data set that become paths of files, and links there that lead elsewhere.

A data set may come from a stranger. It is read below the folder that its user named, and nowhere else: names
that lead out of the folder are refused, and so are symbolic links, unless the user allows links.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from spp_det.errors import UserError

AnyPath = str | os.PathLike[str]

LONGEST_CLASS = 1000  # characters
LONGEST_STEM = 200  # bytes of the last part of a stem: a number and a suffix come behind it
LONGEST_FOLDER = 60  # characters, of at most 4 bytes; file systems take 255 bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


def leads_out(name: str) -> bool:
    """Whether a name given by a data set is absolute or climbs by ``..``, on any operating system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return any(bool(path.anchor) or ".." in path.parts for path in paths)


def can_be_a_file(name: str) -> bool:
    """Whether a file system could hold a file of that name, which may have folders."""
    try:
        parts = [os.fsencode(part) for part in PurePosixPath(name).parts]
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can write it
        return False
    return "\0" not in name and all(len(part) < 256 for part in parts) and sum(map(len, parts)) < 2048


def check_class_names(names: Sequence[str], source: object) -> None:
    """Raise UserError, which begins with ``source``, for a name of a class that no file could hold.

    It has at most `LONGEST_CLASS` characters, and no half of a surrogate pair, as JSON can write it.
    """
    for name in names:
        if len(name) > LONGEST_CLASS or any("\ud800" <= c <= "\udfff" for c in name):
            why = f"more than {LONGEST_CLASS} characters, or half of a surrogate pair"
            raise UserError(f"{source}: {name[:40]!r} is no name of a class: it has {why}")


class Links:
    """How far symbolic links in a data set may lead: to the real places of its own folders.

    The folders themselves may be links, such as a ``JPEGImages`` that lies on another disk, and a file in
    them may be a link to another place in them. A file whose real place lies outside all of the folders is
    refused, whether the file is a link or a folder above it.
    """

    def __init__(self, *folders: AnyPath, follow: bool = False) -> None:
        """``follow`` lets links lead anywhere."""
        self._real = () if follow else tuple(Path(os.path.realpath(folder)) for folder in folders)
        self._named = folders[0]
        self._parents: dict[Path, Path] = {}  # a folder -> its real place; a million files share few

    def checked(self, path: Path) -> Path:
        """The path itself. Raises UserError, naming the file and where it leads, where that is outside."""
        if self._real:
            place = self._place(path)
            if not any(place.is_relative_to(folder) for folder in self._real):
                raise UserError(
                    f"{path}: a link that leads out of {self._named}, to {place}; copy the file, link its "
                    "whole folder, or allow such links: --follow-links, or data.follow_links=true in a recipe"
                )
        return path

    def _place(self, path: Path) -> Path:
        if path.is_symlink():
            return Path(os.path.realpath(path))
        parent = path.parent
        if parent not in self._parents:
            self._parents[parent] = Path(os.path.realpath(parent))
        return self._parents[parent] / path.name


class Stems:
    """Gives every image a name of its own without suffix, for the files that are written about it.

    The stem is the image's name without its suffix, or with it where an ``a.jpg`` came before this ``a.png``.
    A name that would be too long with a longer suffix is cut. The same names in the same order get the same
    stems.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next = Counter[str]()  # by a name that was taken: how many more have it

    def __call__(self, name: str) -> str:
        """The stem of the next image; ``name`` is its path with ``/``, which the stem keeps."""
        stem = _cut(str(PurePosixPath(name).with_suffix("")))
        if stem in self._taken:
            stem = _cut(name)
        plain = stem
        while stem in self._taken:
            self._next[plain] += 1
            count = self._next[plain]
            stem = plain + ("_" * count if count < 9 else f"_{count}")
        self._taken.add(stem)
        return stem


def _cut(stem: str) -> str:
    """The stem with at most `LONGEST_STEM` bytes behind its last slash."""
    folders, slash, last = stem.rpartition("/")
    data = os.fsencode(last)
    return (
        stem if len(data) <= LONGEST_STEM else folders + slash + data[:LONGEST_STEM].decode(errors="ignore")
    )


def folder_names(names: Sequence[str]) -> list[str]:
    """A folder for each name, none twice, that any operating system takes: ``a/b`` becomes ``a_b``.

    A name whose folder is taken already, upper and lower case being one, gets a number behind it.
    """
    folders: list[str] = []
    taken: dict[str, int] = {}  # a folder in lower case -> how many names would have it
    for name in names:
        folder = re.sub(r"[^\w .,+=@()'-]", "_", name)[:LONGEST_FOLDER].strip(" .") or "_"
        if _RESERVED.fullmatch(folder):
            folder += "_"
        plain = folder
        while folder.lower() in taken:
            taken[plain.lower()] += 1
            folder = f"{plain}_{taken[plain.lower()]}"
        taken[folder.lower()] = 1
        folders.append(folder)
    return folders
