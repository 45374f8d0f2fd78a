"""The figures of an evaluation as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spp_det.report.text import printable

ROW = ("protocol", "iou", "class", "figure", "value")


def figures_csv(figures: Mapping[str, Any]) -> str:
    """What `evaluate` returns, one line a figure: protocol, IoU (of VOC's), class, figure, value.

    Values are fractions of 1 with all their digits; empty where not defined. The class is empty where a
    figure is of all classes.
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


def figures_markdown(figures: Mapping[str, Any]) -> str:
    """What `evaluate` returns as two tables: a row for all classes and one a class.

    Fractions of 1 are shown as per cent, what is not defined as a dash.
    """
    coco = [("all", figures["coco"]), *figures["coco_per_class"].items()]
    parts = ["## COCO", _table(list(figures["coco"]), [(name, [*row.values()]) for name, row in coco])]
    by_iou = _by_iou(figures)
    if by_iou:
        columns = [f"AP@{iou} {way}" for iou in by_iou for way in ("area", "11-point")]
        rows = [("all", [voc[key] for voc in by_iou.values() for key in ("mAP_area", "mAP_11point")])]
        for name in next(iter(by_iou.values()))["per_class"]:
            classes = [voc["per_class"][name] for voc in by_iou.values()]
            rows.append((name, [values[way] for values in classes for way in ("area", "11point")]))
        parts += ["## Pascal VOC", _table(columns, rows)]
    return "\n\n".join(parts) + "\n"


def _by_iou(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {} if figures["voc"] is None else {"0.5": figures["voc"], **figures["voc_at"]}


def _table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    lines = [["class", *columns], ["---", *["---:"] * len(columns)]]
    for name, values in rows:
        shown = ["-" if value is None or value < 0 else f"{100 * value:.1f}" for value in values]
        lines.append([_escaped(name), *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(name: str) -> str:
    """A class name that stays in its cell and is no markup."""
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+!|~" else c for c in printable(name))
