"""The figures of every command as tables for the terminal; the ablation's as Markdown, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from spp_det.errors import printable
from spp_det.evaluation.coco import FIGURES
from spp_det.runtime.cache import Usage

NOT_DEFINED = "-"
ABLATION_COLUMNS = ("row", "scales", "mAP@.5 %", "mAP@.75 %", "training s", "detection s/image")
ABLATION_CAPTION = (
    "mAP by area. Training is what the row added to the rows above it, which share maps, fine-tuning and "
    "regressor; detection is after the proposals."
)


def percent(value: float | None, undefined: str = NOT_DEFINED) -> str:
    """A fraction of 1 as per cent with one decimal; an undefined figure (None, NaN, COCO's -1) as a dash."""
    return f"{100 * value:.1f}" if value is not None and value >= 0 else undefined


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """A table without rows. Columns after the first ``left`` ones hold numbers, in line at their right."""
    table = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right")
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """A table in Markdown, its cells unescaped. Columns after the first ``left`` ones hold numbers."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))


def coco_table(figures: Mapping[str, float]) -> Table:
    """The 12 figures of `evaluate_coco`, fractions of 1 shown as per cent."""
    table = _table("COCO", "figure", "of", "%", left=2)
    table.columns[1].style = "dim"
    for position, (name, value) in enumerate(figures.items()):
        # FIGURES lacks a name only where AR has another limit than 100 detections.
        what = FIGURES.get(name) or f"{name.removeprefix('AR')} detections"
        table.add_row(name, what, percent(value), end_section=position % 3 == 2)
    return table


def voc_table(
    figures: Mapping[str, Any],
    iou: str = "0.5",
    thresholds: Mapping[str, Mapping[str, float] | None] | None = None,
) -> Table:
    """Average precision per class and its mean, fractions of 1 shown as per cent.

    ``figures`` is what `Evaluation.figures` holds under ``"voc"``, or under ``"voc_at"`` for another IoU. Its
    ``thresholds``, where given, add the score of each class's best F1.
    """
    best_f1 = () if thresholds is None else ("best F1 at",)
    table = _table(f"Pascal VOC, AP at IoU {iou}", "class", "area %", "11-point %", *best_f1)
    for name, values in figures["per_class"].items():
        cells = [percent(values["area"]), percent(values["11point"])]
        if thresholds is not None:
            best = thresholds[name]
            cells.append(NOT_DEFINED if best is None else f"{best['score']:.2f}")
        table.add_row(escape(printable(name)), *cells)
    table.add_section()
    table.add_row("mean", percent(figures["mAP_area"]), percent(figures["mAP_11point"]), style="bold")
    return table


def errors_table(errors: Mapping[str, Mapping[str, int]]) -> Table:
    """Detections and missed objects of all classes, counted by kind.

    ``errors`` is that part of `Evaluation.figures`, counted at each class's best F1.
    """
    total = Counter[str]()
    for counts in errors.values():
        total.update(counts)
    table = _table("Right and wrong at the best F1", "kind", "count")
    for kind, count in total.items():
        table.add_row(kind, str(count))
    return table


def cache_table(stages: Mapping[str, Usage]) -> Table:
    """The number of artefacts that each stage of a cache has, and their size."""
    table = _table("cache", "stage", "artefacts", "MiB")
    for name, usage in stages.items():
        table.add_row(escape(printable(name)), str(usage.artefacts), f"{usage.bytes / 2**20:.1f}")
    table.add_section()
    count, size = (sum(getattr(usage, key) for usage in stages.values()) for key in ("artefacts", "bytes"))
    table.add_row("all", str(count), f"{size / 2**20:.1f}", style="bold")
    return table


def classification_table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Top-1 and top-5 accuracy by view and image size, fractions of 1 shown as per cent.

    ``figures[view][size]`` holds ``top1`` and ``top5``.
    """
    table = _table("classification", "view", "size", "top-1 %", "top-5 %")
    for view, by_size in figures.items():
        for size, accuracy in by_size.items():
            table.add_row(view, size, percent(accuracy["top1"]), percent(accuracy["top5"]))
        table.add_section()
    return table


def recall_table(figures: Mapping[str, Any]) -> Table:
    """Recall of each mode and then of its classes, fractions of 1 shown as per cent.

    ABO is the average best overlap. Windows and seconds of one core are means of an image.
    ``figures`` is what `recall_figures` returns.
    """
    title = f"Recall of proposals, {figures['images']} images; difficult and crowd objects left out"
    columns = ("objects", "IoU .50 %", "IoU .70 %", "ABO %", "windows", "seconds")
    table = _table(title, "mode, class", *columns)
    for mode, whole in figures["modes"].items():
        table.add_section()
        windows = NOT_DEFINED if whole["windows"] is None else f"{whole['windows']:.0f}"
        seconds = "cached" if whole["seconds"] is None else f"{whole['seconds']:.2f}"
        table.add_row(mode, *_covered(whole), windows, seconds, style="bold")
        for name, covered in whole["per_class"].items():
            table.add_row(f"  {escape(printable(name))}", *_covered(covered))
    return table


def _covered(figures: Mapping[str, Any]) -> list[str]:
    recall = figures["recall"]
    values = (recall["0.5"], recall["0.7"], figures["ABO"])
    return [str(figures["objects"]), *map(percent, values)]


def data_tables(figures: Mapping[str, Any]) -> tuple[Table, Table]:
    """A look at a data set: classes by split, and the sizes of all objects.

    ``figures`` is what `Inspection.figures` returns.
    """
    columns, groups = data_rows(figures, sizes=False)
    by_class = _table(f"{figures['root']}, {figures['format']}", *columns)
    for group in groups:
        by_class.add_section()
        for row in group:
            by_class.add_row(*map(escape, row))
    recall = figures["recall"]
    by_size = _table("Sizes", "side, px", "objects", *(["covered %"] if recall else []))
    for size, count in _all_sizes(figures).items():
        by_size.add_row(size, str(count), *_covered_at_half(recall and recall["by_size"][size]))
    return by_class, by_size


def data_rows(figures: Mapping[str, Any], sizes: bool) -> tuple[list[str], list[list[list[str]]]]:
    """The columns of a look at a data set, and its rows in groups: photos, classes, all classes together.

    A column a split, one a size of objects where ``sizes``, and one of recall where it was measured.
    """
    splits, recall = figures["splits"], figures["recall"]
    totals = _all_sizes(figures) if sizes else Counter[str]()
    columns = ["class", *map(printable, splits), *(f"{size} px" for size in totals)]

    def row(name: str, of_splits: Iterable[int], of_sizes: Iterable[object] = (), *last: str) -> list[str]:
        cells = [name, *map(str, of_splits), *map(str, of_sizes)]
        return [*cells, *[""] * (len(columns) - len(cells)), *last, *([""] if recall and not last else [])]

    photos = [
        row("photos", (part["photos"] for part in splits.values())),
        row("without objects", (part["without_objects"] for part in splits.values())),
    ]
    classes = [
        row(
            printable(name),
            (part["objects"][name] for part in splits.values()),
            (by_size[size] for size in totals),
            *_covered_at_half(recall and recall["per_class"][name]),
        )
        for name, by_size in figures["sizes"].items()
    ]
    objects = [sum(part["objects"].values()) for part in splits.values()]
    every = [row("all", objects, totals.values(), *_covered_at_half(recall))]
    if recall and sizes:
        cells = [cell for size in totals for cell in _covered_at_half(recall["by_size"][size])]
        every.append(["covered %", *[""] * len(splits), *cells, ""])
    return columns + (["covered %"] if recall else []), [photos, classes, every]


def _all_sizes(figures: Mapping[str, Any]) -> Counter[str]:
    """The number of objects of each size, of all classes together."""
    totals = Counter[str]()
    for by_size in figures["sizes"].values():
        totals.update(by_size)
    return totals


def _covered_at_half(of: Mapping[str, Any] | None) -> list[str]:
    return [] if of is None else [percent(of["recall"]["0.5"])]


def benchmark_table(figures: Mapping[str, Any]) -> Table:
    """Times and ratios of `run_benchmark`; a ratio compares a row's time, or R-CNN's, with spp_det's own."""
    machine = figures["machine"]
    title = f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; {figures['backbone']}"
    title += f"\n{machine['precision']}"
    table = _table(title, "what", "ms", "ratio", "images/s", "peak MiB")
    for topic, rows in figures["figures"].items():
        table.add_section()
        on_device = str(figures.get("device memory", {}).get(topic, ""))  # rows have that of a process
        table.add_row(topic, "", "", "", on_device, style="bold")
        for row in rows:
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            speed = f"{row['images_per_second']:.1f}" if "images_per_second" in row else ""
            memory = str(row.get("memory") or "")
            table.add_row(row["name"], f"{1000 * row['seconds']:.1f}", ratio, speed, memory)
    return table


def ablation_table(figures: Mapping[str, Any]) -> Table:
    """The rows that `run_ablation` returns."""
    table = _table(_ablation_title(figures), *ABLATION_COLUMNS, left=2)
    table.caption = ABLATION_CAPTION
    for row in figures["rows"]:
        table.add_row(*_ablation_cells(row))
    return table


def ablation_markdown(figures: Mapping[str, Any]) -> str:
    """The ablation as Markdown: the table, and below it why a row has no figures."""
    table = markdown_table(ABLATION_COLUMNS, map(_ablation_cells, figures["rows"]), left=2)
    errors = "\n".join(f"- {name}: {error}" for name, error in missing_rows(figures).items())
    parts = (_ablation_title(figures), table, ABLATION_CAPTION, errors)
    return "\n\n".join(filter(None, parts)) + "\n"


def missing_rows(figures: Mapping[str, Any]) -> dict[str, str]:
    """The reasons of the rows that failed, by name, each on one line."""
    return {row["name"]: printable(row["error"]) for row in figures["rows"] if "error" in row}


def _ablation_title(figures: Mapping[str, Any]) -> str:
    return f"Ablation, {printable(figures['backbone'])}, scored on {printable(figures['test'])}"


def _ablation_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    scales = "warped windows" if row["scales"] is None else ", ".join(map(str, row["scales"]))
    if "error" in row:
        return row["name"], scales, *[NOT_DEFINED] * 4
    each = row["detect_seconds"]
    detection = NOT_DEFINED if each is None else f"{each:.2f}"
    training = f"{row['train_seconds']:.0f}"
    return row["name"], scales, percent(row["mAP50"]), percent(row["mAP75"]), training, detection


TUNING_COLUMNS = ("settings", "mAP@.5 %", "mAP@.75 %", "spread", "s")
TUNING_CAPTION = (
    "Means over the folds. Settings are chosen by the mean of both columns; the spread is its standard "
    "deviation over the folds."
)


def tuning_table(figures: Mapping[str, Any]) -> Table:
    """Every trial of `run_tuning` in the order of the search; the chosen one is bold."""
    table = _table(_tuning_title(figures), *TUNING_COLUMNS)
    table.caption, table.caption_justify = TUNING_CAPTION, "left"
    for trial in figures["trials"]:
        style = "bold" if trial["settings"] == figures["chosen"] else None
        table.add_row(*map(escape, _tuning_cells(trial)), style=style)
    return table


def tuning_markdown(figures: Mapping[str, Any]) -> str:
    """The same table in Markdown."""
    rows = []
    for trial in figures["trials"]:
        name, *numbers = _tuning_cells(trial)
        rows.append((f"**{name}**" if trial["settings"] == figures["chosen"] else name, *numbers))
    return f"# {_tuning_title(figures)}\n\n{markdown_table(TUNING_COLUMNS, rows)}\n\n{TUNING_CAPTION}\n"


def _tuning_title(figures: Mapping[str, Any]) -> str:
    return f"Settings tried on {figures['folds']} folds of {figures['photos']} training photos"


def _tuning_cells(trial: Mapping[str, Any]) -> tuple[str, ...]:
    values = ", ".join(f"{key.split('.')[1]} {value}" for key, value in trial["settings"].items())
    numbers = (trial["mAP50"], trial["mAP75"], trial["spread"])
    return (values, *map(percent, numbers), f"{trial['seconds']:.0f}")


def suggestion_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Photos to label next, best first: the fields of `Suggestion`."""
    table = _table("Photos to label next", "rank", "photo", "corrections", "novelty", "found", left=2)
    for row in rows:
        figures = [row["doubt"], row["novelty"]]
        numbers = [NOT_DEFINED if figure is None else f"{figure:.2f}" for figure in figures]
        found = NOT_DEFINED if row["found"] is None else str(row["found"])
        table.add_row(str(row["rank"]), escape(printable(row["file"])), *numbers, found)
    return table
