"""The figures of an evaluation as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from spp_det.drawing.text import printable
from spp_det.evaluation.coco import FIGURES
from spp_det.runtime.cache import Usage


def coco_table(figures: Mapping[str, float]) -> Table:
    """The 12 figures of `evaluate_coco`, fractions of 1 shown as per cent; a dash where -1."""
    table = Table(title="COCO", title_justify="left")
    table.add_column("figure")
    table.add_column("of", style="dim")
    table.add_column("%", justify="right")
    for position, (name, value) in enumerate(figures.items()):
        # The only name that FIGURES may lack is that of AR at another limit than 100.
        what = FIGURES.get(name) or f"{name.removeprefix('AR')} detections"
        table.add_row(name, what, _percent(None if value < 0 else value), end_section=position % 3 == 2)
    return table


def voc_table(
    figures: Mapping[str, Any],
    iou: str = "0.5",
    thresholds: Mapping[str, Mapping[str, float] | None] | None = None,
) -> Table:
    """Average precision per class and its mean, fractions of 1 shown as per cent; a dash where None.

    ``figures`` is what `Evaluation.figures` holds under ``"voc"``, or under ``"voc_at"`` for another IoU;
    ``thresholds``, what it holds under that name, adds the score of each class's best F1.
    """
    table = Table(title=f"Pascal VOC, AP at IoU {iou}", title_justify="left")
    table.add_column("class")
    table.add_column("area %", justify="right")
    table.add_column("11-point %", justify="right")
    if thresholds is not None:
        table.add_column("best F1 at", justify="right")
    for name, values in figures["per_class"].items():
        best = None if thresholds is None else thresholds[name]
        cells = [_percent(values["area"]), _percent(values["11point"])]
        if thresholds is not None:
            cells.append("-" if best is None else f"{best['score']:.2f}")
        table.add_row(escape(printable(name)), *cells)
    table.add_section()
    table.add_row("mean", _percent(figures["mAP_area"]), _percent(figures["mAP_11point"]), style="bold")
    return table


def errors_table(errors: Mapping[str, Mapping[str, int]]) -> Table:
    """How many detections and objects of all classes are of each kind.

    ``errors`` is what `Evaluation.figures` holds under that name, counted at each class's best F1.
    """
    total = Counter[str]()
    for counts in errors.values():
        total.update(counts)
    table = Table(title="Right and wrong at the best F1", title_justify="left")
    table.add_column("kind")
    table.add_column("count", justify="right")
    for kind, count in total.items():
        table.add_row(kind, str(count))
    return table


def cache_table(stages: Mapping[str, Usage]) -> Table:
    """How many artefacts each stage of a cache has, and their size."""
    table = Table(title="cache", title_justify="left")
    table.add_column("stage")
    table.add_column("artefacts", justify="right")
    table.add_column("MiB", justify="right")
    for name, usage in stages.items():
        table.add_row(escape(printable(name)), str(usage.artefacts), f"{usage.bytes / 2**20:.1f}")
    table.add_section()
    count, size = (sum(getattr(usage, key) for usage in stages.values()) for key in ("artefacts", "bytes"))
    table.add_row("all", str(count), f"{size / 2**20:.1f}", style="bold")
    return table


def classification_table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Top-1 and top-5 by view and size of the image, fractions of 1 shown as per cent.

    ``figures[view][size]`` holds ``top1`` and ``top5``.
    """
    table = Table(title="classification", title_justify="left")
    table.add_column("view")
    table.add_column("size", justify="right")
    table.add_column("top-1 %", justify="right")
    table.add_column("top-5 %", justify="right")
    for view, by_size in figures.items():
        for size, accuracy in by_size.items():
            table.add_row(view, size, _percent(accuracy["top1"]), _percent(accuracy["top5"]))
        table.add_section()
    return table


def recall_table(figures: Mapping[str, Any]) -> Table:
    """Recall of each mode, then of its classes, fractions of 1 shown as per cent; a dash where None.

    ABO is the average best overlap; windows and seconds (of one core) are means of an image.
    ``figures`` is what `recall_figures` returns.
    """
    title = f"Recall of proposals, {figures['images']} images; difficult and crowd objects left out"
    table = Table(title=title, title_justify="left")
    table.add_column("mode, class")
    for column in ("objects", "IoU .50 %", "IoU .70 %", "ABO %", "windows", "seconds"):
        table.add_column(column, justify="right")
    for mode, whole in figures["modes"].items():
        table.add_section()
        windows = "-" if whole["windows"] is None else f"{whole['windows']:.0f}"
        seconds = "cached" if whole["seconds"] is None else f"{whole['seconds']:.2f}"
        table.add_row(mode, *_covered(whole), windows, seconds, style="bold")
        for name, covered in whole["per_class"].items():
            table.add_row(f"  {escape(printable(name))}", *_covered(covered))
    return table


def _covered(figures: Mapping[str, Any]) -> list[str]:
    recall = figures["recall"]
    values = (recall["0.5"], recall["0.7"], figures["ABO"])
    return [str(figures["objects"]), *map(_percent, values)]


def benchmark_table(figures: Mapping[str, Any]) -> Table:
    """Times and ratios of `run_benchmark`; a ratio says how much longer this, or R-CNN, takes than ours."""
    machine = figures["machine"]
    title = f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; {figures['backbone']}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("images/s", justify="right")
    table.add_column("peak MiB", justify="right")
    for topic, rows in figures["figures"].items():
        table.add_section()
        table.add_row(topic, style="bold")
        for row in rows:
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            speed = f"{row['images_per_second']:.1f}" if "images_per_second" in row else ""
            memory = str(row.get("memory") or "")
            table.add_row(row["name"], f"{1000 * row['seconds']:.1f}", ratio, speed, memory)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
