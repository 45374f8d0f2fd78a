"""What a command prints: tables of figures on stdout, lines about the work on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spp_det.errors import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from spp_det.images import Skipped

# Consoles and tables are imported when something is printed, so that --help and refusals answer at once.


def say(text: str) -> None:
    """Print a line of rich markup on stderr. The caller escapes names and other texts of the user."""
    from spp_det.runtime.progress import console

    console.print(text, highlight=False, soft_wrap=True)


def say_skipped(files: list[Skipped]) -> None:
    """Print the number of unreadable files and the name of the first one, if there are any."""
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

    COCO's figures stand alone where VOC's are None (see `evaluate_files`).
    """
    from spp_det.report.tables import coco_table, errors_table, voc_table

    show(coco_table(figures["coco"]))
    if figures["voc"] is not None:
        others = [voc_table(at, iou) for iou, at in figures["voc_at"].items()]
        at_half = voc_table(figures["voc"], thresholds=figures["thresholds"])
        show(at_half, *others, errors_table(figures["errors"]))
