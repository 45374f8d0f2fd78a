"""The journal of a detection run, from which a run that was killed goes on: ``detections.jsonl``.

One line a finished image, in order, after a line that says what run it is:

    {"run": {...}, "files": [lists that stand at the end of the run]}
    {"file_name": NAME, "width": W, "height": H, "found": [[label, score, x1, y1, x2, y2], ...], "files": []}
    {"skipped": PATH, "reason": REASON}

``files`` are the files about this image alone. Its line is written before them, and the line break after
them: so the files of an interrupted image are known, and the image does not count as done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spp_det.data.names import can_be_a_file, leads_out
from spp_det.errors import CannotResumeError
from spp_det.runtime.files import NO_LINK, open_regular, unlinked
from spp_det.runtime.whole_files import PARTIAL, sweep, write_whole

logger = logging.getLogger(__name__)

NAME = "detections.jsonl"
MOST_LINE = 2**25  # bytes; of 100 detections in each of 1000 classes a line has a quarter
STALE = ".detections.jsonl.stale"  # the journal of an earlier run, whose files are being removed

Entry = dict[str, Any]


class Journal:
    """The journal of a folder. Opened anew, it removes the files of the folder's earlier run, and no others;
    resumed, it keeps the files of all finished images.
    """

    def __init__(self, folder: Path, run: Mapping[str, object], files: list[str], resume: bool) -> None:
        """``run`` must be equal to an earlier run's for its results to be continued.

        No other process may write to the folder meanwhile (see `spp_det.runtime.run_folder`). Raises
        CannotResumeError, naming what differs, where the folder's journal is of another run; nothing is
        changed then.
        """
        self._folder = folder
        self._path = folder / NAME
        header = json.loads(json.dumps({"run": run, "files": files}))
        for name in (NAME, STALE):
            unlinked(folder, name)
        begun = next(_whole_lines(self._path), None) if resume else None
        if begun is None:
            if resume and self._path.exists():
                logger.warning("%s: its first line is damaged; beginning anew", self._path)
            self._begin(header)
        else:
            _compare(begun[0].get("run"), header["run"], folder)
            self._drop_torn_line()
        sweep(folder)
        self._file = open_regular(self._path, os.O_WRONLY | os.O_APPEND | NO_LINK)

    def _begin(self, header: Entry) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        stale = self._folder / STALE
        _remove_run(self._folder, stale)
        if self._path.exists():  # under another name no --resume takes it for a run that is all there
            self._path.replace(stale)
            _remove_run(self._folder, stale)
        for path in _files(header, self._folder):  # written by a version without a journal
            path.unlink(missing_ok=True)
        write_whole(self._path, _line(header) + b"\n")

    def _drop_torn_line(self) -> None:
        end = 0
        for _, end in _whole_lines(self._path):  # noqa: B007
            pass
        with open_regular(self._path, os.O_RDWR | NO_LINK) as file:
            file.seek(end)
            torn = file.readline(MOST_LINE)
            if not torn:
                return
            logger.info("%s: its end is torn; going on after the last image that was whole there", self._path)
            for path in _files(_parsed(torn), self._folder):
                _remove_partials(path.parent)
            file.truncate(end)

    @contextlib.contextmanager
    def entry(self, entry: Entry) -> Iterator[None]:
        """Note an image; it counts as done when the block, which writes its files, has ended."""
        self._file.write(_line(entry))
        self._file.flush()
        yield
        self._file.write(b"\n")
        self._file.flush()

    def entries(self) -> Iterator[Entry]:
        """The images noted so far, one at a time."""
        lines = _whole_lines(self._path)
        next(lines, None)
        return (entry for entry, _ in lines)

    def close(self) -> None:
        """Close the file; nothing can be noted any more."""
        with contextlib.suppress(OSError):  # what a full disk leaves unwritten is dropped anyway
            self._file.close()


def _line(entry: Entry) -> bytes:
    return json.dumps(entry).encode()


def _parsed(line: bytes) -> Entry:
    """The content of a line; empty where it is torn."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _whole_lines(path: Path) -> Iterator[tuple[Entry, int]]:
    """Every line before the first torn one, and where the line ends; none where there is no file."""
    with contextlib.suppress(FileNotFoundError), open_regular(path, os.O_RDONLY | NO_LINK) as file:
        end = 0
        while line := file.readline(MOST_LINE):
            content = _parsed(line)
            if not content or not line.endswith(b"\n"):
                return
            end += len(line)
            yield content, end


def _compare(then: Any, now: Mapping[str, Any], folder: Path) -> None:
    then = then if isinstance(then, dict) else {}
    for key in {**now, **then}:
        if then.get(key) != now.get(key):
            raise CannotResumeError(
                f"{folder}: --resume goes on with the same run, but {key} was {_said(then.get(key))} and is "
                f"now {_said(now.get(key))}; leave --resume out to begin anew"
            )


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else json.dumps(value)


def _files(entry: Entry, folder: Path) -> list[Path]:
    """The files that an entry names, but none that lies outside the folder, by its name or behind a link."""
    names = entry.get("files")
    paths = [
        folder / name
        for name in (names if isinstance(names, list) else ())
        if isinstance(name, str) and name and not leads_out(name) and can_be_a_file(name)
    ]
    inside = os.path.realpath(folder)
    return [path for path in paths if Path(os.path.realpath(path.parent)).is_relative_to(inside)]


def _remove(path: Path) -> None:
    """Remove a file or a link, if it is there; a folder of that name is somebody else's."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        path.unlink()


def _remove_partials(folder: Path) -> None:
    """Remove what `write_whole` was writing in a folder when its process died."""
    if folder.is_dir():
        for path in list(folder.iterdir()):
            if PARTIAL.fullmatch(path.name):
                _remove(path)


def _remove_run(folder: Path, journal: Path) -> None:
    """Remove the files that a journal names, folders that are then empty, and at last the journal."""
    if not os.path.lexists(journal):
        return
    swept: set[Path] = set()  # a million images share few folders
    with open_regular(journal, os.O_RDONLY | NO_LINK) as file:
        while (line := file.readline(MOST_LINE)) and len(line) < MOST_LINE:  # no run has written a longer one
            for path in _files(_parsed(line), folder):
                if path.parent not in swept and path.parent != folder:
                    _remove_partials(path.parent)
                    swept.add(path.parent)
                _remove(path)
                _remove(path.with_name(f".{path.name}.partial"))
                with contextlib.suppress(OSError):  # not empty, or gone already
                    while path.parent != folder:
                        path = path.parent
                        path.rmdir()
    journal.unlink()
