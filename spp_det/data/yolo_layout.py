"""The layout of a YOLO data set: its class names, its splits, and which label file belongs to a photo.

Every tool lays YOLO files out in its own way. The class names stand in one of

- a YAML file with ``names`` and often ``train``, ``val``, ``test`` (Ultralytics, Roboflow, supervision),
- ``obj.data``, which names the file of names and the lists of photos (darknet, CVAT),
- ``classes.txt``, ``_darknet.labels`` or ``obj.names`` alone, beside the label files or above them (labelImg,
  Label Studio, fiftyone).

The label file of a photo lies beside it, in a folder ``labels`` that mirrors the folder ``images``, or beside
``classes.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spp_det.config.file import read_yaml
from spp_det.data.names import Links, can_be_a_file
from spp_det.data.photos import images_below
from spp_det.errors import UserError
from spp_det.runtime.files import read_bytes, read_text

MOST_BYTES = 2**20  # of a file of names and splits; a list of photos may be longer
NAME_FILES = ("classes.txt", "_darknet.labels", "obj.names")
LABEL_FOLDERS = ("labels", "annotations")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The keys of a YAML or ``.data`` file that hold photos, and what the split is called here."""


@dataclass(frozen=True)
class Layout:
    """What the files of a YOLO data set say of it.

    Attributes:
        root: the folder; no file outside it is read.
        source: the file that holds the class names.
        names: class name by the number that label files use.
        splits: by name, the folders and lists of photos that belong to it, as their author wrote them.
    """

    root: Path
    source: Path
    names: dict[int, str]
    splits: dict[str, tuple[str, ...]]


def is_yolo(root: Path) -> bool:
    """Whether a folder holds a file that gives a YOLO data set its class names."""
    return root.is_dir() and next(_descriptions(root), None) is not None


def read_layout(root: Path, links: Links) -> Layout:
    """Find and read the file with the class names of a data set in the folder ``root``.

    Raises UserError, one line, where there is none, where it cannot be read, where two files of plain
    names disagree, or where a name is missing, empty or there twice.
    """
    source = next(_descriptions(root), None)
    if source is None:
        raise UserError(
            f"{root}: not a YOLO data set: it has neither a YAML file with names, nor an obj.data, nor "
            f"one of {', '.join(NAME_FILES)}"
        )
    if source.suffix in (".yaml", ".yml"):
        return _of_yaml(root, source, links)
    if source.suffix == ".data":
        return _of_data(root, source, links)
    for other in sorted(root.rglob(source.name)):
        if _lines(other, links) != _lines(source, links):
            raise UserError(f"{source} and {other} name different classes: remove the one that is outdated")
    return Layout(root, source, _numbered(_lines(source, links), source), {})


def photos_of(layout: Layout, split: str, links: Links) -> list[Path]:
    """The photos of one split, in the order of its lists or in natural order, each once.

    A listed photo that is not there is returned all the same: whoever decodes it reports it. Raises
    UserError where the data set has no such split, or where the split names nothing inside the root.
    """
    if split not in layout.splits:
        known = ", ".join(layout.splits) or "none"
        raise UserError(f"{layout.source}: has no split {split!r}; its splits are: {known}")
    found: dict[Path, None] = {}  # a set that keeps the order
    for entry in layout.splits[split]:
        place = _inside(layout.root, layout.source.parent, entry, whole=True)
        if place is None:
            raise UserError(
                f"{layout.source}: {split} is {entry[:200]!r}, which is neither a folder nor a list of "
                f"photos inside {layout.root}"
            )
        if place.is_dir():
            found.update(dict.fromkeys(images_below(place, links)))
        else:
            found.update(dict.fromkeys(_listed(layout.root, place, links)))
    if not found:
        raise UserError(f"{layout.source}: its split {split!r} holds no photos")
    return list(found)


def label_file(layout: Layout, photo: Path) -> Path | None:
    """The label file of a photo, or None where it has none.

    It is looked for where the last folder ``images`` of the path is replaced by ``labels`` (or
    ``annotations``), then beside the photo, then in ``ROOT/labels``, and at last beside the file with the
    class names: labelImg lets its user name the folder.
    """
    inner, name = photo.relative_to(layout.root), f"{photo.stem}.txt"
    candidates = [photo.with_name(name)]
    candidates += [layout.root / folder / name for folder in LABEL_FOLDERS]
    candidates.append(layout.source.parent / name)
    folders = list(inner.parts[:-1])
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        mirrored = [[*folders[:last], folder, *folders[last + 1 :], name] for folder in LABEL_FOLDERS]
        candidates[:0] = [layout.root.joinpath(*parts) for parts in mirrored]
    return next((path for path in candidates if path.is_file()), None)


def _descriptions(root: Path) -> Iterator[Path]:
    """The files that may give the class names, best first."""
    sheets = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: path.stem != "data")
    yield from (path for path in sheets if _has_names(path))
    yield from (path for path in sorted(root.glob("*.data")) if path.is_file())
    for name in NAME_FILES:
        yield from (path for path in sorted(root.rglob(name)) if path.is_file())


def _has_names(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return False
    return re.search(rb"^[\"']?names[\"']?\s*:", read_bytes(path, MOST_BYTES), re.MULTILINE) is not None


def _of_yaml(root: Path, path: Path, links: Links) -> Layout:
    try:
        tree = read_yaml(_text(path, links))
    except ValueError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping with names, not a {type(tree).__name__}")
    names = tree.get("names")
    if isinstance(names, dict):
        numbered = {_number(key, path): value for key, value in names.items()}
        if len(numbered) < len(names):
            raise UserError(f"{path}: names has two classes of the same number")
    else:
        numbered = _numbered(names, path)
    inner = tree.get("path")
    base = f"{inner}/" if isinstance(inner, str) and inner else ""
    splits: dict[str, list[str]] = {}
    for key, split in SPLITS.items():
        if tree.get(key):
            entries = _entries(tree[key], path, key)
            splits.setdefault(split, [_joined(root, base, entry) for entry in entries])
    return Layout(root, path, _checked(numbered, path), _there(root, path, splits))


def _of_data(root: Path, path: Path, links: Links) -> Layout:
    pairs = [line.partition("=") for line in _text(path, links).splitlines()]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    named = values.get("names", "obj.names")
    source = _inside(root, path.parent, named)
    if source is None or not source.is_file():
        raise UserError(f"{path}: names is {named[:200]!r}, but no such file lies inside {root}")
    splits = {split: [values[key]] for key, split in SPLITS.items() if values.get(key)}
    return Layout(root, source, _numbered(_lines(source, links), source), _there(root, path, splits))


def _there(root: Path, path: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The splits that exist: tools list all splits that they know, whether or not the export has them."""
    return {
        split: tuple(entries)
        for split, entries in splits.items()
        if any(_inside(root, path.parent, entry, whole=True) for entry in entries)
    }


def _listed(root: Path, path: Path, links: Links) -> Iterator[Path]:
    """The photos of a list file. A listed path that leads nowhere or out is that of the photo inside."""
    by_name: dict[str, list[Path]] | None = None
    for line in _lines(path, links, MOST_BYTES * 256):
        place = _inside(root, path.parent, line)
        if place is None:
            if by_name is None:
                by_name = {}
                for photo in images_below(root, links):
                    by_name.setdefault(photo.name, []).append(photo)
            same = by_name.get(PurePosixPath(line.replace("\\", "/")).name, [])
            if len(same) > 1:
                raise UserError(
                    f"{path}: {line[:200]!r} leads to no file, and two photos have that name, {same[0]} and "
                    f"{same[1]}: write the path below {root}"
                )
            if not same:
                raise UserError(f"{path}: lists {line[:200]!r}, but no such photo is inside {root}")
            place = same[0]
        yield links.checked(place)


def _inside(root: Path, base: Path, name: str, whole: bool = False) -> Path | None:
    """The file or folder inside the root that a written path means, or None.

    Authors write paths relative to the file, to the root, or to a place on their own machine. The leading
    parts are dropped one by one until a path below ``base`` or ``root`` exists. Of a folder that is to be
    read ``whole`` two parts must fit where its author wrote two: ``images`` alone is every split's folder.
    """
    if not can_be_a_file(name):
        return None
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    if parts and parts[0].endswith(":"):
        del parts[0]
    for start in range(len(parts)):
        for folder in (base, root):
            place = folder.joinpath(*parts[start:])
            short = whole and 1 == len(parts) - start < len(parts)
            if place.is_file() or (place.is_dir() and not short):
                return place
    return root if not parts else None


def _joined(root: Path, base: str, entry: str) -> str:
    """An entry below the ``path`` that a YAML file states, where there is such a place in the root."""
    return base + entry if base and _inside(root, root, base + entry, whole=True) is not None else entry


def _entries(value: Any, path: Path, key: str) -> Sequence[str]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise UserError(f"{path}: {key} must be a path or a list of paths, got {str(value)[:100]!r}")
    return entries


def _number(key: Any, path: Path) -> int:
    if type(key) is int and key >= 0:
        return key
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)
    raise UserError(f"{path}: names has the key {str(key)[:100]!r}, which is no number of a class")


def _numbered(names: Any, path: Path) -> dict[int, str]:
    if not isinstance(names, list):
        raise UserError(f"{path}: names must be a list or a mapping of class names")
    return _checked(dict(enumerate(names)), path)


def _checked(names: Mapping[int, Any], path: Path) -> dict[int, str]:
    if not names:
        raise UserError(f"{path}: names no class")
    checked: dict[int, str] = {}
    for number, name in sorted(names.items()):
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not str(name).strip():
            raise UserError(f"{path}: class {number} has the name {str(name)[:100]!r}, which is no text")
        checked[number] = str(name).strip()
        if len(checked[number]) > 200:
            raise UserError(
                f"{path}: class {number} has a name of {len(checked[number])} characters; 200 is the most"
            )
    if len(set(checked.values())) < len(checked):
        twice = next(name for name in checked.values() if list(checked.values()).count(name) > 1)
        raise UserError(f"{path}: two classes have the name {twice!r}")
    return checked


def _lines(path: Path, links: Links, most: int = MOST_BYTES) -> list[str]:
    return [line.strip() for line in _text(path, links, most).splitlines() if line.strip()]


def _text(path: Path, links: Links, most: int = MOST_BYTES) -> str:
    return read_text(links.checked(path), most)
