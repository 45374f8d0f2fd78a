"""Label Studio's side of a box: the labelling configuration, and rectangles in percent of the image."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from spp_det.boxes import as_boxes
from spp_det.data.names import check_class_names
from spp_det.data.records import Detections
from spp_det.data.voc_xml import writable, xml_tree
from spp_det.errors import UserError

MOST_CONFIG = 2**20  # characters of a labelling configuration
MOST_REGIONS = 10_000  # of an annotation
KIND = "rectanglelabels"


@dataclass(frozen=True)
class Control:
    """Where boxes of a class go in a labelling configuration.

    Attributes:
        name: the name of the control, ``from_name`` in results.
        image: the name of its image, ``to_name``.
        key: the key of a task's data that holds the image.
    """

    name: str
    image: str
    key: str


@dataclass(frozen=True)
class Labelling:
    """What a labelling configuration says about boxes: the control of each label."""

    controls: Mapping[str, Control]

    @property
    def key(self) -> str:
        """The key of a task's data that holds the photo."""
        return next(iter(self.controls.values())).key


def read_labelling(text: object) -> Labelling:
    """The boxes of a labelling configuration, Label Studio's XML.

    Raises UserError where it is no such XML, or has no ``<RectangleLabels>`` with labels for an ``<Image>``.
    """
    if not isinstance(text, str) or len(text) > MOST_CONFIG:
        raise UserError("the labelling configuration is no text of reasonable length")
    try:
        elements = list(_elements(xml_tree(text.encode())))
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"the labelling configuration is not XML: {error}") from error
    images = {
        each.get("name", ""): each.get("value", "")[1:]
        for each in elements
        if each.tag == "Image" and each.get("value", "").startswith("$")
    }
    controls: dict[str, Control] = {}
    for each in elements:
        shown, name = each.get("toName", ""), each.get("name", "")
        if each.tag == "RectangleLabels" and name and shown in images:
            labels = [label.get("alias") or label.get("value") or "" for label in each.iter("Label")]
            check_class_names(labels, "the labelling configuration")
            for label in filter(None, labels):
                controls.setdefault(label, Control(name, shown, images[shown]))
    if not controls:
        raise UserError(
            "the labelling configuration has no <RectangleLabels> with labels for an <Image>: boxes are all "
            "that this model proposes"
        )
    return Labelling(controls)


def _elements(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    yield from root.iter()


# ---------------------------------------------------------------- from an annotation


@dataclass(frozen=True)
class Drawn:
    """A box of an annotation: its class, and (x1, y1, x2, y2) in percent of the image's width and height."""

    name: str
    box: tuple[float, float, float, float]


def drawn_boxes(result: object) -> tuple[list[Drawn], int]:
    """The boxes of an annotation's ``result``, and how many of its regions are of other kinds.

    A turned box becomes the upright box around it. A box with several labels counts once for each. Raises
    UserError where the result is no list of regions, or a box has no numbers.
    """
    if not isinstance(result, list) or len(result) > MOST_REGIONS:
        raise UserError(f"an annotation's result is no list of at most {MOST_REGIONS:,} regions")
    found: list[Drawn] = []
    others = 0
    for region in result:
        if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
            raise UserError("a region of an annotation has no value")
        value = region["value"]
        if region.get("type") != KIND:
            others += region.get("type") != "relation"
            continue
        names = value.get(KIND)
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise UserError("a box of an annotation has no label")
        check_class_names(names, "an annotation")
        box = _upright(value, region)
        found += [Drawn(writable(name), box) for name in names if box[0] < box[2] and box[1] < box[3]]
    return found, others


def _upright(value: Mapping[str, Any], region: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The box, cut to the image; one that is turned about its top left corner by the box around it."""
    x, y, width, height = (_number(value.get(name)) for name in ("x", "y", "width", "height"))
    angle = math.radians(_number(value.get("rotation", 0)))
    if angle:
        across, down = (_number(region.get(f"original_{side}", 1)) or 1 for side in ("width", "height"))
        wide, high = width * across, height * down  # a turn is one in pixels
        corners = [(u * wide, v * high) for u in (0, 1) for v in (0, 1)]
        turned = [
            (u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle))
            for u, v in corners
        ]
        us, vs = [u / across for u, _ in turned], [v / down for _, v in turned]
        box = (x + min(us), y + min(vs), x + max(us), y + max(vs))
    else:
        box = (x, y, x + width, y + height)
    x1, y1, x2, y2 = (min(max(edge, 0.0), 100.0) for edge in box)
    return x1, y1, x2, y2


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e6:
        raise UserError("a box of an annotation has no numbers")
    return float(value)


def in_pixels(drawn: Sequence[Drawn], size: tuple[int, int]) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Boxes float32 ``[n, 4]`` in pixels of an image of that ``(width, height)``, rounded to whole pixels and
    never empty, and the names of their classes."""
    scale = np.array(size * 2) / 100
    boxes = np.rint(np.array([each.box for each in drawn]).reshape(-1, 4) * scale)
    most = np.array(size)
    boxes[:, :2] = np.minimum(boxes[:, :2], most - 1)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return as_boxes(boxes), [each.name for each in drawn]


# ---------------------------------------------------------------- to a prediction


def regions(
    found: Detections,
    classes: Sequence[str],
    probabilities: Sequence[float],
    size: tuple[int, int],
    labelling: Labelling,
) -> list[dict[str, Any]]:
    """Detections as regions of a prediction; those of classes that the configuration lacks are left out."""
    width, height = size
    rows = zip(found["boxes"].tolist(), found["labels"].tolist(), probabilities, strict=True)
    made = []
    for (x1, y1, x2, y2), label, probability in rows:
        control = labelling.controls.get(classes[label])
        if control is not None:
            made.append({
                "id": secrets.token_hex(5),
                "from_name": control.name,
                "to_name": control.image,
                "type": KIND,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rotation": 0,
                    KIND: [classes[label]],
                },
                "score": probability,
            })  # fmt: skip
    return made
