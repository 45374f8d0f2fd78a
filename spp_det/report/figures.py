"""The figures of an evaluation as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from spp_det.drawing.text import printable

ROW = ("protocol", "iou", "class", "figure", "value")
BEST = ("score", "precision", "recall", "F1")


def figures_csv(figures: Mapping[str, Any]) -> str:
    """The figures of an `Evaluation`, one line a figure: protocol, IoU (but of COCO's), class, figure, value.

    Protocols are ``coco`` and ``voc``; ``best F1``, the score to cut at and what it gives; and ``errors``,
    counts at that score. Values are fractions of 1 with all their digits, scores, or counts; empty where not
    defined. The class is empty where a figure is of all classes.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ROW)
    writer.writerows(_rows(figures))
    return text.getvalue()


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, float | None]]:
    for class_name, coco in {"": figures["coco"], **figures["coco_per_class"]}.items():
        for name, value in coco.items():
            yield "coco", "", class_name, name, None if value < 0 else value
    for iou, voc in _by_iou(figures).items():
        yield "voc", iou, "", "mAP_area", voc["mAP_area"]
        yield "voc", iou, "", "mAP_11point", voc["mAP_11point"]
        for class_name, values in voc["per_class"].items():
            for name, value in values.items():
                yield "voc", iou, class_name, name, value
    for class_name, best in (figures["thresholds"] or {}).items():
        for name in BEST:
            yield "best F1", "0.5", class_name, name, None if best is None else best[name]
    for class_name, counts in (figures["errors"] or {}).items():
        for kind, count in counts.items():
            yield "errors", "0.5", class_name, kind, count


def figures_markdown(figures: Mapping[str, Any]) -> str:
    """The figures of an `Evaluation` as tables of a row a class, those of AP with one for all classes.

    Fractions of 1 are shown as per cent, what is not defined as a dash.
    """
    coco = [("all", figures["coco"]), *figures["coco_per_class"].items()]
    parts = [
        "## COCO",
        _table(list(figures["coco"]), [(name, _percents(row.values())) for name, row in coco]),
    ]
    by_iou = _by_iou(figures)
    if by_iou:
        columns = [f"AP@{iou} {way}" for iou in by_iou for way in ("area", "11-point")]
        means = [voc[key] for voc in by_iou.values() for key in ("mAP_area", "mAP_11point")]
        rows = [("all", _percents(means))]
        for name in next(iter(by_iou.values()))["per_class"]:
            classes = [voc["per_class"][name] for voc in by_iou.values()]
            rows.append((name, _percents(values[way] for values in classes for way in ("area", "11point"))))
        parts += ["## Pascal VOC", _table(columns, rows)]
    if figures["thresholds"]:
        rows = [(name, _best(best)) for name, best in figures["thresholds"].items()]
        parts += ["## Best F1 at IoU 0.5", _table(BEST, rows)]
    if figures["errors"]:
        kinds = list(next(iter(figures["errors"].values())))
        rows = [(name, [str(counts[kind]) for kind in kinds]) for name, counts in figures["errors"].items()]
        parts += ["## Right and wrong at that score", _table(kinds, rows)]
    return "\n\n".join(parts) + "\n"


def _by_iou(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {} if figures["voc"] is None else {"0.5": figures["voc"], **figures["voc_at"]}


def _percents(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None or value < 0 else f"{100 * value:.1f}" for value in values]


def _best(best: Mapping[str, float] | None) -> list[str]:
    """A class's best F1: its score in four digits, the rest in per cent."""
    if best is None:
        return ["-"] * len(BEST)
    return [f"{best['score']:.4g}", *_percents(best[name] for name in BEST[1:])]


def _table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    lines = [["class", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[_escaped(name), *cells] for name, cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(name: str) -> str:
    """A class name that stays in its cell and is no markup."""
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+!|~" else c for c in printable(name))
