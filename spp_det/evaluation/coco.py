"""The twelve COCO figures, computed by pycocotools itself on dicts in memory.

pycocotools asserts instead of explaining, prints, writes into the dicts of its caller, takes NaN scores, and
fails on an empty list of results. The code here makes up for that and computes no figure in another way.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spp_det.data.coco_file import regular_instances
from spp_det.detections.coco import check_results
from spp_det.errors import UserError

logger = logging.getLogger(__name__)

FIGURES = {  # name -> what the figure is measured on
    "AP": "IoU .50:.95",
    "AP50": "IoU .50",
    "AP75": "IoU .75",
    "APsmall": "area < 32²",
    "APmedium": "area 32² to 96²",
    "APlarge": "area > 96²",
    "AR1": "1 detection an image",
    "AR10": "10 detections",
    "AR100": "100 detections",
    "ARsmall": "area < 32²",
    "ARmedium": "area 32² to 96²",
    "ARlarge": "area > 96²",
}
FEW_DETS = (1, 10)  # the limits of AR1 and AR10
MAX_DETS = 100  # detections an image and category: the limit of all other figures

Doubles = npt.NDArray[np.float64]


def evaluate_coco(
    instances: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    names: tuple[str, str] = ("ground truth", "results"),
    max_dets: int = MAX_DETS,
) -> tuple[dict[str, float], dict[int | str, dict[str, float]]]:
    """The figures that pycocotools computes for boxes, equal to its own to the last digit.

    Args:
        instances: a COCO ground truth: ``images``, ``annotations``, ``categories``. An annotation
            without ``iscrowd`` is no crowd, one without ``area`` has that of its box.
        results: a COCO results list: ``image_id``, ``category_id``, ``bbox`` as ``[x, y, width,
            height]`` in pixels, ``score``. It may be empty. As in pycocotools, entries of unknown
            categories count nothing, equal scores rank in the order given, and at most
            ``max_dets`` detections an image and category are looked at.
        names: what errors call the two arguments; the paths of files, say.
        max_dets: more than 10. Where it is not 100, the figure ``AR100`` is called after it.

    Returns:
        The figures of `FIGURES`, in that order, of all classes together; and, by category id, the figures
        of each class, as pycocotools gives them for that category alone. They are fractions of
        1; a figure that is not defined (there are no small objects, say) is NaN, for which pycocotools
        says -1.

    Raises:
        UserError: one line that names the entry, where either argument is malformed, or a result
            is not finite or lies on an image that ``instances`` does not have.
    """
    if max_dets <= FEW_DETS[-1]:
        raise UserError(f"max_dets must be more than {FEW_DETS[-1]}, got {max_dets}")
    instances = regular_instances(instances, names[0])
    check_results(results, names[1])
    known = {image["id"] for image in instances["images"]}
    for index, result in enumerate(results):
        if result["image_id"] not in known:
            raise UserError(f"{names[1]}[{index}]: image_id {result['image_id']!r} is not in {names[0]}")

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_ground_truth(instances), _detections(instances, results), "bbox")
        evaluator.params.maxDets = [*FEW_DETS, max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    ious = evaluator.params.iouThrs
    place = {category: k for k, category in enumerate(evaluator.params.catIds)}
    return _figures(precision, recall, ious, max_dets), {
        entry["id"]: _figures(
            precision[:, :, [place[entry["id"]]]], recall[:, [place[entry["id"]]]], ious, max_dets
        )
        for entry in instances["categories"]
    }


def _figures(precision: Doubles, recall: Doubles, ious: Doubles, max_dets: int) -> dict[str, float]:
    """The twelve means that ``COCOeval.summarize`` takes; it cannot take them with other ``maxDets``.

    ``precision`` is ``[T, R, K, A, M]`` (IoU thresholds, recall points, categories, areas: all, small,
    medium, large, limits of detections), ``recall`` is ``[T, K, A, M]``; -1 marks what is not defined.
    """
    parts = [precision[..., 0, 2], precision[ious == 0.5, ..., 0, 2], precision[ious == 0.75, ..., 0, 2]]
    parts += [precision[..., area, 2] for area in (1, 2, 3)]
    parts += [recall[..., 0, limit] for limit in (0, 1, 2)]
    parts += [recall[..., area, 2] for area in (1, 2, 3)]
    defined = [part[part > -1] for part in parts]
    names = [name.replace(f"AR{MAX_DETS}", f"AR{max_dets}") for name in FIGURES]
    return {
        name: float(values.mean()) if len(values) else np.nan
        for name, values in zip(names, defined, strict=True)
    }


def _ground_truth(instances: Mapping[str, Any]) -> COCO:
    annotations = [
        {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry}
        for entry in instances["annotations"]
    ]
    return _indexed({**instances, "annotations": annotations})


def _detections(instances: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> COCO:
    """What ``COCO.loadRes`` makes of a results list, an empty one included."""
    annotations = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(results, 1)
    ]
    return _indexed({**instances, "annotations": annotations})


def _indexed(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = copy.copy(dataset)
    coco.createIndex()
    return coco
