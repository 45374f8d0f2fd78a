"""Detections to files: the COCO results list, and on request VOC XML, YOLO text, CSV and pictures."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TextIO

import numpy as np

from spp_det.cache import write_whole
from spp_det.data.voc_xml import annotation_xml
from spp_det.errors import UserError
from spp_det.images import encode_jpeg
from spp_det.inference import DetectedImage
from spp_det.model.detector import Detections, select
from spp_det.report.draw import draw_detections

FORMATS = ("coco", "voc", "yolo", "csv")


class DetectionWriter:
    """Writes a folder of detections, image by image; use it in a ``with``.

    ``detections.json`` (a COCO results list) and ``images.json`` (what its ids mean: ``images`` and
    ``categories`` of COCO) are always written, and appear when all images are done. ``voc`` adds
    ``voc/NAME.xml``, ``yolo`` adds ``yolo/NAME.txt`` (label, centre and size as fractions of the
    image, score), ``csv`` adds ``detections.csv``; ``draw`` adds ``pictures/NAME.jpg``. NAME keeps the
    folders below the deepest one that holds all images.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        paths: Sequence[Path],
        formats: Sequence[str] = (),
        draw: bool = False,
        score: float | None = None,
        draw_score: float = 0.0,
    ) -> None:
        """``score`` drops detections below it from everything, ``draw_score`` from the pictures alone.

        Raises UserError for a format that is none of `FORMATS`.
        """
        unknown = sorted(set(formats) - set(FORMATS))
        if unknown:
            raise UserError(f"no format is called {unknown[0]!r}; there are {', '.join(FORMATS)}")
        self.folder = folder
        self.classes = tuple(classes)
        self.formats = frozenset(formats)
        self.draw = draw
        self.score = score
        self.draw_score = draw_score
        self.found = 0
        self._first = True
        self._stems: set[str] = set()
        folders = [_absolute(path).parent for path in paths]
        self._base = Path(os.path.commonpath(folders)) if paths else Path()
        self._images: list[dict[str, object]] = []
        self._files: dict[str, TextIO] = {}

    def __enter__(self) -> DetectionWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open("detections.json").write("[")
        if "csv" in self.formats:
            header = ("file", "class", "score", "x1", "y1", "x2", "y2")
            csv.writer(self._open("detections.csv")).writerow(header)
        return self

    def _open(self, name: str) -> TextIO:
        self._files[name] = (self.folder / f".{name}.partial").open(
            "w", encoding="utf-8", errors="surrogateescape", newline=""
        )
        return self._files[name]

    def add(self, found: DetectedImage) -> None:
        """Write what one image adds."""
        name = PurePosixPath(_absolute(found.path).relative_to(self._base).as_posix())
        stem = self._stem(name)
        height, width = found.image.shape[:2]
        self._images.append(
            {"id": len(self._images) + 1, "file_name": str(name), "width": width, "height": height}
        )
        lowest = -np.inf if self.score is None else self.score
        detections = select(found.detections, found.detections["scores"] >= lowest)
        self.found += len(detections["scores"])
        self._add_coco(detections)
        names = [self.classes[label] for label in detections["labels"]]
        if "csv" in self.formats:
            rows = zip(names, detections["scores"], detections["boxes"], strict=True)
            csv.writer(self._files["detections.csv"]).writerows(
                (name, label, _short(score), *map(_short, box)) for label, score, box in rows
            )
        if "voc" in self.formats:
            boxes, scores = detections["boxes"], detections["scores"]
            text = annotation_xml(_unicode(name.name), width, height, boxes, names, scores=scores)
            write_whole(self.folder / "voc" / f"{stem}.xml", text)
        if "yolo" in self.formats:
            write_whole(self.folder / "yolo" / f"{stem}.txt", _yolo(detections, width, height))
        if self.draw:
            lowest = self.draw_score if self.score is None else self.score
            shown = select(detections, detections["scores"] >= lowest)
            picture = draw_detections(
                found.image, shown["boxes"], shown["labels"], shown["scores"], self.classes
            )
            write_whole(self.folder / "pictures" / f"{stem}.jpg", encode_jpeg(picture))

    def _stem(self, name: PurePosixPath) -> str:
        """The name without its suffix; with it where ``a.png`` lies beside ``a.jpg``."""
        stem = str(name.with_suffix(""))
        if stem in self._stems:
            stem = str(name)
        while stem in self._stems:
            stem += "_"
        self._stems.add(stem)
        return stem

    def _add_coco(self, detections: Detections) -> None:
        file, image_id = self._files["detections.json"], len(self._images)
        for box, label, score in zip(
            *(detections[key] for key in ("boxes", "labels", "scores")), strict=True
        ):
            x1, y1, x2, y2 = map(_short, box)
            row = {
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, float(np.float32(x2 - x1)), float(np.float32(y2 - y1))],
                "score": _short(score),
            }
            file.write(("\n" if self._first else ",\n") + json.dumps(row))
            self._first = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for name, file in self._files.items():
                with contextlib.suppress(OSError):  # what a full disk leaves unwritten is dropped anyway
                    file.close()
                (self.folder / f".{name}.partial").unlink(missing_ok=True)

    def _finish(self) -> None:
        """Move everything to its place; ``detections.json`` last, so that its ids are those beside it."""
        self._files["detections.json"].write("\n]\n")
        (self.folder / "detections.json").unlink(missing_ok=True)
        categories = [{"id": i, "name": name} for i, name in enumerate(self.classes, 1)]
        listing = {"images": self._images, "categories": categories}
        write_whole(self.folder / "images.json", json.dumps(listing, indent=1))
        for name, file in reversed(self._files.items()):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            (self.folder / f".{name}.partial").replace(self.folder / name)


def _absolute(path: Path) -> Path:
    """Without ``..``, which would lead out of the output folder; links stay, for their names are wanted."""
    return Path(os.path.normpath(path.absolute()))


def _unicode(name: str) -> str:
    """A name that XML can hold: bytes that are no UTF-8 become question marks."""
    return name.encode(errors="replace").decode()


def _short(value: np.float32) -> float:
    """The shortest decimal that reads back as the same float32."""
    return float(str(value))


def _yolo(detections: Detections, width: int, height: int) -> str:
    size = np.array([width, height], np.float64)
    boxes = detections["boxes"].astype(np.float64)
    rows = np.concatenate(
        [(boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size], axis=1
    )
    lines = [
        f"{label} {' '.join(f'{v:.8g}' for v in row)} {score}"
        for label, row, score in zip(detections["labels"], rows, detections["scores"], strict=True)
    ]
    return "".join(line + "\n" for line in lines)
