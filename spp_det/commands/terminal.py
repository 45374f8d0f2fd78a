"""What a command prints: tables of figures on stdout, lines about the work on stderr."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spp_det.errors import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from spp_det.images import Skipped

# Consoles and tables are imported when something is printed, so that --help and refusals answer at once.


def say(text: str) -> None:
    """Print a line of rich markup on stderr. The caller escapes the markup in names and other texts of the
    user; characters that would control the terminal or end the line are escaped here.
    """
    from spp_det.runtime.progress import console

    console.print(one_line(text), highlight=False, soft_wrap=True)


def say_skipped(files: list[Skipped]) -> None:
    """Print the number of unreadable files and the name of the first one, if there are any."""
    if files:
        name = escape(files[0]["file"])
        say(f"[yellow]skipped {len(files)} files that could not be read, the first: {name}[/]")


def show(*tables: Table) -> None:
    """Print tables on stdout, one below the other.

    What the terminal cannot encode is replaced, and a reader that closes the pipe, such as ``head``, is none
    the worse: nothing is printed from then on.
    """
    from spp_det.runtime.progress import Terminal

    class ToStdout(Terminal):
        def on_broken_pipe(self) -> None:  # rich's own ends the process, with code 1
            self.quiet = True
            ignore_stdout()

    replace_unknown_characters()
    console = ToStdout()
    for table in tables:
        console.print(table)


def replace_unknown_characters() -> None:
    """Let stdout print ``?`` for what its encoding lacks, as stderr prints escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def ignore_stdout() -> None:
    """Let nothing more reach stdout, whose reader is gone: Python would flush it at its end, and fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
