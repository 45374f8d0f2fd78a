"""From a file of detections to the figures.

``detect`` writes two files side by side: ``detections.json``, a COCO results list, and
``images.json``, which says what its ids mean:

    {"images": [{"id": 1, "file_name": "a/5.jpg", "width": 640, "height": 480}, ...],
     "categories": [{"id": 1, "name": "raccoon"}, ...]}

`spp_det.detections.reader` brings every other format into this form.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spp_det.data.coco import coco_dataset, coco_instances
from spp_det.data.coco_file import load_json, regular_instances
from spp_det.data.records import Dataset, Detections
from spp_det.detections.align import Aligned, align
from spp_det.detections.reader import read_detections
from spp_det.errors import UserError
from spp_det.evaluation.coco import MAX_DETS, evaluate_coco
from spp_det.evaluation.curves import Curve, Threshold, best_f1, class_curves
from spp_det.evaluation.errors import ImageErrors, confusion_matrix, count_errors, sort_errors
from spp_det.evaluation.undefined import as_json
from spp_det.evaluation.voc import VocResult, evaluate_voc

logger = logging.getLogger(__name__)

Figures = dict[str, Any]


def read_results(path: Path | str, dataset: Dataset, *, follow_links: bool = False) -> Aligned:
    """Read detections of any format (see `read_detections`), with the ``images.json`` beside them if there
    is one, and align them.

    Raises:
        UserError: a file is missing or malformed (one line with file and entry), or it has nothing
            to do with the data set (see `align`).
    """
    return align(dataset, *read_detections(Path(path), follow_links=follow_links))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Detections compared with a data set, and everything that tables, files and the page show.

    Attributes:
        dataset, detections: the objects and the detections, one entry an image.
        coco, coco_per_class: COCO's figures, of all classes and by class name (see `evaluate_coco`).
        voc: Pascal VOC's result at IoU 0.5, from which errors, curves and thresholds follow.
        voc_at: VOC's results at further IoU thresholds, by the threshold as text.
        errors: the kinds of all detections, one entry an image.
        curves: precision and recall by class name.
        best: the threshold of each class's best F1, None where no detection is right (see `best_f1`).
    """

    dataset: Dataset
    detections: Sequence[Detections]
    coco: dict[str, float]
    coco_per_class: dict[str, dict[str, float]]
    voc: VocResult
    voc_at: dict[str, VocResult]
    errors: list[ImageErrors]
    curves: dict[str, Curve]
    best: dict[str, Threshold | None]

    def figures(self) -> Figures:
        """All figures, ready to be written as JSON: fractions of 1.

        ``{"coco": {figure: value}, "voc": {"mAP_area", "mAP_11point", "per_class": {name: {"area",
        "11point"}}}, "coco_per_class": {name: {figure: value}}, "voc_at": {IoU: as "voc"}, "thresholds":
        {name: {"score", "precision", "recall", "F1"}}, "errors": {name: {kind: count}}, "confusion":
        {"classes", "matrix", "background", "missed"}}``. ``"voc"`` is at IoU 0.5; a figure is None where it
        is not defined. Thresholds are those of the best F1, None where `best_f1` gives none; errors are
        counted at these thresholds (see `count_errors`), and so is the confusion (see `confusion_matrix`):
        ``matrix[object's class][detection's class]``, and by class the detections that find no object and
        the objects that are missed.
        """
        scores = {name: one.score for name, one in self.best.items() if one is not None}
        shown = (self.dataset, self.detections, self.errors, scores)
        confusion = confusion_matrix(*shown)
        figures = {
            "coco": self.coco,
            "coco_per_class": self.coco_per_class,
            "voc_at": {iou: _voc_figures(voc) for iou, voc in self.voc_at.items()},
            "voc": _voc_figures(self.voc),
            "thresholds": {name: _threshold(one) for name, one in self.best.items()},
            "errors": count_errors(*shown),
            "confusion": {
                "classes": list(self.dataset.classes),
                "matrix": confusion[:-1, :-1].tolist(),
                "background": confusion[-1, :-1].tolist(),
                "missed": confusion[:-1, -1].tolist(),
            },
        }
        return {name: as_json(part) for name, part in figures.items()}


def evaluate_files(instances_path: Path | str, results_path: Path | str) -> Figures:
    """All figures of any COCO results file against any COCO ground truth, as `Evaluation.figures` has them.

    Ids are the ground truth's; no ``images.json`` is read. Where `read_coco` refuses a ground truth that
    pycocotools takes, the figures of VOC and of errors are None, with a warning.

    Raises:
        UserError: one line that names the file and the entry.
    """
    instances = regular_instances(load_json(instances_path), str(instances_path))
    results = load_json(results_path)
    coco, per_class = _coco_figures(instances, results, names=(str(instances_path), str(results_path)))
    try:
        dataset = coco_dataset(instances, Path(instances_path))
    except UserError as error:
        logger.warning("no VOC figures: %s", error)
        nothing = dict.fromkeys(("voc", "thresholds", "errors", "confusion"))
        return {"coco": as_json(coco), "coco_per_class": as_json(per_class), "voc_at": {}, **nothing}
    return _evaluation(dataset, align(dataset, results).detections, coco, per_class).figures()


def evaluate(
    dataset: Dataset,
    aligned: Aligned,
    instances: Mapping[str, Any] | None = None,
    ious: Sequence[float] = (),
    max_dets: int = MAX_DETS,
) -> Evaluation:
    """Compare detections with a data set.

    Args:
        dataset: the ground truth.
        aligned: the detections, from `read_results` or `align`.
        instances: the content of the COCO file that ``dataset`` was read from, for COCO's areas are areas of
            masks, which boxes do not tell; None: made from ``dataset``.
        ious: IoU thresholds beside .5 for VOC's average precision.
        max_dets: detections an image and class that COCO's figures look at, see `evaluate_coco`;
            VOC's look at all.

    Raises:
        UserError: an argument is out of range, or ``instances`` is malformed.
    """
    if instances is None:
        # No figure depends on the size of an image, so none is looked up on disk.
        instances = coco_instances(dataset, [record.size or (0, 0) for record in dataset.records])
    coco, per_class = _coco_figures(instances, aligned.coco, max_dets=max_dets)
    return _evaluation(dataset, aligned.detections, coco, per_class, ious)


def _coco_figures(
    instances: Any,
    results: Any,
    names: tuple[str, str] = ("ground truth", "results"),
    max_dets: int = MAX_DETS,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """COCO's figures of all classes, and by class name."""
    whole, by_id = evaluate_coco(instances, results, names, max_dets)
    class_names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in instances["categories"]}
    return whole, {class_names[key]: one for key, one in by_id.items()}


def _evaluation(
    dataset: Dataset,
    detections: Sequence[Detections],
    coco: dict[str, float],
    coco_per_class: dict[str, dict[str, float]],
    ious: Sequence[float] = (),
) -> Evaluation:
    """Add VOC's figures, and the errors and curves that follow from VOC's matching, to COCO's."""
    voc = evaluate_voc(dataset, detections)
    curves = class_curves(voc)
    return Evaluation(
        dataset=dataset,
        detections=detections,
        coco=coco,
        coco_per_class=coco_per_class,
        voc=voc,
        voc_at={f"{iou:g}": evaluate_voc(dataset, detections, iou) for iou in ious},
        errors=sort_errors(dataset, detections),
        curves=curves,
        best={name: best_f1(points) for name, points in curves.items()},
    )


def _voc_figures(voc: VocResult) -> Figures:
    per_class = {
        name: {"area": result.ap_area, "11point": result.ap_11point} for name, result in voc.per_class.items()
    }
    return {"mAP_area": voc.mAP_area, "mAP_11point": voc.mAP_11point, "per_class": per_class}


def _threshold(best: Threshold | None) -> dict[str, float] | None:
    if best is None:
        return None
    return {"score": best.score, "precision": best.precision, "recall": best.recall, "F1": best.f1}
