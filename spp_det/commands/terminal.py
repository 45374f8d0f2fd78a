"""What a command shows: figures as tables on stdout, lines about the work on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spp_det.errors import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from spp_det.images import Skipped

# Consoles and tables are imported when something is shown: --help and refusals should not wait for them.


def say(text: str) -> None:
    """Print a line of rich markup on stderr; what comes from the user is to be escaped."""
    from spp_det.runtime.progress import console

    console.print(text, highlight=False, soft_wrap=True)


def say_skipped(files: list[Skipped]) -> None:
    """Count the files that could not be read and name the first of them; nothing where there are none."""
    if files:
        name = escape(one_line(files[0]["file"]))
        say(f"[yellow]skipped {len(files)} files that could not be read, the first: {name}[/]")


def show(*tables: Table) -> None:
    """Print tables on stdout, one below the other."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def show_figures(figures: dict[str, Any]) -> None:
    """Print the figures of an `Evaluation`: COCO's, VOC's at each IoU with the best F1, errors by kind.

    Where there are none of VOC's, which `evaluate_files` can say, only COCO's are shown.
    """
    from spp_det.report.tables import coco_table, errors_table, voc_table

    show(coco_table(figures["coco"]))
    if figures["voc"] is not None:
        others = [voc_table(at, iou) for iou, at in figures["voc_at"].items()]
        at_half = voc_table(figures["voc"], thresholds=figures["thresholds"])
        show(at_half, *others, errors_table(figures["errors"]))
