"""The ground truth that `evaluate` and `report` compare detections with, as their options name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.data.dataset import Split
    from spp_det.data.names import Links
    from spp_det.evaluation.results import Evaluation


NAME_THEM = "--voc ROOT --split NAME, --yolo ROOT --split NAME, or --coco INSTANCES.json"


@dataclass(frozen=True)
class Truth:
    """A split of a VOC or YOLO folder, a COCO file, or none of them: then the test that a run names.

    Raises UserError for several at once, and for an option that belongs to one that is not given.

    Attributes:
        voc: a VOC folder.
        split: the split of that folder, or a file that lists image ids; None: ``test``.
        coco: a COCO instances file.
        images: the folder of that file's images; None: the file's own folder.
        follow_links: read files that are links out of the folder of the data, the detections or the run.
        yolo: a YOLO folder.
        data: the folder of the photos of a run's test, in the place of the run's ``data.root``.
    """

    voc: Path | None = None
    split: str | None = None
    coco: Path | None = None
    images: Path | None = None
    follow_links: bool = False
    yolo: Path | None = None
    data: Path | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.voc, self.coco, self.yolo)) > 1:
            raise UserError("say what to compare with: one of --voc ROOT, --yolo ROOT, --coco INSTANCES.json")
        if self.split is not None and self.voc is None and self.yolo is None:
            raise UserError(
                f"--split {self.split} is of a VOC or YOLO folder: say which, --voc or --yolo ROOT"
            )
        if self.images is not None and self.coco is None:
            raise UserError(f"--images {self.images} is of a COCO file: say which, --coco INSTANCES.json")
        if self.data is not None and any((self.voc, self.coco, self.yolo)):
            raise UserError(f"--data {self.data} is of a run's own test: leave --voc, --yolo and --coco out")

    def read(self, run: Path | None = None) -> Split:
        """The data set, with the content of its COCO file if it has one.

        Without a folder or file the ``config.yaml`` in the folder ``run`` names the test. It may be
        anybody's, so its ``data.follow_links`` does not count. Raises UserError where nothing names a data
        set.
        """
        from spp_det.data.dataset import read_split
        from spp_det.data.names import Links

        follow = self.follow_links
        if self.voc is not None:
            return read_split("voc", self.voc, self.split or "test", follow_links=follow)
        if self.yolo is not None:
            return read_split("yolo", self.yolo, self.split or "test", follow_links=follow)
        if self.coco is not None:
            folder = self.images or self.coco.parent
            return read_split("coco", folder, str(self.coco), images=self.images, follow_links=follow)
        if run is None:
            raise UserError(f"say what to compare with: {NAME_THEM}")
        return _truth_of_run(run, self.data, Links(run, follow=follow), follow)


def score(
    detections: Path, truth: Truth, run: Path | None = None, ious: Sequence[float] = (), max_dets: int = 100
) -> Evaluation:
    """Hold detections of any format (see `read_results`) against the ground truth.

    ``run`` is explained at `Truth.read`, ``ious`` and ``max_dets`` at `evaluate`. Raises UserError where a
    file is missing or malformed, nothing names a data set, or photos have other sizes than the truth states.
    """
    from spp_det.data.sizes import check_sizes
    from spp_det.evaluation.results import evaluate, read_results

    split = truth.read(run)
    found = read_results(detections, split.dataset, follow_links=truth.follow_links)
    check_sizes(split.dataset.records, found.sizes, str(detections))
    return evaluate(split.dataset, found, split.instances, ious, max_dets)


def _truth_of_run(run: Path, root: Path | None, links: Links, follow_links: bool) -> Split:
    from spp_det.config.file import load_config
    from spp_det.data.dataset import HELD_OUT, read_test

    path = links.checked(run / "config.yaml")
    links.checked(run / HELD_OUT)
    if not path.is_file():
        raise UserError(f"{run}: no config.yaml there names the data; say {NAME_THEM}")
    config = load_config(path)
    data = config.data.model_copy(update={"root": root or config.data.root, "follow_links": follow_links})
    split = read_test(data, config.seed, run)
    if split is None:
        raise UserError(f"{path}: data.test names no split; say {NAME_THEM}")
    return split
