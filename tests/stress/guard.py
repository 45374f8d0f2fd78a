"""What Python's audit events tell of a reader: files it touched where it should not, code it ran."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RUNS_CODE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_TALKS = ("socket.connect", "socket.getaddrinfo", "urllib.Request")

_watched: list[tuple[Path, Path, list[str]]] = []  # an audit hook cannot be taken off again: one, for all


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watched or event not in _EVENTS:
        return
    box, writable, found = _watched[-1]
    if event in _RUNS_CODE or event in _TALKS:
        if event == "subprocess.Popen" and arguments[0] == sys.executable:
            return  # the trial of a model of edges, in a process of its own
        found.append(f"{event} {arguments[:2]}")
        return
    if event == "os.rename" and arguments[1:2] != arguments[:1]:
        _hook(event, (arguments[1], arguments[1]))
    path = arguments[0]
    if event == "os.link":  # a second name: the first may be anywhere but outside
        if Path(os.path.realpath(os.fsdecode(path))).is_relative_to(box / "outside"):  # type: ignore[arg-type]
            found.append(f"{event} {path!r}")
        path = arguments[1]
    if not isinstance(path, str | bytes | os.PathLike):
        return  # a descriptor, opened before
    folder, name = os.path.split(os.fsdecode(path))  # what changes names does not follow the last link
    followed = event in ("open", "os.chmod")
    place = Path(os.path.realpath(os.fsdecode(path))) if followed else Path(os.path.realpath(folder), name)
    if event == "open":
        flags = int(arguments[2]) if isinstance(arguments[2], int) else 0
        changes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not changes and not place.is_relative_to(box / "outside") and place != Path("/etc/passwd"):
            return
    if not place.is_relative_to(writable) and str(place) != os.devnull:
        found.append(f"{event} {place}")


_EVENTS = frozenset((*_RUNS_CODE, *_CHANGES, *_TALKS, "open"))


@contextmanager
def watched(box: Path, writable: Path) -> Iterator[list[str]]:
    """Collect what is done in the block beyond reading: writes outside ``writable``, reads of anything in
    ``box/outside``, programs that are started, names that are unpickled, hosts that are asked."""
    if _hook not in _hooks:
        sys.addaudithook(_hook)
        _hooks.append(_hook)
    found: list[str] = []
    _watched.append((Path(os.path.realpath(box)), Path(os.path.realpath(writable)), found))
    try:
        yield found
    finally:
        _watched.pop()


_hooks: list[object] = []
