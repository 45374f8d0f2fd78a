"""A folder of detections: the COCO results list, and on request VOC XML, YOLO text, CSV, the VOC devkit's
result files, pictures and crops.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np

from spp_det.data.names import Stems, check_class_names, folder_names, leads_out
from spp_det.data.records import Detections, select
from spp_det.data.voc_xml import annotation_xml, writable
from spp_det.detections.journal import Entry, Journal
from spp_det.detections.lists import list_names, place_of, write_lists
from spp_det.detections.output import PLAIN, PRE_LABELS, Output
from spp_det.detections.text import shortest
from spp_det.detections.types import DetectedImage
from spp_det.detections.yolo import yolo_text
from spp_det.drawing.draw import draw_detections, visible_pixels
from spp_det.errors import CannotResumeError, UserError
from spp_det.images import RGB, Skipped, UnreadableImageError, encode_jpeg, skipped
from spp_det.runtime.cache import digest
from spp_det.runtime.whole_files import write_whole
from spp_det.version import __version__


class DetectionWriter:
    """Writes a folder of detections, image by image; use it in a ``with``.

    ``detections.json`` (a COCO results list) and ``images.json`` (what its ids mean: ``images`` and
    ``categories`` of COCO, and the ``skipped`` files) are always written. They appear when all images are
    done; until then the journal ``detections.jsonl`` holds the detections. ``voc`` adds ``voc/NAME.xml``,
    ``yolo`` ``yolo/NAME.txt`` with ``classes.txt`` and ``data.yaml``, ``csv`` ``detections.csv``, ``devkit``
    ``devkit/comp4_det_test_CLASS.txt``, ``cvat`` ``cvat.xml``, ``label-studio`` ``label-studio.json`` with
    ``label-studio.xml``; ``draw`` adds ``pictures/NAME.jpg``, ``crops``
    ``crops/CLASS/NAME-1.jpg`` and so on, in the order of the scores. NAME keeps the folders below the deepest
    folder that holds all images (see also `Stems`). All formats but the last two read back to the same boxes,
    see `spp_det.detections.reader`.

    The folder holds one run. The files of an earlier run are removed first; other files are left alone. With
    ``resume`` the same run is continued instead, and ends in the same bytes as an unbroken one.

    Attributes:
        done: how many of the paths, from the first, need not be read again.
        images: how many images were read.
        found: how many detections were written.
        skipped: the files that could not be read, and why.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        paths: Sequence[Path],
        output: Output = PLAIN,
        resume: bool = False,
        run: Mapping[str, object] | None = None,
    ) -> None:
        """``run`` holds what the detections depend on: only a run of an equal ``run`` is resumed. The output
        and the paths need not be in it.

        Raises UserError for a format that cannot hold a name.
        """
        formats = frozenset(output.formats)
        broken = [path for path in paths if "\n" in str(path)] if "devkit" in formats else []
        if broken:
            raise UserError(
                f"{str(broken[0])!r} has a line break in its name, which a line of the devkit's files cannot "
                "hold: rename it"
            )
        taken = [path for path in paths if path.stem == "classes"] if "yolo" in formats else []
        if taken:
            raise UserError(
                f"{taken[0]}: its YOLO file would be classes.txt, the list of class names: rename the photo"
            )
        check_class_names(classes, folder)
        in_xml = bool(formats & {"voc", *PRE_LABELS})
        odd = [name for name in classes if writable(name) != name] if in_xml else []
        if odd:
            raise UserError(f"class {odd[0]!r} has characters that XML cannot hold: leave the format out")
        self.folder = folder
        self.classes = tuple(classes)
        self.formats = formats
        self.output = output
        self.done, self.images, self.found = 0, 0, 0
        self.skipped: list[Skipped] = []
        self._resume = resume
        self._total = len(paths)
        self._lists = list_names(self.classes, self.formats)
        self._crop_folders = folder_names(self.classes)
        self._stem = Stems()
        whole = [_absolute(path) for path in paths]
        self._base = Path(os.path.commonpath([path.parent for path in whole])) if paths else Path()
        self._run = {
            "spp_det": __version__,
            **(run or {}),
            "images": [len(paths), digest([str(path) for path in whole])[:12]],
            "--format": sorted(formats - {"coco"}),
            "--score": output.score,
            "--draw": output.draw,
            "the score drawn": output.draw_score,
            "--save-crops": output.crops,
            **({} if output.scores else {"--no-scores": True}),
        }

    def __enter__(self) -> DetectionWriter:
        self._journal = Journal(self.folder, self._run, self._lists, self._resume)
        for entry in self._journal.entries():
            if self.done == self._total or not _is_sound(entry, len(self.classes)):
                self._journal.close()
                raise CannotResumeError(
                    f"{self.folder}: its journal is damaged; leave --resume out to begin anew"
                )
            self._count(entry)
        return self

    def _count(self, entry: Entry) -> str:
        """Count an image as done; returns its stem."""
        self.done += 1
        if "skipped" in entry:
            self.skipped.append({"file": entry["skipped"], "reason": entry["reason"]})
            return ""
        self.images += 1
        self.found += len(entry["found"])
        return self._stem(entry["file_name"])

    def skip(self, path: Path, error: UnreadableImageError) -> None:
        """Note that an image cannot be read, and why."""
        noted = skipped(path, error)
        entry = {"skipped": noted["file"], "reason": noted["reason"]}
        self._count(entry)
        with self._journal.entry(entry):
            pass

    def add(self, found: DetectedImage) -> None:
        """Write the detections of one image."""
        name = _absolute(found.path).relative_to(self._base).as_posix()
        height, width = found.image.shape[:2]
        lowest = -np.inf if self.output.score is None else self.output.score
        detections = select(found.detections, found.detections["scores"] >= lowest)
        entry: Entry = {"file_name": name, "width": width, "height": height, "found": _rows(detections)}
        stem = self._count(entry)
        files = dict(self._files(entry, stem, found.image, detections))
        with self._journal.entry({**entry, "files": list(files)}):
            for file, data in files.items():
                write_whole(place_of(self.folder, file), data)

    def _files(
        self, entry: Entry, stem: str, image: RGB, detections: Detections
    ) -> Iterator[tuple[str, str | bytes]]:
        """The files about one image alone, names and contents."""
        height, width = image.shape[:2]
        boxes, labels, scores = detections["boxes"], detections["labels"], detections["scores"]
        if "voc" in self.formats:
            names = [self.classes[label] for label in labels]
            name = writable(PurePosixPath(entry["file_name"]).name)
            yield f"voc/{stem}.xml", annotation_xml(name, width, height, boxes, names, scores=scores)
        if "yolo" in self.formats:
            rows = ((label, score, box) for label, score, *box in entry["found"])
            text = yolo_text(rows, (width, height), self.output.scores)
            yield f"yolo/{stem}.txt", text
        lowest = self.output.draw_score if self.output.score is None else self.output.score
        shown = select(detections, scores >= lowest)
        if self.output.draw:
            picture = draw_detections(image, shown["boxes"], shown["labels"], shown["scores"], self.classes)
            yield f"pictures/{stem}.jpg", encode_jpeg(picture)
        if self.output.crops:
            pixels, visible = visible_pixels(shown["boxes"], width, height)
            for (x1, y1, x2, y2), index in zip(pixels, visible, strict=True):
                folder = self._crop_folders[shown["labels"][index]]
                yield f"crops/{folder}/{stem}-{index + 1}.jpg", encode_jpeg(image[y1:y2, x1:x2])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()
        if kind is None:
            write_lists(self.folder, self._read, self.classes, self.formats, self.skipped, self.output)

    def _read(self) -> Iterator[Entry]:
        return (entry for entry in self._journal.entries() if "skipped" not in entry)


def _rows(detections: Detections) -> list[list[float]]:
    columns = (detections["labels"].tolist(), detections["scores"], detections["boxes"])
    return [[label, shortest(score), *map(shortest, box)] for label, score, box in zip(*columns, strict=True)]


def _is_sound(entry: Entry, classes: int) -> bool:
    """Whether a line of a journal is one that `DetectionWriter` has written."""
    if "skipped" in entry:
        return isinstance(entry["skipped"], str) and isinstance(entry.get("reason"), str)
    name, rows = entry.get("file_name"), entry.get("found")
    named = isinstance(name, str) and PurePosixPath(name).name != "" and not leads_out(name)
    sized = all(type(entry.get(side)) is int for side in ("width", "height"))
    return named and sized and isinstance(rows, list) and all(_is_row(row, classes) for row in rows)


def _is_row(row: object, classes: int) -> bool:
    if not isinstance(row, list) or len(row) != 6 or type(row[0]) is not int:
        return False
    return 0 <= row[0] < classes and all(type(value) is float for value in row[1:])


def _absolute(path: Path) -> Path:
    """Without ``..``, which would lead out of the output folder; links stay: outputs are named after them."""
    return Path(os.path.normpath(path.absolute()))
