"""One HTML file that shows a data set before a training: its counts, and pictures of what is odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.boxes import Boxes, as_boxes
from spp_det.data.inspection import Finding, Sighting
from spp_det.drawing.draw import draw_detections
from spp_det.errors import printable
from spp_det.images import RGB, UnreadableImageError, read_image
from spp_det.report.html import jpeg_text, rendered
from spp_det.report.tables import data_rows
from spp_det.runtime.opencv import cv2
from spp_det.runtime.progress import track
from spp_det.runtime.threads import ahead, cores
from spp_det.runtime.whole_files import write_whole

MOST = 12  # photos shown of a finding
LONGEST_SIDE = 360  # of a picture, pixels
CONTEXT = 3.0  # sides of the boxes that a close-up shows
EDGE = 0.1  # sides of the boxes that a close-up shows outside the photo
NARROWEST = 96.0  # side of a close-up, pixels of the photo
GROUND = 128  # grey of what lies outside the photo


def write_data_page(
    path: Path, figures: Mapping[str, Any], findings: Sequence[Finding], classes: Sequence[str]
) -> None:
    """Write the page of a look at a data set.

    Args:
        path: the file, ``.html``.
        figures: what `Inspection.figures` returns.
        findings: the same findings with their records, whose photos are read.
        classes: of all splits.
    """
    shown = [seen for finding in findings for seen in finding.sightings[:MOST]]
    pictures = track(ahead(lambda seen: _card(seen, classes), shown, cores()), "pictures", len(shown))
    cards = iter(list(pictures))
    parts = [
        {
            "kind": finding.kind,
            "text": printable(finding.text),
            "cards": [next(cards) for _ in finding.sightings[:MOST]],
            "more": max(0, len(finding.sightings) - MOST),
        }
        for finding in findings
    ]
    objects = sum(sum(part["objects"].values()) for part in figures["splits"].values())
    columns, groups = data_rows(figures, sizes=True)
    page = rendered(
        "data.html.j2",
        Path(figures["root"]).absolute().name,
        format=figures["format"],
        splits={printable(name): part for name, part in figures["splits"].items()},
        classes=len(classes),
        objects=objects,
        recall=figures["recall"],
        columns=columns,
        groups=groups,
        findings=parts,
    )
    write_whole(path, page)


def _card(seen: Sighting, classes: Sequence[str]) -> dict[str, str]:
    name = f"{seen.split}: {seen.record.image_id}"
    try:
        jpeg = jpeg_text(picture(seen, classes))
    except UnreadableImageError:
        jpeg = ""
    return {"jpeg": jpeg, "name": printable(name), "what": printable(seen.what) if seen.what else ""}


def picture(seen: Sighting, classes: Sequence[str]) -> RGB:
    """A photo with its objects, or a close-up of the boxes that are odd; grey is what lies outside the photo.

    RGB uint8, its longer side at most `LONGEST_SIDE` pixels. Raises UnreadableImageError.
    """
    image = read_image(seen.record.path)
    boxes, names = seen.record.boxes, [classes[label] for label in seen.record.labels]
    region = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    if seen.boxes:
        boxes, names = as_boxes([box for _, box in seen.boxes]), [name for name, _ in seen.boxes]
        region = _around(boxes, (image.shape[1], image.shape[0]))
    canvas, scale = _cut(image, region)
    moved = (boxes - np.array([*region[:2], *region[:2]], np.float32)) * np.float32(scale)
    distinct = list(dict.fromkeys(names))
    labels = np.array([distinct.index(name) for name in names], np.int64)
    return draw_detections(canvas, moved, labels, None, distinct)


def _around(boxes: Boxes, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """What a close-up of boxes shows, in pixels of the photo: nothing far outside both photo and boxes."""
    low, high = boxes[:, :2].min(axis=0).astype(np.float64), boxes[:, 2:].max(axis=0).astype(np.float64)
    longer = float((high - low).max())
    half, edge = max(CONTEXT * longer, NARROWEST) / 2, EDGE * longer
    middle = (low + high) / 2
    x1, y1 = np.maximum(middle - half, np.minimum(0, low - edge)).tolist()
    x2, y2 = np.minimum(middle + half, np.maximum(size, high + edge)).tolist()
    return x1, y1, x2, y2


def _cut(image: RGB, region: tuple[float, float, float, float]) -> tuple[RGB, float]:
    """A region of an image, in part perhaps outside of it, and the pixels of the result a pixel of the image.

    The result alone is of the region's size: an absurd box costs no memory.
    """
    x1, y1, x2, y2 = region
    scale = min(LONGEST_SIDE / max(x2 - x1, y2 - y1), max(1.0, 240 / max(x2 - x1, y2 - y1)))
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    moved = np.array([[scale, 0, -x1 * scale], [0, scale, -y1 * scale]])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = cv2.warpAffine(image, moved, size, flags=how, borderValue=(GROUND, GROUND, GROUND))
    return np.asarray(canvas, np.uint8), scale
