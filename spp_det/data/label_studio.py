"""Label Studio's JSON: tasks with predictions for it to import, and its export with what was corrected.

Boxes are ``x, y, width, height`` in per cent of the photo's sides, under the names that the labelling
configuration gives to its two controls: `labelling_config` names them ``label`` and ``image``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from spp_det.data.coco_file import load_json
from spp_det.data.corrected import Box, Labelled, LeftOut, dataset_of
from spp_det.data.records import Dataset
from spp_det.errors import UserError

LOCAL_FILES = "/data/local-files/?d="
"""The address under which Label Studio serves the files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""


def labelling_config(classes: Sequence[str]) -> str:
    """The labelling configuration of a project with boxes of these classes."""
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in classes)
    inside = f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{inside}</View>\n'


def task(image: Labelled, scores: Sequence[float], model: str, address: str = LOCAL_FILES) -> str:
    """A task with one prediction, as JSON: the boxes of a photo whose size is known, and their scores.

    The photo's address is ``address`` and its name.
    """
    width, height = image.size or (0, 0)
    results = []
    rows = zip(image.classes, image.boxes, scores, strict=True)
    for number, (name, (x1, y1, x2, y2), score) in enumerate(rows, 1):
        value = {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
            "rectanglelabels": [name],
        }
        controls = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        results.append({"id": f"box{number}", **controls, **size, "value": value, "score": score})
    mean = sum(scores) / len(scores) if scores else 0.0
    prediction = {"model_version": model, "score": mean, "result": results}
    return json.dumps(
        {"data": {"image": address + quote(os.fsencode(image.name))}, "predictions": [prediction]}
    )


def read_label_studio(path: Path, photos: Path, *, follow_links: bool = False) -> Dataset:
    """The photos of an export (JSON) that have annotations: of several the last that was not skipped.

    Tasks without one are left out in one warning, whatever their predictions; so are shapes that are no
    upright boxes. Raises UserError, one line that names the task, for what is no such export, and as
    `dataset_of`.
    """
    content = load_json(path)
    tasks = content if isinstance(content, list) else [None]
    if not all(isinstance(each, dict) and "data" in each for each in tasks):
        raise UserError(f"{path}: not Label Studio's JSON, which is a list of tasks with their data")
    others, open_tasks = LeftOut("shapes that are no upright boxes"), LeftOut("tasks without an annotation")
    labelled = []
    for number, each in enumerate(content, 1):
        where = f"{path}: task {each.get('id', number)}"
        results = _results(each, where)
        if results is None:
            open_tasks.places.append(where)
            continue
        boxes: list[Box] = []
        classes: list[str] = []
        size: tuple[int, int] | None = None
        for result in results:
            value = result.get("value")
            if result.get("type") != "rectanglelabels" or not isinstance(value, Mapping):
                if result.get("type") not in ("choices", "textarea", "rating"):
                    others.places.append(where)
                continue
            if value.get("rotation"):
                others.places.append(where)
                continue
            names = value.get("rectanglelabels")
            if not isinstance(names, list) or not names or not isinstance(names[0], str):
                raise UserError(f"{where}: a box has no label")
            width, height = (_side(result, key, where) for key in ("original_width", "original_height"))
            size = (width, height)
            x, y, w, h = (_number(value, key, where) for key in ("x", "y", "width", "height"))
            corners = (x * width, y * height, (x + w) * width, (y + h) * height)
            x1, y1, x2, y2 = (each / 100 for each in corners)
            boxes.append((x1, y1, x2, y2))
            classes.append(names[0])
        labelled.append(Labelled(where, _image(each, where), size, boxes, classes))
    others.warn(str(path))
    open_tasks.warn(str(path))
    if not labelled:
        raise UserError(f"{path}: none of its {len(content)} tasks has an annotation")
    return dataset_of(labelled, (), photos, str(path), follow_links=follow_links)


def _results(each: Mapping[str, Any], where: str) -> list[Mapping[str, Any]] | None:
    """The results of the last annotation that was not skipped; None where there is none."""
    annotations = each.get("annotations", [])
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise UserError(f"{where}: annotations is no list of annotations")
    done = [one for one in annotations if not one.get("was_cancelled")]
    if not done:
        return None
    results = done[-1].get("result", [])
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise UserError(f"{where}: its annotation has no list of results")
    return results


def _image(each: Mapping[str, Any], where: str) -> str:
    data = each["data"]
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    name = data.get("image") if isinstance(data, dict) else None
    if isinstance(name, str) and name:
        return name
    if len(texts) == 1 and texts[0]:
        return texts[0]
    raise UserError(f"{where}: its data name no image")


def _number(value: Mapping[str, Any], key: str, where: str) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e6:
        raise UserError(f"{where}: a box has {key} {str(number)[:100]!r}, which is no percentage")
    return float(number)


def _side(result: Mapping[str, Any], key: str, where: str) -> int:
    side = result.get(key)
    if isinstance(side, bool) or not isinstance(side, int | float) or not 1 <= side < 2**24:
        raise UserError(f"{where}: a box has {key} {str(side)[:100]!r}, which is no number of pixels")
    return int(side)
