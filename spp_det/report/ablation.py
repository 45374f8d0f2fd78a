"""The table of an ablation, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from spp_det.drawing.text import printable

COLUMNS = ("row", "scales", "mAP@.5 %", "mAP@.75 %", "training s", "detection s/image")
CAPTION = (
    "mAP by area. Training is what the row added to the rows above it, which share maps, fine-tuning and "
    "regressor; detection is after the proposals."
)


def ablation_table(figures: Mapping[str, Any]) -> Table:
    """What `run_ablation` returns, for the terminal."""
    table = Table(title=escape(_title(figures)), title_justify="left", caption=CAPTION)
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if index < 2 else "right")
    for row in figures["rows"]:
        table.add_row(*_cells(row))
    return table


def ablation_markdown(figures: Mapping[str, Any]) -> str:
    """What `run_ablation` returns, as Markdown: the table, and below it why a row has no figures."""
    rows = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2)), *map(_cells, figures["rows"])]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    errors = "".join(f"- {name}: {error}\n" for name, error in missing_rows(figures).items())
    return f"{_title(figures)}\n\n{table}\n{CAPTION}\n" + (f"\n{errors}" if errors else "")


def missing_rows(figures: Mapping[str, Any]) -> dict[str, str]:
    """The rows that could not be had, by name, and why, each on one line."""
    return {row["name"]: printable(row["error"]) for row in figures["rows"] if "error" in row}


def _title(figures: Mapping[str, Any]) -> str:
    return f"Ablation, {printable(figures['backbone'])}, scored on {printable(figures['test'])}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    scales = "warped windows" if row["scales"] is None else ", ".join(map(str, row["scales"]))
    if "error" in row:
        return row["name"], scales, "-", "-", "-", "-"
    shares = ("-" if row[name] is None else f"{100 * row[name]:.1f}" for name in ("mAP50", "mAP75"))
    each = row["detect_seconds"]
    detection = "-" if each is None else f"{each:.2f}"
    return row["name"], scales, *shares, f"{row['train_seconds']:.0f}", detection
