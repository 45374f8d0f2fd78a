"""One Pascal VOC annotation file: XML to boxes and back to the same integers.

VOC counts pixels from 1 and includes the last one; boxes here count from 0 and exclude it (see
`spp_det.boxes`). Hence ``(x1, y1, x2, y2) = (xmin - 1, ymin - 1, xmax, ymax)``, in this file and no other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Boxes, Floats, as_boxes
from spp_det.data.bounds import MAX_COORDINATE
from spp_det.data.names import AnyPath, check_class_names
from spp_det.errors import UserError
from spp_det.runtime.files import read_bytes

MOST_XML_BYTES = 2**24  # of one photo's annotation: its tree takes ten times the memory
_UNWRITABLE = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one annotation file says, before class names become labels and boxes are clipped.

    Attributes:
        boxes: float32 ``[G, 4]`` (see `spp_det.boxes`), never inverted but perhaps outside the image.
        names: the ``G`` class names.
        difficult: bool ``[G]``.
        unclear: what ``<difficult>`` says where that is neither a yes nor a no, and counts as a no.
        size: ``(width, height)`` in pixels, or None where the file states none, or zero.
        file_name: the image's file name as stated, or None.
        scores: float64 ``[G]``, the detections' scores; NaN where an object has none, as in ground truth.
    """

    boxes: Boxes
    names: tuple[str, ...]
    difficult: npt.NDArray[np.bool_]
    size: tuple[int, int] | None
    file_name: str | None
    scores: npt.NDArray[np.float64]
    unclear: tuple[str, ...] = ()


def read_annotation(path: AnyPath) -> Annotation:
    """Read one VOC annotation file; no objects give boxes ``[0, 4]``.

    Fractional coordinates are kept, not rounded: ``<xmin>12.5</xmin>`` is ``x1 = 11.5``. ``<exact>``, as
    `annotation_xml` writes it, counts unless somebody has moved the ``<bndbox>`` since. ``<difficult>``
    is 1 where it says 1 or true in any spelling, and else 0; a ``<size>`` without two numbers states none.
    Body parts (``<part>``) and all other fields are not read.

    Raises UserError, one line naming the file and the object by number and class, where the XML is
    broken or declares a DOCTYPE (no VOC file has one, and entities are how XML attacks its reader), a
    name or coordinate is missing, a coordinate is no number, or ``xmax < xmin`` or ``ymax < ymin``.
    """
    path = Path(path)
    root = _parse(path)
    boxes: list[tuple[float, float, float, float]] = []
    names: list[str] = []
    difficult: list[bool] = []
    unclear: list[str] = []
    scores: list[float] = []
    for number, element in enumerate(root.iterfind("object"), start=1):
        where = f"{path}: object {number}"
        name = _text(element, "name")
        if not name:
            raise UserError(f"{where} lacks <name>")
        check_class_names([name], where)
        where = f"{where} ({name})"
        names.append(name)
        said = _text(element, "difficult").lower()
        difficult.append(_float(said) == 1 or said == "true")
        if _float(said) not in (0, 1) and said not in ("", "true", "false"):
            unclear.append(said)
        boxes.append(_box(element, where))
        scores.append(_score(element, where))
    return Annotation(
        boxes=as_boxes(boxes),
        names=tuple(names),
        difficult=np.array(difficult, dtype=np.bool_),
        size=_size(root),
        file_name=_text(root, "filename") or None,
        scores=np.array(scores, dtype=np.float64),
        unclear=tuple(unclear),
    )


def annotation_xml(
    file_name: str,
    width: int,
    height: int,
    boxes: Boxes,
    names: Sequence[str],
    difficult: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
    scores: Floats | None = None,
) -> str:
    """The text of a VOC annotation file for ``[N, 4]`` boxes and their ``N`` class names.

    Boxes that came from integers come out as the same integers. Others, such as detections, have each
    edge rounded to the nearest pixel, halves up, and cover at least one pixel, because most readers of
    VOC files accept only integers. ``difficult`` is all false where None; ``scores``, if given, become
    ``<score>``, and such a rounded box is kept as it was in ``<exact>``, 0-based and half-open; the format
    lacks both, and other readers skip them.

    Raises ValueError where the lengths differ or a name cannot be written as XML.
    """
    flags = [False] * len(boxes) if difficult is None else difficult
    if not len(boxes) == len(names) == len(flags) == len(boxes if scores is None else scores):
        raise ValueError("boxes, names, difficult and scores must have one entry an object")
    root = ElementTree.Element("annotation")
    _add(root, "filename", file_name)
    size = _add(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, tag, value)
    _add(root, "segmented", 0)
    for i, (xmin, ymin, xmax, ymax) in enumerate(_whole_pixels(boxes)):
        element = _add(root, "object")
        _add(element, "name", names[i])
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", 0)
        _add(element, "difficult", int(flags[i]))
        box = _add(element, "bndbox")
        for tag, value in zip(_EDGES, (xmin, ymin, xmax, ymax), strict=True):
            _add(box, tag, value)
        if scores is not None:
            _add(element, "score", scores[i])
            if tuple(boxes[i]) != (xmin - 1, ymin - 1, xmax, ymax):
                _add(element, "exact", " ".join(map(str, boxes[i])))
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


_EDGES = ("xmin", "ymin", "xmax", "ymax")


def _whole_pixels(boxes: Boxes) -> list[list[int]]:
    """``[N, 4]`` boxes as ``(xmin, ymin, xmax, ymax)``, counted from 1 with the last pixel included."""
    edges = np.floor(np.asarray(boxes, np.float64).reshape(-1, 4) + 0.5).astype(np.int64)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 1)
    edges[:, :2] += 1
    rows: list[list[int]] = edges.tolist()
    return rows


def writable(text: str) -> str:
    """The text with question marks for characters that XML cannot hold."""
    return _UNWRITABLE.sub("?", text)


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds a tree, but stops at a DOCTYPE, which comes before any entity can be declared."""

    def doctype(self, _name: str, _public: str | None, _system: str | None) -> None:
        raise ValueError("it declares a DOCTYPE, which is refused")


def xml_tree(data: bytes | str) -> ElementTree.Element:
    """The tree of an XML text from anybody.

    Raises ParseError, ValueError or LookupError, for an unknown encoding, where it is none or has a DOCTYPE.
    """
    return ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))


def parse_xml(path: Path, most: int) -> ElementTree.Element:
    """The tree of an XML file of at most so many bytes. Raises UserError for any other, or a DOCTYPE."""
    try:
        return xml_tree(read_bytes(path, most))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: its encoding
        raise UserError(f"{path}: not a readable XML file: {error}") from error


def _parse(path: Path) -> ElementTree.Element:
    root = parse_xml(path, MOST_XML_BYTES)
    if root.tag != "annotation":
        raise UserError(f"{path}: not a VOC annotation: it holds <{root.tag}>, not <annotation>")
    return root


def _text(parent: ElementTree.Element, tag: str) -> str:
    """The text of a child, stripped; empty where there is none."""
    return (parent.findtext(tag) or "").strip()


def _number(parent: ElementTree.Element, tag: str, where: str) -> float:
    text = _text(parent, tag)
    if not text:
        raise UserError(f"{where} lacks <{tag}>")
    value = _float(text)
    if not abs(value) <= MAX_COORDINATE:
        raise UserError(f"{where} has <{tag}> {text!r}, which is not a number of pixels")
    return value


def _float(text: str) -> float:
    """A number, or NaN for words."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _box(element: ElementTree.Element, where: str) -> tuple[float, float, float, float]:
    box = element.find("bndbox")
    if box is None:
        raise UserError(f"{where} lacks <bndbox>")
    xmin, ymin, xmax, ymax = (_number(box, tag, where) for tag in _EDGES)
    if xmax < xmin or ymax < ymin:
        found = f"x {xmin:g} to {xmax:g}, y {ymin:g} to {ymax:g}"
        raise UserError(f"{where} has an inverted box: {found}")
    exact = _exact(element)
    if exact is not None and _whole_pixels(exact) == [[xmin, ymin, xmax, ymax]]:
        x1, y1, x2, y2 = exact[0].tolist()
        return x1, y1, x2, y2
    return xmin - 1, ymin - 1, xmax, ymax


def _exact(element: ElementTree.Element) -> Boxes | None:
    """A detection's box ``[1, 4]`` before it was rounded, or None where the file does not hold it."""
    try:
        values = [float(field) for field in _text(element, "exact").split()]
    except ValueError:
        return None
    sound = len(values) == 4 and all(abs(value) <= MAX_COORDINATE for value in values)
    return as_boxes([values]) if sound else None


def _score(element: ElementTree.Element, where: str) -> float:
    text = _text(element, "score")
    try:
        return float(text or "nan")
    except ValueError:
        raise UserError(f"{where} has <score> {text!r}, which is not a number") from None


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """The stated size; None where it is absent, zero or words, as tools write what they do not know."""
    size = root.find("size")
    if size is None:
        return None
    width, height = (_float(_text(size, tag)) for tag in ("width", "height"))
    known = all(1 <= side <= MAX_COORDINATE and side.is_integer() for side in (width, height))
    return (int(width), int(height)) if known else None


def _add(parent: ElementTree.Element, tag: str, value: object = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    if value is not None:
        child.text = str(value)
        if _UNWRITABLE.search(child.text):
            raise ValueError(f"{child.text!r} has characters that XML cannot hold")
    return child
