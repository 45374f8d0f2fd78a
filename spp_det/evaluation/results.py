"""From a file of detections to the figures.

``detect`` writes two files side by side: ``detections.json``, a COCO results list, and
``images.json``, which says what its ids mean:

    {"images": [{"id": 1, "file_name": "a/5.jpg", "width": 640, "height": 480}, ...],
     "categories": [{"id": 1, "name": "raccoon"}, ...]}

Other formats are brought to the same two by `spp_det.evaluation.reading`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spp_det.data.coco import coco_dataset, coco_instances
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.evaluation.align import Aligned, align
from spp_det.evaluation.coco import MAX_DETS, evaluate_coco
from spp_det.evaluation.curves import Threshold, best_f1, class_curves
from spp_det.evaluation.detections import ImageDetections
from spp_det.evaluation.errors import count_errors, sort_errors
from spp_det.evaluation.reading import read_detections, read_json
from spp_det.evaluation.voc import VocResult, evaluate_voc

logger = logging.getLogger(__name__)

Figures = dict[str, Any]


def read_results(path: Path | str, dataset: Dataset) -> Aligned:
    """Read detections of any format (see `read_detections`), with the ``images.json`` beside them if there
    is one, and align them.

    Raises:
        UserError: a file is missing or malformed (one line with file and entry), or it has nothing
            to do with the data set (see `align`).
    """
    file = read_detections(Path(path))
    return align(dataset, file.results, file.listing, file.name, file.listing_name)


def evaluate_files(instances_path: Path | str, results_path: Path | str) -> Figures:
    """All figures of any COCO results file against any COCO ground truth, as `evaluate` returns them.

    Ids mean what the ground truth says; an ``images.json`` is not looked for. All but ``"coco"`` is
    None, with a warning, where `read_coco` refuses a ground truth that pycocotools takes.

    Raises:
        UserError: one line that names the file and the entry.
    """
    instances, results = read_json(instances_path), read_json(results_path)
    coco = _coco_figures(instances, results, names=(str(instances_path), str(results_path)))
    try:
        dataset = coco_dataset(instances, Path(instances_path))
    except UserError as error:
        logger.warning("no VOC figures: %s", error)
        return {**coco, "voc": None, "voc_at": {}, "thresholds": None, "errors": None}
    return {**coco, "voc_at": {}, **_figures_at_half(dataset, align(dataset, results).detections)}


def evaluate(
    dataset: Dataset,
    aligned: Aligned,
    instances: Mapping[str, Any] | None = None,
    ious: Sequence[float] = (),
    max_dets: int = MAX_DETS,
) -> Figures:
    """All figures, ready to be written as JSON: fractions of 1.

    Args:
        dataset: the ground truth.
        aligned: the detections, from `read_results` or `align`.
        instances: the COCO file that ``dataset`` was read from, if it was: COCO's areas are those
            of its masks, which boxes alone cannot tell. Made from ``dataset`` where None.
        ious: IoU thresholds beside .5 for VOC's average precision.
        max_dets: detections an image and class that COCO's figures look at, see `evaluate_coco`;
            VOC's look at all.

    Returns:
        ``{"coco": {figure: value}, "voc": {"mAP_area", "mAP_11point", "per_class": {name: {"area",
        "11point"}}}, "coco_per_class": {name: {figure: value}}, "voc_at": {IoU: as "voc"}, "thresholds":
        {name: {"score", "precision", "recall", "F1"}}, "errors": {name: {kind: count}}}``. ``"voc"``
        is at IoU 0.5; None where not defined (COCO says -1). Thresholds are those of the best F1 (see
        `best_f1`), None where there is none; errors are counted at them (see `count_errors`).
    """
    if instances is None:
        # No figure depends on the size of an image, so none is looked up on disk.
        instances = coco_instances(dataset, [record.size or (0, 0) for record in dataset.records])
    at = {f"{iou:g}": _voc_figures(evaluate_voc(dataset, aligned.detections, iou)) for iou in ious}
    coco = _coco_figures(instances, aligned.coco, max_dets=max_dets)
    return {**coco, "voc_at": at, **_figures_at_half(dataset, aligned.detections)}


def _coco_figures(
    instances: Any,
    results: Any,
    names: tuple[str, str] = ("ground truth", "results"),
    max_dets: int = MAX_DETS,
) -> Figures:
    whole, by_id = evaluate_coco(instances, results, names, max_dets)
    class_names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in instances["categories"]}
    return {"coco": whole, "coco_per_class": {class_names[key]: one for key, one in by_id.items()}}


def _figures_at_half(dataset: Dataset, detections: Sequence[ImageDetections]) -> Figures:
    """All figures that are VOC's or rest on its matching, at IoU 0.5."""
    voc = evaluate_voc(dataset, detections)
    best = {name: best_f1(points) for name, points in class_curves(voc).items()}
    scores = {name: one.score for name, one in best.items() if one is not None}
    return {
        "voc": _voc_figures(voc),
        "thresholds": {name: _threshold(one) for name, one in best.items()},
        "errors": count_errors(dataset, detections, sort_errors(dataset, detections), scores),
    }


def _voc_figures(voc: VocResult) -> dict[str, Any]:
    per_class = {
        class_name: {"area": or_none(result.ap_area), "11point": or_none(result.ap_11point)}
        for class_name, result in voc.per_class.items()
    }
    return {
        "mAP_area": or_none(voc.mAP_area),
        "mAP_11point": or_none(voc.mAP_11point),
        "per_class": per_class,
    }


def _threshold(best: Threshold | None) -> dict[str, float] | None:
    if best is None:
        return None
    return {"score": best.score, "precision": best.precision, "recall": best.recall, "F1": best.f1}


def or_none(value: float) -> float | None:
    """A figure as JSON can hold it: None where there is nothing to measure, which is NaN elsewhere."""
    return None if math.isnan(value) else value
