"""From a folder of detections and the truth to the figures, and to the report page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spp_det.config.file import load_config
from spp_det.data.coco import coco_dataset, load_instances
from spp_det.data.records import Dataset
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.evaluation.coco import MAX_DETS
from spp_det.evaluation.results import Evaluation, evaluate, read_results
from spp_det.report.page import write_page
from spp_det.training.stages import read_dataset

DETECTIONS = "detections.json"


@dataclass(frozen=True)
class Truth:
    """What to compare detections with: a split of a VOC folder, a COCO file, or what a run names.

    Raises UserError for both at once, and for an option that says nothing of the one that is given.

    Attributes:
        voc: a VOC folder.
        split: which split of it; None: ``test``.
        coco: a COCO instances file.
        images: the folder that its images lie in; None: beside it.
        follow_links: take files of the data that are links out of it.
    """

    voc: Path | None = None
    split: str | None = None
    coco: Path | None = None
    images: Path | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        if self.voc is not None and self.coco is not None:
            raise UserError("say what to compare with: either --voc ROOT or --coco INSTANCES.json")
        if self.split is not None and self.voc is None:
            raise UserError(f"--split {self.split} is of a VOC folder: say which, --voc ROOT")
        if self.images is not None and self.coco is None:
            raise UserError(f"--images {self.images} is of a COCO file: say which, --coco INSTANCES.json")

    def read(self, run: Path | None = None) -> tuple[Dataset, Any]:
        """The data set, and the content of its COCO file if it comes from one, else None.

        Where neither ``voc`` nor ``coco`` is given it is the test split that the ``config.yaml`` in ``run``
        names, whose data may be links out of it if that says so, too. Raises UserError where nothing does.
        """
        if self.voc is not None:
            return read_voc(self.voc, self.split or "test", follow_links=self.follow_links), None
        if self.coco is not None:
            instances = load_instances(self.coco)
            dataset = coco_dataset(instances, self.coco, self.images, follow_links=self.follow_links)
            return dataset, instances
        if run is None:
            raise UserError("say what to compare with: --voc ROOT --split NAME, or --coco INSTANCES.json")
        return _truth_of_run(run, self.follow_links)


def score(
    detections: Path,
    truth: Truth,
    run: Path | None = None,
    ious: Sequence[float] = (),
    max_dets: int = MAX_DETS,
) -> Evaluation:
    """Hold detections of any format (see `read_results`) against the truth.

    ``run`` is as of `Truth.read`, ``ious`` and ``max_dets`` are as of `evaluate`. Raises UserError where a
    file is missing or malformed, or nothing says what to compare with.
    """
    dataset, instances = truth.read(run)
    return evaluate(dataset, read_results(detections, dataset), instances, ious, max_dets)


def run_report(run: Path, truth: Truth | None = None, out: Path | None = None) -> Path:
    """Score the detections of a folder and write the page that shows them; returns where it lies.

    Args:
        run: an output folder of `run_training`, or any folder with a ``detections.json``.
        truth: what to compare with; where it names nothing, what the ``config.yaml`` of the folder does.
        out: the file; None: ``report.html`` in the folder.

    Raises:
        UserError: as `score`, or the folder holds no detections.
    """
    found = next((path for path in (run / "test" / DETECTIONS, run / DETECTIONS) if path.is_file()), None)
    if found is None:
        raise UserError(f"{run}: holds neither test/{DETECTIONS} nor {DETECTIONS}")
    page = run / "report.html" if out is None else out
    write_report(page, run, score(found, truth or Truth(), run))
    return page


def write_report(page: Path, detections: Path, evaluation: Evaluation) -> None:
    """Write the page of detections, called after their folder: the one given, or that of the file given."""
    path = Path(os.path.normpath(detections.absolute()))
    write_page(page, (path if path.is_dir() else path.parent).name, evaluation)


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
