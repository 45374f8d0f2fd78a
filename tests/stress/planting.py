"""What strangers plant in the place of files: links, pipes, devices, folders, files without end."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from tests.stress.corrupt import Rng

ZEROS = os.makedev(1, 5)  # /dev/zero, which has no end


def plant(rng: Rng, folder: Path, patterns: tuple[str, ...], links: bool, folders: bool) -> None:
    """Plant one thing in the place of a file that matches, or with ``folders`` of the folder that holds it.

    Links lead out of the folder only where ``links`` are the reader's to refuse: a file that its user named
    may be a link.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    path = files[rng.integers(len(files))]
    if folders and rng.random() < 0.3 and path.parent != folder:
        path = path.parent
    kinds = (*_ANYWHERE, *_LINKS) if links else _ANYWHERE
    kind = kinds[rng.integers(len(kinds))]
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    kind(path, folder.parent / "outside")


def plant_beside(rng: Rng, folder: Path, names: tuple[str, ...]) -> None:
    """Plant one thing under a name that a writer may want, where nothing lies yet."""
    path = folder / names[rng.integers(len(names))]
    if os.path.lexists(path) or any(parent.is_symlink() for parent in path.parents):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = (*_ANYWHERE, *_LINKS)
    kinds[rng.integers(len(kinds))](path, folder.parent / "outside")


def _pipe(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def _device(path: Path, _outside: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, ZEROS)
    except PermissionError:  # for all but root
        path.symlink_to("/dev/zero")


def _folder(path: Path, _outside: Path) -> None:
    (path / "inside").mkdir(parents=True)


def _sparse(path: Path, _outside: Path) -> None:
    path.touch()
    os.truncate(path, 2**32)


def _link_to_nothing(path: Path, _outside: Path) -> None:
    path.symlink_to("nowhere")


def _link_to_itself(path: Path, _outside: Path) -> None:
    path.symlink_to(path.name)


def _link_to_a_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "secret.jpg")


def _link_to_a_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _link_to_a_new_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "new")


Kind = Callable[[Path, Path], None]
_ANYWHERE: tuple[Kind, ...] = (_pipe, _device, _folder, _sparse, _link_to_nothing, _link_to_itself)
_LINKS: tuple[Kind, ...] = (_link_to_a_file, _link_to_a_folder, _link_to_a_new_file)
