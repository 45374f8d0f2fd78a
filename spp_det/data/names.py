"""Names inside a data set that become paths of files."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath


def leads_out(name: str) -> bool:
    """Whether a name given by a data set is absolute or climbs by ``..``, on any operating system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return any(bool(path.anchor) or ".." in path.parts for path in paths)
