"""One HTML file that shows an evaluation: figures, curves, every error, every image. It needs no network.

The page trusts no name and no image. Names reach it escaped, or as JSON that cannot end its HTML element; the
script writes them as text, never as markup. The page's policy admits only the script and the style whose
digests it states, and loads nothing at all: the images lie in the page as text.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.data.records import Dataset, Detections, Record
from spp_det.errors import printable
from spp_det.evaluation.curves import Curve, best_f1, pooled_curve
from spp_det.evaluation.errors import ImageErrors, Kind
from spp_det.evaluation.results import Evaluation
from spp_det.images import UnreadableImageError, read_image, resize_shorter_side
from spp_det.report.html import TEMPLATES, jpeg_text, rendered
from spp_det.runtime.progress import track
from spp_det.runtime.threads import ahead, cores
from spp_det.runtime.whole_files import write_whole

logger = logging.getLogger(__name__)

LONGEST_SIDE, SHORTEST_SIDE = (
    640,
    320,
)  # pixels, longer side of an embedded image: of few, of very many
FULL_SIZE_IMAGES = 400  # up to this number images have the longest side; more share about as many pixels
CURVE_GRID = 400  # steps to a side that a curve is drawn in; no figure is computed from them
# Parts of the page's one script, in the order in which each uses the names of those before it.
SCRIPTS = ("data", "elements", "classes", "crops", "confusion", "gallery", "viewer", "controls")


@dataclass(frozen=True)
class _Picture:
    """An image in the page: base64 of a small JPEG, and the size in pixels that boxes refer to."""

    jpeg: str
    width: int
    height: int


def write_page(path: Path, title: str, evaluation: Evaluation) -> None:
    """Write the report of one evaluation as a page of its own.

    Args:
        path: the file, ``.html``.
        title: the name of what was evaluated, of any characters.
        evaluation: the image files of its data set are read. Unreadable images are blank on the page, and
            one warning counts them.
    """
    write_whole(path, _render(title, evaluation, _pictures(evaluation.dataset.records)))


def _render(title: str, evaluation: Evaluation, pictures: Sequence[_Picture]) -> str:
    dataset, detections, voc = evaluation.dataset, evaluation.detections, evaluation.voc
    parts = "\n".join((TEMPLATES / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}\n}})();'
    names = [printable(name) for name in dataset.classes]
    classes = [
        {
            "name": shown,
            "objects": voc.per_class[name].positives,
            "voc": voc.per_class[name],
            "voc_at": [at.per_class[name] for at in evaluation.voc_at.values()],
            "best": evaluation.best[name],
            "path": _path(evaluation.curves[name]) if voc.per_class[name].positives else "",
        }
        for name, shown in zip(dataset.classes, names, strict=True)
    ]
    pooled = best_f1(pooled_curve(voc))
    scores = np.concatenate([found["scores"] for found in detections]) if detections else np.zeros(0)
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    data = {
        "classes": names,
        "best": [None if one is None else one.score for one in evaluation.best.values()],
        "pooled": low if pooled is None else pooled.score,
        "images": [
            _image(*one) for one in zip(dataset.records, pictures, detections, evaluation.errors, strict=True)
        ],
    }
    return rendered(
        "page.html.j2",
        title,
        photos=printable(photo_folder(dataset)),
        script=script,
        coco=evaluation.coco,
        voc=voc,
        voc_at=evaluation.voc_at,
        classes=classes,
        kinds=[kind.name.lower() for kind in Kind if kind != Kind.IGNORED],
        images=len(dataset),
        objects=sum(one.positives for one in voc.per_class.values()),
        detections=len(scores),
        lowest=math.floor(low * 100) / 100,
        highest=math.ceil(high * 100) / 100,
        pictures=[picture.jpeg for picture in pictures],
        data=_embedded_json(data),
    )


def photo_folder(dataset: Dataset) -> str:
    """The deepest folder that holds all photos of a data set; empty where there are none."""
    folders = {os.path.abspath(record.path.parent) for record in dataset.records}  # noqa: PTH100  (links stay)
    return os.path.commonpath(folders) if folders else ""


def _embedded_json(tree: object) -> str:
    """JSON that is safe between the tags of a script: nothing in it looks like a tag to an HTML parser."""
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _image(record: Record, picture: _Picture, found: Detections, errors: ImageErrors) -> dict[str, Any]:
    """An image's part of the JSON that the script reads.

    ``objects`` are rows of a box to a tenth of a pixel, a label, and the score of the object's correct
    detection: null where no detection is correct, true where the object does not count (difficult, crowd).
    ``found`` are rows of a box, label, score, kind, object, IoU.
    """
    easy = ~(record.difficult | record.crowd)
    rows = zip(_rounded(record.boxes), record.labels.tolist(), easy, errors.found_at.tolist(), strict=True)
    objects = [
        [*box, label, (score if math.isfinite(score) else None) if counts else True]
        for box, label, counts, score in rows
    ]
    columns = (found["labels"], found["scores"], errors.kinds, errors.objects, errors.overlaps.round(3))
    detections = [
        [*box, *row]
        for box, *row in zip(_rounded(found["boxes"]), *(column.tolist() for column in columns), strict=True)
    ]
    size = {"width": picture.width, "height": picture.height}
    return {"name": printable(record.image_id), **size, "objects": objects, "found": detections}


def _rounded(boxes: np.ndarray[Any, Any]) -> list[list[float]]:
    rounded: list[list[float]] = boxes.astype(np.float64).round(1).tolist()
    return rounded


def _pictures(records: Sequence[Record]) -> list[_Picture]:
    """The images of the page, so small that a page of a thousand images still opens quickly."""
    shrink = math.sqrt(min(1.0, FULL_SIZE_IMAGES / max(1, len(records))))
    side = max(SHORTEST_SIDE, round(LONGEST_SIDE * shrink))
    pictures = ahead(lambda record: _picture(record, side), records, cores())
    shown, unreadable = [], []
    for record, picture in zip(records, track(pictures, "pictures", len(records)), strict=True):
        if isinstance(picture, UnreadableImageError):
            unreadable.append(picture)
            picture = _Picture("", *_size_without_image(record))
        shown.append(picture)
    if unreadable:
        logger.warning(
            "%d of %d images cannot be read and are blank on the page; the first: %s",
            *(len(unreadable), len(records), unreadable[0]),
        )
    return shown


def _picture(record: Record, side: int) -> _Picture | UnreadableImageError:
    """The image with its longer side of ``side`` pixels, or as it is where it is smaller."""
    try:
        image = read_image(record.path)
    except UnreadableImageError as error:
        return error
    height, width = image.shape[:2]
    longer = min(side, max(height, width))
    small = resize_shorter_side(image, min(height, width, longer), longer)
    return _Picture(jpeg_text(small), width, height)


def _size_without_image(record: Record) -> tuple[int, int]:
    if record.size is not None:
        return record.size
    width, height = record.boxes[:, 2:].max(axis=0, initial=1.0).tolist()
    return math.ceil(width), math.ceil(height)


def _path(points: Curve) -> str:
    """A precision-recall curve as an SVG path in the unit square, precision upwards."""
    steps = np.round(CURVE_GRID * np.stack([points.recall, 1 - points.precision], 1))  # [P, 2]
    moves = np.diff(steps, axis=0, prepend=-1).any(axis=1)
    return "".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(steps[moves] / CURVE_GRID))
