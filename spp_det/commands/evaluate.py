"""``spp-det evaluate``: score detections of any format, and write the figures to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.report import write_report
from spp_det.commands.terminal import say, show_figures
from spp_det.commands.truth import Truth, score


def evaluate(
    detections: Annotated[
        Path, typer.Argument(help="A folder that detect wrote, or detections of any of its formats in it.")
    ],
    voc: options.VocFolder = None,
    split: options.VocSplit = None,
    coco: options.CocoFile = None,
    yolo: options.YoloFolder = None,
    iou: Annotated[
        list[float] | None, typer.Option(help="VOC AP at this IoU too, beside .5; repeatable.")
    ] = None,
    max_dets: Annotated[
        int, typer.Option(min=11, help="Detections an image and class that COCO's figures look at.")
    ] = 100,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    csv_out: Annotated[Path | None, typer.Option("--csv", help="One line a figure.")] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown", help="As tables.")] = None,
    save_curves: Annotated[
        Path | None, typer.Option(help="Write the precision-recall curves there, as CSV: a line a point.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that shows every image there.")] = None,
    images: options.ImageFolder = None,
    follow_links: options.FollowLinks = False,
) -> None:
    """Score detections: the 12 COCO figures, and VOC AP by area and by 11 points; of every class too.

    Of VOC's matching at IoU .5 also each class's best score threshold, and how many errors of each kind there
    are at it; the files also say which classes are taken for which.
    """
    from spp_det.report.figures import curves_csv, figures_csv, figures_markdown
    from spp_det.runtime.whole_files import write_json, write_whole

    truth = Truth(voc, split, coco, images, follow_links, yolo)
    evaluation = score(detections, truth, ious=iou or (), max_dets=max_dets)
    figures = evaluation.figures()
    if json_out is not None:
        write_json(json_out, figures)
    if csv_out is not None:
        write_whole(csv_out, figures_csv(figures))
    if markdown_out is not None:
        write_whole(markdown_out, figures_markdown(figures))
    if save_curves is not None:
        write_whole(save_curves, curves_csv(evaluation))
    if html is not None:
        write_report(html, detections, evaluation)
    show_figures(figures)
    if html is not None:
        say(f"page: {escape(str(html))}")
