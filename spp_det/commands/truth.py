"""The ground truth that `evaluate` and `report` compare detections with, as their options name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.data.records import Dataset
    from spp_det.evaluation.results import Evaluation


@dataclass(frozen=True)
class Truth:
    """A split of a VOC folder, a COCO file, or neither: then the test split that a run names.

    Raises UserError for both at once, and for an option that belongs to the one that is not given.

    Attributes:
        voc: a VOC folder.
        split: the split of that folder; None: ``test``.
        coco: a COCO instances file.
        images: the folder of that file's images; None: the file's own folder.
        follow_links: read image files that are links out of the data's folder.
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
        """The data set, and the content of its COCO file; None for a VOC folder.

        Without ``voc`` and ``coco`` the ``config.yaml`` in the folder ``run`` names it: its test split, and
        its ``data.follow_links`` counts, too. Raises UserError where nothing names a data set.
        """
        from spp_det.data.coco import coco_dataset, load_instances
        from spp_det.data.voc import read_voc

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
    max_dets: int = 100,
) -> Evaluation:
    """Hold detections of any format (see `read_results`) against the ground truth.

    ``run`` is explained at `Truth.read`, ``ious`` and ``max_dets`` at `evaluate`.
    Raises UserError where a file is missing or malformed, or nothing names a data set.
    """
    from spp_det.evaluation.results import evaluate, read_results

    dataset, instances = truth.read(run)
    return evaluate(dataset, read_results(detections, dataset), instances, ious, max_dets)


def _truth_of_run(run: Path, follow_links: bool) -> tuple[Dataset, Any]:
    from spp_det.config.file import load_config
    from spp_det.data.coco import load_instances
    from spp_det.training.stages import read_dataset

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
