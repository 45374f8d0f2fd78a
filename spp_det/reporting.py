"""From a folder of detections and the truth to the report page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spp_det.config_file import load_config
from spp_det.data.coco import coco_dataset, load_instances
from spp_det.data.records import Dataset
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.evaluation.results import evaluate, read_results
from spp_det.report.page import write_page
from spp_det.training.stages import read_dataset

DETECTIONS = "detections.json"


def run_report(
    run: Path,
    voc: Path | None = None,
    split: str = "test",
    coco: Path | None = None,
    images: Path | None = None,
    out: Path | None = None,
    *,
    follow_links: bool = False,
) -> Path:
    """Score the detections of a folder and write the page that shows them; returns where it lies.

    Args:
        run: an output folder of `run_training`, or any folder with a ``detections.json``.
        voc, split, coco, images: what to compare with, as of `read_truth`; where neither ``voc`` nor
            ``coco`` is given, the test split that the ``config.yaml`` of the folder names.
        out: the file; None: ``report.html`` in the folder.
        follow_links: take files of the data that are links out of it, even if the ``config.yaml`` does not.

    Raises:
        UserError: a file is missing or malformed, or nothing says what to compare with.
    """
    found = next((path for path in (run / "test" / DETECTIONS, run / DETECTIONS) if path.is_file()), None)
    if found is None:
        raise UserError(f"{run}: holds neither test/{DETECTIONS} nor {DETECTIONS}")
    if voc is None and coco is None:
        dataset, instances = _truth_of_run(run, follow_links)
    else:
        dataset, instances = read_truth(voc, split, coco, images, follow_links=follow_links)
    aligned = read_results(found, dataset)
    page = run / "report.html" if out is None else out
    write_page(page, run.absolute().name, dataset, aligned.detections, evaluate(dataset, aligned, instances))
    return page


def read_truth(
    voc: Path | None,
    split: str,
    coco: Path | None,
    images: Path | None = None,
    *,
    follow_links: bool = False,
) -> tuple[Dataset, Any]:
    """The data set to compare with, and the content of its COCO file if it comes from one, else None.

    The split of a VOC folder, or a COCO file whose images lie in ``images`` (None: beside it). Raises
    UserError unless just one of ``voc`` and ``coco`` is given.
    """
    if voc is not None and coco is None:
        return read_voc(voc, split, follow_links=follow_links), None
    if coco is not None and voc is None:
        instances = load_instances(coco)
        return coco_dataset(instances, coco, images, follow_links=follow_links), instances
    raise UserError("say what to compare with: --voc ROOT --split NAME, or --coco INSTANCES.json")


def _truth_of_run(run: Path, follow_links: bool) -> tuple[Dataset, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{run}: no config.yaml there names the data; say --voc ROOT or --coco INSTANCES.json"
        )
    data = load_config(path).data
    if follow_links:
        data = data.model_copy(update={"follow_links": True})
    if data.test is None:
        raise UserError(f"{path}: data.test names no split; say --voc ROOT or --coco INSTANCES.json")
    return read_dataset(data, data.test), load_instances(Path(data.test)) if data.format == "coco" else None
