"""``spp-det report``: one page that shows the detections of a folder and their figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say
from spp_det.commands.truth import Truth, score
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.evaluation.results import Evaluation

DETECTIONS = "detections.json"


def report(
    run: Annotated[Path, typer.Argument(help="What train wrote, or any folder that detect wrote.")],
    voc: options.VocFolder = None,
    split: options.VocSplit = None,
    coco: options.CocoFile = None,
    yolo: options.YoloFolder = None,
    images: options.ImageFolder = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The folder of RUN's photos, in the place of what its config.yaml says."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html if not given.")] = None,
    follow_links: options.FollowLinks = False,
) -> None:
    """Write one page that shows figures, curves, every error and every image: opens from disk, no network.

    RUN is compared with the test data of its training, unless --data, --voc, --yolo or --coco names another
    folder. The page holds the photos: look where they come from before you pass it on.
    """
    page = run_report(run, Truth(voc, split, coco, images, follow_links, yolo, data), out)
    say(f"[bold green]wrote[/] {escape(str(page))}")


def run_report(run: Path, truth: Truth | None = None, out: Path | None = None) -> Path:
    """Score the detections of a folder and write the page that shows them; returns the page's path.

    Args:
        run: an output folder of `run_training`, or any folder with a ``detections.json``.
        truth: the ground truth; where it names nothing, the ``config.yaml`` of the folder does.
        out: the file; None: ``report.html`` in the folder.

    Raises UserError where the folder holds no detections, and where `score` does.
    """
    from spp_det.data.names import Links

    truth = truth or Truth()
    found = next((path for path in (run / "test" / DETECTIONS, run / DETECTIONS) if path.is_file()), None)
    if found is None:
        raise UserError(f"{run}: holds neither test/{DETECTIONS} nor {DETECTIONS}")
    Links(run, follow=truth.follow_links).checked(found)
    page = run / "report.html" if out is None else out
    write_report(page, run, score(found, truth, run))
    return page


def write_report(page: Path, detections: Path, evaluation: Evaluation) -> None:
    """Write the page of an evaluation, and say which folder its photos come from.

    Its title is the name of the detections' folder.
    """
    from spp_det.report.page import photo_folder, write_page

    say(f"the photos in the page are those of {escape(photo_folder(evaluation.dataset))}")
    path = Path(os.path.normpath(detections.absolute()))
    write_page(page, (path if path.is_dir() else path.parent).name, evaluation)
