"""CVAT's own XML, "CVAT for images 1.1": written for CVAT to open, and read when it comes back corrected.

Boxes are ``xtl, ytl, xbr, ybr`` in pixels with fractions, 0-based and half-open as here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from spp_det.data.bounds import MAX_COORDINATE
from spp_det.data.corrected import Box, Labelled, LeftOut, dataset_of
from spp_det.data.records import Dataset
from spp_det.data.voc_xml import parse_xml, writable
from spp_det.errors import UserError

MOST_BYTES = 2**26  # of a file: its tree takes ten times the memory


def write_cvat(images: Iterable[Labelled], classes: Sequence[str], file: TextIO) -> None:
    """Write photos with their boxes, one after the other, under the names that CVAT knows them by."""
    file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
    file.write("  <meta>\n    <task>\n      <labels>\n")
    for name in classes:
        text = escape(writable(name))
        file.write(f"        <label><name>{text}</name><type>rectangle</type><attributes/></label>\n")
    file.write("      </labels>\n    </task>\n  </meta>\n")
    for number, image in enumerate(images):
        width, height = image.size or (0, 0)
        name = quoteattr(writable(image.name))
        file.write(f'  <image id="{number}" name={name} width="{width}" height="{height}">\n')
        for class_name, (x1, y1, x2, y2) in zip(image.classes, image.boxes, strict=True):
            label = quoteattr(writable(class_name))
            corners = f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"'
            file.write(f'    <box label={label} source="auto" occluded="0" {corners} z_order="0"/>\n')
        file.write("  </image>\n")
    file.write("</annotations>\n")


def read_cvat(path: Path, photos: Path, *, follow_links: bool = False) -> Dataset:
    """The photos of a CVAT file, with their boxes; photos without a box are photos without objects.

    Other shapes, and boxes that are turned, are left out in one warning. Raises UserError, one line that
    names the file and the photo, for XML that is broken or is CVAT for video, and as `dataset_of`.
    """
    root = parse_xml(path, MOST_BYTES)
    if root.tag != "annotations":
        raise UserError(f"{path}: not CVAT's XML: it holds <{root.tag}>, not <annotations>")
    if root.find("track") is not None:
        raise UserError(f"{path}: is CVAT for video; export the task as CVAT for images 1.1")
    others = LeftOut("shapes that are no upright boxes")
    labelled = []
    for number, element in enumerate(root.iterfind("image"), 1):
        name = element.get("name", "")
        where = f"{path}: image {number} ({name[:100]})"
        boxes: list[Box] = []
        classes: list[str] = []
        for shape in element:
            if shape.tag != "box" or _number(shape, "rotation", where, "0"):
                others.places.append(f"{where}: <{shape.tag}>")
                continue
            if not shape.get("label"):
                raise UserError(f"{where}: a box lacks its label")
            classes.append(shape.get("label", ""))
            x1, y1, x2, y2 = (_number(shape, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
            boxes.append((x1, y1, x2, y2))
        width, height = (int(_number(element, key, where, "0")) for key in ("width", "height"))
        known = all(0 < side <= MAX_COORDINATE for side in (width, height))
        size = (width, height) if known else None
        labelled.append(Labelled(where, name, size, boxes, classes))
    others.warn(str(path))
    declared = [(label.findtext("name") or "").strip() for label in root.iterfind(".//labels/label")]
    names = list(dict.fromkeys(filter(None, declared)))
    return dataset_of(labelled, names, photos, str(path), follow_links=follow_links)


def _number(element: ElementTree.Element, key: str, where: str, default: str = "") -> float:
    text = element.get(key, default)
    try:
        value = float(text)
        int(value)  # neither NaN nor infinite
    except (ValueError, OverflowError):
        raise UserError(f"{where}: <{element.tag}> has {key} {text[:100]!r}, which is not a number") from None
    return value
