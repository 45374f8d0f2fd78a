"""From a file of detections to the figures.

``detect`` writes two files side by side: ``detections.json``, a COCO results list, and
``images.json``, which says what its ids mean:

    {"images": [{"id": 1, "file_name": "a/5.jpg", "width": 640, "height": 480}, ...],
     "categories": [{"id": 1, "name": "raccoon"}, ...]}
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spp_det.data.coco import coco_instances, read_coco
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.evaluation.align import LISTING, Aligned, align
from spp_det.evaluation.coco import evaluate_coco
from spp_det.evaluation.voc import VocResult, evaluate_voc

logger = logging.getLogger(__name__)

Figures = dict[str, Any]


def read_results(path: Path | str, dataset: Dataset) -> Aligned:
    """Read a ``detections.json``, with the ``images.json`` beside it if there is one, and align it.

    Raises:
        UserError: a file is missing or malformed (one line with file and entry), or it has nothing
            to do with the data set (see `align`).
    """
    path = Path(path)
    listing_path = path.with_name(LISTING)
    listing = read_json(listing_path) if listing_path.exists() else None
    return align(dataset, read_json(path), listing, name=str(path), listing_name=str(listing_path))


def evaluate_files(instances_path: Path | str, results_path: Path | str) -> Figures:
    """All figures of any COCO results file against any COCO ground truth, as `evaluate` returns them.

    Ids mean what the ground truth says; an ``images.json`` is not looked for. ``"voc"`` is None, with
    a warning, where `read_coco` refuses a ground truth that pycocotools takes.

    Raises:
        UserError: one line that names the file and the entry.
    """
    instances, results = read_json(instances_path), read_json(results_path)
    coco = evaluate_coco(instances, results, names=(str(instances_path), str(results_path)))
    try:
        dataset = read_coco(instances_path)
    except UserError as error:
        logger.warning("no VOC figures: %s", error)
        return {"coco": coco, "voc": None}
    return {"coco": coco, "voc": _voc_figures(evaluate_voc(dataset, align(dataset, results).detections))}


def evaluate(dataset: Dataset, aligned: Aligned, instances: Mapping[str, Any] | None = None) -> Figures:
    """All figures, ready to be written as JSON: fractions of 1.

    Args:
        dataset: the ground truth.
        aligned: the detections, from `read_results` or `align`.
        instances: the COCO file that ``dataset`` was read from, if it was: COCO's areas are those
            of its masks, which boxes alone cannot tell. Made from ``dataset`` where None.

    Returns:
        ``{"coco": {figure: value}, "voc": {"mAP_area", "mAP_11point", "per_class": {name: {"area",
        "11point"}}}}``. VOC figures at IoU 0.5; None where not defined (COCO says -1).
    """
    if instances is None:
        # No figure depends on the size of an image, so none is looked up on disk.
        instances = coco_instances(dataset, [record.size or (0, 0) for record in dataset.records])
    voc = evaluate_voc(dataset, aligned.detections)
    return {"coco": evaluate_coco(instances, aligned.coco), "voc": _voc_figures(voc)}


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad syntax, bad UTF-8, nested without end
        raise UserError(f"{path}: is not JSON: {error}") from None


def _voc_figures(voc: VocResult) -> dict[str, Any]:
    per_class = {
        class_name: {"area": _or_none(result.ap_area), "11point": _or_none(result.ap_11point)}
        for class_name, result in voc.per_class.items()
    }
    return {
        "mAP_area": _or_none(voc.mAP_area),
        "mAP_11point": _or_none(voc.mAP_11point),
        "per_class": per_class,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
