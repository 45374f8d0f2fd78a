"""Which photo a task is about: one of a folder, by its name, so that nothing is downloaded."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from spp_det.data.folder import Refused, find_images
from spp_det.data.names import Links, can_be_a_file, leads_out
from spp_det.errors import UserError

logger = logging.getLogger(__name__)

MOST_PATH = 4096  # characters of a task's path
_UPLOADED = re.compile("[0-9a-f]{8}-(.+)", re.DOTALL)  # Label Studio's prefix of an uploaded file


class PhotoFolder:
    """The photos below a folder, by their names. Several threads may use one object.

    Links that lead out of the folder are refused, as everywhere.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there is no such folder; one without photos is none the worse."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of photos")
        self.folder = folder
        self._links = Links(folder)
        self._lock = threading.Lock()
        self._by_name: dict[str, list[PurePosixPath]] = {}
        self._refused: set[Path] = set()
        self.look()

    def look(self) -> None:
        """Read the names in the folder anew."""
        refused: Refused = {}
        try:
            found = find_images([self.folder], refused=refused)
        except UserError:
            found = []  # none yet
        for path in set(refused) - self._refused:
            logger.warning("not used: %s", refused[path])
        by_name: dict[str, list[PurePosixPath]] = {}
        for path in found:
            below = PurePosixPath(path.relative_to(self.folder).as_posix())
            for name in {below.name, uploaded_name(below.name)}:
                by_name.setdefault(name, []).append(below)
        with self._lock:
            self._by_name, self._refused = by_name, set(refused)

    def find(self, told: str) -> PurePosixPath | None:
        """The one photo, below the folder, whose name a task's path ends in; None where none or two are it.

        The path may be a URL, one of Label Studio's local files (``?d=``), and may have the prefix that Label
        Studio gives to uploads. Of several photos of one name the folders above decide.
        """
        parts = path_parts(told)
        if not parts:
            return None
        found = self._named(parts)
        if not found:
            self.look()
            found = self._named(parts)
        return found[0] if len(found) == 1 else None

    def _named(self, parts: Sequence[str]) -> list[PurePosixPath]:
        name = parts[-1]
        names = {name, unquote(name)}
        names |= {match[1] for each in list(names) if (match := _UPLOADED.fullmatch(each))}
        with self._lock:
            found = list(dict.fromkeys(photo for each in names for photo in self._by_name.get(each, [])))
        if len(found) < 2:
            return found
        folders = list(map(unquote, parts[:-1]))
        shared = [_shared(photo.parts[:-1], folders) for photo in found]
        return [photo for photo, count in zip(found, shared, strict=True) if count == max(shared)]

    def path(self, photo: PurePosixPath) -> Path:
        """Where a photo lies. Raises UserError for a link that leads out of the folder."""
        if leads_out(str(photo)):
            raise UserError(f"{photo}: leads out of {self.folder}")
        return self._links.checked(self.folder / photo)


def path_parts(told: str) -> list[str]:
    """The folders and the name of a task's path or URL, none of them empty or climbing."""
    if len(told) > MOST_PATH:
        return []
    try:
        url = urlsplit(told)
        local = parse_qs(url.query).get("d", []) if url.path.rstrip("/").endswith("local-files") else []
        path = local[0] if local else url.path if url.scheme else told
    except ValueError:
        return []
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    climbs = ".." in [*parts, *map(unquote, parts)] or "/" in "".join(map(unquote, parts))
    return [] if climbs or not can_be_a_file(unquote(path)) else parts


def uploaded_name(name: str) -> str:
    """What Label Studio makes of a file's name when it is uploaded: no blanks, no punctuation."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _shared(folders: Sequence[str], others: Sequence[str]) -> int:
    """How many of the last folders are equal."""
    count = 0
    for own, other in zip(reversed(folders), reversed(others), strict=False):
        if own != other:
            break
        count += 1
    return count
