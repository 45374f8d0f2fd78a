"""What was labelled, kept on disk in Pascal VOC's layout, ready for ``spp-det train``.

LABELS/label_studio/PROJECT-TASK.json    a task's annotations as they came: the truth
LABELS/Annotations/ID.xml                the boxes of its newest annotation
LABELS/JPEGImages/ID.jpg                 the photo, a hard link or a copy
LABELS/ImageSets/Main/trainval.txt       the ids of all photos that are labelled

Each file is written whole, the JSON first: a process that was killed in between writes the rest when it
starts again. Annotations that were there without a JSON file, from another tool, stay as they are and are
learnt from.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from spp_det.config.settings import Config
from spp_det.data.voc import find_image, read_split
from spp_det.data.voc_xml import annotation_xml
from spp_det.errors import UserError
from spp_det.images import image_size
from spp_det.runtime.cache import digest
from spp_det.runtime.files import read_bytes, unlinked
from spp_det.runtime.whole_files import PARTIAL, sweep, write_json, write_whole
from spp_det.serving.labelling import Drawn, in_pixels

logger = logging.getLogger(__name__)

SPLIT = "trainval"
MOST_FILE = 2**26  # bytes of one task's annotations

FindPhoto = Callable[[str], tuple[PurePosixPath, Path]]
"""Gives the photo of a task's path: its name below the photos, and where it lies. Raises UserError."""


class Labels:
    """The annotations of a folder. Several threads may use one object."""

    def __init__(self, root: Path, find: FindPhoto) -> None:
        """Make the folder where it is absent, and finish what was left unfinished.

        ``find`` gives the photo of a task's path. Raises UserError where the folder holds something else.
        """
        self.root = root
        self._find = find
        self._lock = threading.RLock()
        for below in ("label_studio", "Annotations", "JPEGImages", "ImageSets/Main"):
            unlinked(root, below).mkdir(parents=True, exist_ok=True)
            sweep(root / below)
        self._tasks: dict[str, dict[str, Any]] = dict(self._read())
        self._task_of = {
            annotation: name for name, task in self._tasks.items() for annotation in task["annotations"]
        }

    # ------------------------------------------------------------ what comes in

    def put(self, project: int, task: int, image: str, annotation: int, when: str, drawn: list[Drawn]) -> str:
        """Keep an annotation, in the place of an earlier state of it. Returns the name of its task."""
        name = f"{project}-{task}"
        with self._lock:
            entry = dict(self._tasks.get(name) or {"image": image, "photo": None, "annotations": {}})
            if entry["image"] != image:  # the task has another photo now
                self._take_off(entry["photo"])
                entry |= {"image": image, "photo": None}
            objects = [[each.name, *each.box] for each in drawn]
            others = {key: value for key, value in entry["annotations"].items() if key != str(annotation)}
            entry["annotations"] = {**others, str(annotation): {"when": when, "objects": objects}}
            self._write(name, entry)
            self._task_of[str(annotation)] = name
        return name

    def remove_annotation(self, annotation: int) -> str | None:
        """Forget an annotation. Returns the name of its task, None where it was not known."""
        with self._lock:
            name = self._task_of.pop(str(annotation), None)
            if name is not None:
                entry = dict(self._tasks[name])
                kept = {key: value for key, value in entry["annotations"].items() if key != str(annotation)}
                self._write(name, entry | {"annotations": kept})
            return name

    def remove_task(self, project: int | None, task: int) -> list[str]:
        """Forget all annotations of a task, in a project or in all. Returns the names of what changed."""
        with self._lock:
            names = [
                name for name, entry in self._tasks.items()
                if name in (f"{project}-{task}",) or (project is None and name.endswith(f"-{task}"))
                if entry["annotations"]
            ]  # fmt: skip
            for name in names:
                self._write(name, dict(self._tasks[name]) | {"annotations": {}})
        return names

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        write_json(unlinked(self.root, "label_studio") / f"{name}.json", entry)
        self._tasks[name] = entry

    # ------------------------------------------------------------ what is made of it

    def unfinished(self) -> list[str]:
        """The names of all tasks: `settle` finds out which of them have work to do."""
        with self._lock:
            return list(self._tasks)

    def settle(self, name: str) -> bool:
        """Write the VOC files of a task, or remove them where no annotation is left.

        Returns whether anything has changed. Raises UserError where its photo cannot be found or read.
        """
        with self._lock:
            entry = self._tasks.get(name)
        if entry is None:
            return False
        if not entry["annotations"]:
            return self._drop(name, entry)
        photo = entry["photo"]
        if photo is None or not (self.root / "JPEGImages" / photo["file"]).is_file():
            photo = self._place(entry["image"])
        newest = max(entry["annotations"].values(), key=lambda each: str(each["when"]))
        drawn = [Drawn(row[0], (row[1], row[2], row[3], row[4])) for row in newest["objects"]]
        path = self.root / "JPEGImages" / photo["file"]
        size = image_size(path)
        text = annotation_xml(photo["file"], *size, *in_pixels(drawn, size))
        with self._lock:
            if self._tasks.get(name) is not entry:  # it has changed meanwhile, and is settled again
                return False
            if entry["photo"] != photo:
                self._write(name, entry | {"photo": photo})
            target = unlinked(self.root, "Annotations") / f"{photo['id']}.xml"
            changed = not target.is_file() or target.read_bytes() != text.encode()
            if changed:
                unlinked(self.root, PurePosixPath("Annotations", photo["id"]).parent)
                write_whole(target, text)
            return self._list(photo["id"], there=True) or changed

    def _place(self, image: str) -> dict[str, str]:
        """Put a task's photo into JPEGImages: its id and its file there."""
        below, path = self._find(image)
        stem = str(below.with_suffix(""))
        with self._lock:
            placed = [entry["photo"] for entry in self._tasks.values() if entry["photo"]]
        taken = {photo["id"]: photo["file"] for photo in placed}
        image_id = stem if taken.get(stem, str(below)) == str(below) else str(below)
        target = self.root / "JPEGImages" / below
        unlinked(self.root, PurePosixPath("JPEGImages", below).parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _same(target, path):
            partial = target.parent / f".{os.urandom(8).hex()}.partial"
            assert PARTIAL.fullmatch(partial.name)
            try:
                os.link(path, partial, follow_symlinks=True)
            except OSError:  # another disk, or one without links
                shutil.copyfile(path, partial)
            partial.replace(target)
        return {"id": image_id, "file": str(below)}

    def _drop(self, name: str, entry: Mapping[str, Any]) -> bool:
        with self._lock:
            if self._tasks.get(name) is not entry:
                return False
            photo = entry["photo"]
            self._take_off(photo)
            (self.root / "label_studio" / f"{name}.json").unlink(missing_ok=True)
            del self._tasks[name]
            others = [
                each for each, kept in self._tasks.items() if photo is not None and kept["photo"] == photo
            ]
        for other in others:
            self.settle(other)  # the same photo is a task of another project too
        return photo is not None

    def _take_off(self, photo: Mapping[str, str] | None) -> None:
        """Let a photo be no label."""
        if photo is not None:
            self._list(photo["id"], there=False)
            (self.root / "Annotations" / f"{photo['id']}.xml").unlink(missing_ok=True)

    def _list(self, image_id: str, there: bool) -> bool:
        """Add an id to the list of photos, or take it off. Returns whether the list has changed."""
        path = unlinked(self.root, "ImageSets/Main") / f"{SPLIT}.txt"
        before = self.ids()
        after = sorted({*before, image_id} if there else set(before) - {image_id})
        if after == before:
            return False
        write_whole(path, "".join(f"{each}\n" for each in after))
        return True

    def ids(self) -> list[str]:
        """The ids of all photos that are labelled."""
        path = self.root / "ImageSets" / "Main" / f"{SPLIT}.txt"
        if not path.is_file() or not path.stat().st_size:
            return []
        return read_split(self.root, SPLIT)

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tasks that were kept. Raises UserError for a file that is none of ours."""
        for path in sorted((self.root / "label_studio").glob("*.json")):
            try:
                entry = json.loads(read_bytes(path, MOST_FILE))
                _check(entry)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError) as error:
                raise UserError(f"{path}: is not what serve writes there ({error}); move it away") from error
            yield path.stem, entry


def _check(entry: Any) -> None:
    """Raise an error of Python's where a task's file has another form."""
    photo = entry["photo"]
    if not isinstance(entry["image"], str):
        raise ValueError("its image is no text")
    if photo is not None:
        for name in ("id", "file"):
            parts = PurePosixPath(photo[name]).parts
            if not parts or ".." in parts or photo[name].startswith("/"):
                raise ValueError(f"its photo's {name} leads out")
    for key, annotation in entry["annotations"].items():
        int(key)
        for name, *box in annotation["objects"]:
            if not isinstance(name, str) or len([float(edge) for edge in box]) != 4:
                raise ValueError("a box has other fields")


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False


# ---------------------------------------------------------------- which state a model has learnt


def state_of(root: Path, config: Config) -> tuple[str, int]:
    """A key of all that a model of these labels depends on, and the number of labelled photos."""
    path = root / "ImageSets" / "Main" / f"{SPLIT}.txt"
    if not path.is_file() or not path.stat().st_size:
        return "", 0
    parts: list[object] = [config.model_dump(mode="json", exclude={"output", "data", "runtime", "strict"})]
    ids = read_split(root, SPLIT)
    for image_id in ids:
        parts.append(image_id)
        with suppress(OSError):
            parts.append((root / "Annotations" / f"{image_id}.xml").read_bytes())
        with suppress(OSError):
            status = find_image(root, image_id).stat()
            parts += [status.st_size, status.st_mtime_ns]
    return digest(*parts), len(ids)


def taught_state(model: Path) -> str:
    """The key of the labels that a model was made of; empty where nothing says so."""
    with suppress(UserError, ValueError, KeyError, TypeError):
        return str(json.loads(read_bytes(model.with_suffix(".json"), 2**16))["labels"])
    return ""
