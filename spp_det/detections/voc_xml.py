"""Detections as Pascal VOC annotation files, ``voc/NAME.xml``, whose objects have a ``<score>``.

The files are written and parsed by `spp_det.data.voc_xml`, which keeps every digit of boxes and scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from spp_det.data.voc_xml import read_annotation
from spp_det.detections.types import Found
from spp_det.errors import UserError


def annotated_images(folder: Path) -> dict[str, Path]:
    """Image name -> annotation file, for every annotation file in a folder.

    The name is the ``<filename>`` that the file states, else the file's own, below the same subfolders.
    """
    named = {}
    for file in sorted(folder.rglob("*.xml")):
        image = PurePosixPath(file.relative_to(folder)).with_suffix("")
        stated = PurePosixPath(read_annotation(file).file_name or "").name  # without its folders
        named[str(image.with_name(stated or image.name))] = file
    return named


def read_xml(path: Path, image: str) -> Iterator[Found]:
    """The detections of one annotation file. Raises UserError where an object has no score."""
    annotation = read_annotation(path)
    rows = zip(annotation.names, annotation.scores.tolist(), annotation.boxes.tolist(), strict=True)
    for number, (name, score, (x1, y1, x2, y2)) in enumerate(rows, 1):
        if math.isnan(score):
            raise UserError(f"{path}: object {number} ({name}) has no <score>, so it is no detection")
        yield Found(image, name, score, (x1, y1, x2, y2))
