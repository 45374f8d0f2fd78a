"""Artefacts on disk that are worth keeping: found by content, written whole, checked when read.

An artefact is a few named arrays. Its key is a digest of everything that it was computed from, the version of
the code included, never a name or a date: no run asks for a stale artefact. A damaged artefact counts as
absent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from spp_det.errors import UserError
from spp_det.runtime.files import NO_LINK, open_regular, unlinked
from spp_det.runtime.whole_files import sweep, write_whole

logger = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]


def digest(*parts: object) -> str:
    """A key: 32 hex digits of all the parts, which are bytes or anything that JSON can write."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        whole.update(len(data).to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()


def file_digest(path: Path, most: float = math.inf) -> str:
    """A key of a file's bytes, at most so many. Raises OSError or UserError where they cannot be read."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise UserError(f"{path}: is larger than {most:,} bytes, which is the most that is read")
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def check_form(arrays: Mapping[str, npt.NDArray[Any]], **forms: npt.NDArray[Any]) -> None:
    """Raise ValueError unless each form has an array of its name, shape and dtype, with finite numbers."""
    for name, form in forms.items():
        if name not in arrays:
            raise ValueError(f"it has no {name}")
        array = arrays[name]
        if (array.dtype, array.shape) != (form.dtype, form.shape):
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {form.dtype} {form.shape}")
        halves = array.dtype == np.float16  # isfinite is slow on them; infinity and NaN have a full exponent
        finite = (array.view(np.uint16) & 0x7C00) < 0x7C00 if halves else np.isfinite(array)
        if not finite.all():
            raise ValueError(f"{name} holds a number that is not finite")


@dataclass(frozen=True)
class Usage:
    """A number of artefacts, and their size in bytes together."""

    artefacts: int = 0
    bytes: int = 0


_KEY = re.compile("[0-9a-f]{32}")
_PARTIALS = ".partial"  # the folder, in a stage's folder, of files that are being written
_DAY = 86_400.0


class Cache:
    """Artefacts in ``FOLDER/STAGE/ab/abcdef....safetensors``. Several runs may share a folder at once.

    Attributes:
        most: the bytes that all artefacts of a stage may take together. Stages not named here have no bound.
            What other runs add to the folder after this object's first `store` is not counted.
        sharers: how many processes fill the folder at once. Each takes an equal part of the free room.
    """

    def __init__(self, folder: Path, most: Mapping[str, float] | None = None, sharers: int = 1) -> None:
        self.folder = folder
        self.most = most or {}
        self.sharers = sharers
        self._room: dict[str, float] = {}  # what is left of a stage's bound
        self._full: set[str] = set()
        self._lock = threading.Lock()

    def path(self, stage: str, key: str) -> Path:
        """Where the artefact lies, present or not."""
        return self.folder / stage / key[:2] / f"{key}.safetensors"

    def load(self, stage: str, key: str) -> Arrays | None:
        """The artefact's arrays, or None where it is absent or damaged (logged, removed)."""
        path = self.path(stage, key)
        try:
            open_regular(path, NO_LINK).close()  # a pipe is waited for, what may not be read taken for absent
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except FileNotFoundError:
            return None
        except (PermissionError, UserError) as error:
            reason = getattr(error, "strerror", error)
            logger.warning("cache: %s cannot be read (%s); computing it again", path, reason)
            return None
        except (SafetensorError, OSError, TypeError, ValueError) as error:  # a type that numpy lacks, say
            reason = str(error)
        else:
            if metadata.get("key") == key and metadata.get("crc32") == _crc32(arrays):
                _mark_as_used(path)
                return arrays
            reason = "its checksum does not match"
        logger.warning("cache: %s is damaged (%s); computing it again", path, reason)
        with suppress(OSError):  # a file that may not be removed is damaged at the next reading, too
            path.unlink(missing_ok=True)
        return None

    def has(self, stage: str, key: str) -> bool:
        """Whether the artefact is there, sound or damaged."""
        return self.path(stage, key).is_file()

    def store(self, stage: str, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep the arrays under that key, without a copy: some fill a good part of the memory.

        Once a stage's bound is reached, nothing more is kept. Where a damaged artefact of another user may
        not be replaced, a warning names it, and the arrays are not kept.
        """
        if self.full(stage):
            return
        whole = {n: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for n, a in arrays.items()}
        buffers = list(_safetensors(whole, {"key": key, "crc32": _crc32(whole)}))
        if not self._has_room(stage, sum(len(buffer) for buffer in buffers)):
            return
        path = self.path(stage, key)
        unlinked(self.folder, path.parent.relative_to(self.folder))
        try:
            write_whole(path, buffers, unlinked(self.folder, Path(stage, _PARTIALS)))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not os.path.lexists(path):
                raise
            logger.warning("cache: %s cannot be replaced (%s)", path, error.strerror)

    def full(self, stage: str) -> bool:
        """Whether the stage's bound is reached, so that nothing more of it is kept."""
        return stage in self._full

    def _has_room(self, stage: str, size: int) -> bool:
        """Count an artefact of so many bytes, or find that the bound is reached."""
        if stage not in self.most:
            return True
        with self._lock:
            if stage not in self._room:
                self._room[stage] = (self.most[stage] - self.usage(stage).bytes) / self.sharers
            self._room[stage] -= size
            if self._room[stage] >= 0:
                return True
            said = stage in self._full
            self._full.add(stage)
        if not said:
            most = self.most[stage] / 1e9
            logger.warning(
                "cache: %s have reached their bound of %.3g GB; others are computed at each use", stage, most
            )
        return False

    def remove(self, stage: str, key: str) -> None:
        """Forget an artefact, if it is there."""
        self.path(stage, key).unlink(missing_ok=True)

    def load_checked(self, stage: str, key: str, check: Callable[[Arrays], object]) -> Arrays | None:
        """The artefact's arrays; None where it is absent or damaged, or (logged) where ``check`` raises
        ValueError because the arrays have not the form of this stage."""
        arrays = self.load(stage, key)
        try:
            if arrays is not None:
                check(arrays)
        except ValueError as error:
            path = self.path(stage, key)
            logger.warning("cache: %s is not what it should be (%s); computing it again", path, error)
            return None
        return arrays

    def load_or_make(
        self,
        stage: str,
        key: str,
        make: Callable[[], Arrays],
        check: Callable[[Arrays], object] = lambda _: None,
    ) -> Arrays:
        """The artefact; where `load_checked` does not find it, ``make`` computes it, and it is kept."""
        arrays = self.load_checked(stage, key, check)
        if arrays is None:
            arrays = make()
            self.store(stage, key, arrays)
        return arrays

    def stages(self) -> tuple[str, ...]:
        """The names of the stages that have artefacts here, in alphabetical order."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []  # noqa: PTH208
        return tuple(sorted(name for name in names if next(self._artefacts(name), None)))

    def usage(self, stage: str) -> Usage:
        """The number and size of a stage's artefacts."""
        sizes = [size for _, size, _ in self._artefacts(stage)]
        return Usage(len(sizes), sum(sizes))

    def prune(self, stage: str, unused_days: float = 0.0) -> Usage:
        """Remove a stage's artefacts that nobody has written or read for so many days, and half-written files
        of killed processes. Returns what was removed. A run that misses an artefact makes it again.

        Folders stay, because another run may be about to write there, and so do files that are no artefacts.
        """
        sizes = []
        for path, size, used in self._artefacts(stage):
            if time.time() - used >= unused_days * _DAY:
                path.unlink(missing_ok=True)
                sizes.append(size)
        sweep(self.folder / stage / _PARTIALS)
        return Usage(len(sizes), sum(sizes))

    def sweep(self) -> None:
        """Remove the half-written files of killed processes, in all stages."""
        for partials in self.folder.glob(f"*/{_PARTIALS}"):
            sweep(partials)

    def _artefacts(self, stage: str) -> Iterator[tuple[Path, int, float]]:
        """Each file with the place and name of an artefact, its size, and the time of its last use."""
        for path in (self.folder / stage).glob("[0-9a-f][0-9a-f]/*.safetensors"):
            elsewhere = path.parent.is_symlink() or path.parent.parent.is_symlink()
            if not elsewhere and _KEY.fullmatch(path.stem) and path == self.path(stage, path.stem):
                with suppress(FileNotFoundError):  # another run has just removed it
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield path, status.st_size, status.st_mtime


def _mark_as_used(path: Path) -> None:
    """Let the file's date tell when it was last read, to the day."""
    with suppress(OSError):  # of another user, or on a disk that is read only
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path, follow_symlinks=False)


def _safetensors(arrays: Arrays, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The buffers of a safetensors file of little-endian arrays in C order.

    The library's own two writers will not do: one copies all arrays, the other sets the file's rights."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # so each is aligned
    for name in names:
        array, start, end = arrays[name], end, end + arrays[name].nbytes
        kind = array.dtype.kind
        dtype = "BOOL" if kind == "b" else f"{kind.upper()}{8 * array.itemsize}"  # F16, I64, U8
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield arrays[name].reshape(-1).view(np.uint8).data


def checksum(about: object, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """CRC-32, 8 hex digits, of anything that JSON can write and of the bytes of arrays, sorted by name.

    safetensors itself notices no change of a weight.
    """
    total = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def _crc32(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """The checksum of arrays and of their names, types and shapes, so that a damaged header shows."""
    return checksum([[name, arrays[name].dtype.name, arrays[name].shape] for name in sorted(arrays)], arrays)
