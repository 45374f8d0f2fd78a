"""Artefacts on disk that are worth keeping: found by content, written whole, checked when read.

An artefact is a few named arrays. Its key is a digest of everything it was computed from, never a
name or a date, so a stale one is simply never asked for. A damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

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


def file_digest(path: Path) -> str:
    """A key of a file's bytes, whatever its name. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file: whenever the machine stops, the old one or the new one is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    file = partial.open("xb")
    try:
        with file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, tree: object) -> None:
    """Write figures, whole or not at all, for people and programs to read."""
    write_whole(path, json.dumps(tree, indent=2) + "\n")


class Cache:
    """Artefacts in ``FOLDER/STAGE/ab/abcdef....safetensors``. Several runs may share a folder at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, stage: str, key: str) -> Path:
        """Where the artefact lies, present or not."""
        return self.folder / stage / key[:2] / f"{key}.safetensors"

    def load(self, stage: str, key: str) -> Arrays | None:
        """The artefact's arrays, or None where it is absent or damaged (logged, removed)."""
        path = self.path(stage, key)
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            reason = str(error)
        else:
            if metadata.get("key") == key and metadata.get("crc32") == _checksum(arrays):
                return arrays
            reason = "its checksum does not match"
        logger.warning("cache: %s is damaged (%s); computing it again", path, reason)
        path.unlink(missing_ok=True)
        return None

    def store(self, stage: str, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep the arrays under that key."""
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        write_whole(self.path(stage, key), save(whole, {"key": key, "crc32": _checksum(whole)}))

    def load_or_make(self, stage: str, key: str, make: Callable[[], Arrays]) -> Arrays:
        """The artefact; computed by ``make`` and kept where it was not there."""
        arrays = self.load(stage, key)
        if arrays is None:
            arrays = make()
            self.store(stage, key, arrays)
        return arrays


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Of names, types and shapes as well: a damaged header must not pass for another one."""
    forms = [[name, arrays[name].dtype.name, arrays[name].shape] for name in sorted(arrays)]
    total = zlib.crc32(json.dumps(forms).encode())
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"
