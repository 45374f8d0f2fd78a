"""The folder that a run writes to: for one run at a time, and for one configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from spp_det.config.file import differences, dotted, dump_config, load_config
from spp_det.config.values import Section
from spp_det.errors import UserError
from spp_det.runtime import distributed
from spp_det.runtime.files import unlinked
from spp_det.runtime.whole_files import sweep, write_whole

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

C = TypeVar("C", bound=Section)

LOCK = ".run.lock"
FIRST = ("runtime.precision", "svm.memory_mb")  # a run keeps what ``auto`` was at its beginning


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder, which is made where it is absent, for the time of the block.

    However this process ends, the system releases the lock. Of several processes the first one locks the
    folder for all. Where the system or the disk knows no such locks, nothing is locked.

    Raises UserError where another run holds it.
    """
    if fcntl is None or not distributed.is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handle = _locked(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(handle)


def _locked(folder: Path) -> int:
    """The handle of the folder's locked file."""
    path = unlinked(folder, LOCK)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(f"another run is at work in {folder}") from None
        except OSError:  # a disk that knows no locks
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # the run that held it has just removed it


@contextmanager
def claimed(config: C, output: Path, idle: frozenset[str]) -> Iterator[C]:
    """Mark the output as this configuration's by a ``config.yaml``, and lock it for the time of the block.

    Yields the configuration to go on with: where it says ``auto``, the run's first precision and memory stand
    (`FIRST`).

    Args:
        idle: settings, by dotted key or by section, that may differ from the earlier run in this output,
            because no result depends on them.

    Raises UserError, before any change, where another run is at work in the output or where it belongs to
    another configuration.
    """
    with alone_in(output):
        if distributed.is_first():
            path = output / "config.yaml"
            if path.exists():
                config = _compared(path, config, idle)
            sweep(output)
            write_whole(path, dump_config(config))
        yield config


def _compared(path: Path, config: C, idle: frozenset[str]) -> C:
    """The configuration to go on with."""
    again = f"name another output, or remove {path} to give this configuration its place"
    try:
        found = load_config(path, (), type(config))
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    for key in FIRST:
        if dotted(config).get(key) == "auto":
            section, name = key.split(".")
            chosen = {name: dotted(found)[key]}
            config = config.model_copy(update={section: getattr(config, section).model_copy(update=chosen)})
    before, now = (
        {k: v for k, v in dotted(settings).items() if not idle & {k, k.partition(".")[0]}}
        for settings in (found, config)
    )
    if different := differences(before, now):
        raise UserError(f"{path} is another configuration's ({different}): {again}")
    return config
