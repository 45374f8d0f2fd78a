"""The figures of an evaluation as CSV and as Markdown, and its precision-recall curves as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from spp_det.detections.csv import quoted
from spp_det.errors import printable
from spp_det.evaluation.curves import class_curves
from spp_det.evaluation.results import Evaluation
from spp_det.report.tables import NOT_DEFINED, markdown_table, percent

ROW = ("protocol", "iou", "class", "figure", "value")
BEST = ("score", "precision", "recall", "F1")
CURVE = ("class", "iou", "score", "precision", "recall")


def figures_csv(figures: Mapping[str, Any]) -> str:
    """The figures of an `Evaluation`, one line a figure: protocol, IoU (COCO has none), class, figure, value.

    The protocols are ``coco``, ``voc``, ``best F1`` (the score threshold, and precision, recall and F1 there)
    and ``errors`` (counts at that threshold). Values are fractions of 1 with all their digits, scores, or
    counts; an undefined value is empty. The class is empty where a figure is of all classes; a name that a
    spreadsheet would run is `quoted`.
    """
    return _csv(ROW, _rows(figures))


def curves_csv(evaluation: Evaluation) -> str:
    """The precision-recall curves of an `Evaluation`, one line a point: class, IoU, score, precision, recall.

    Every class at IoU .5 and then at each further threshold, highest score first (see `Curve`). Numbers have
    all their digits; recall is empty where a class has no object.
    """

    def points() -> Iterator[tuple[object, ...]]:
        for iou, voc in {"0.5": evaluation.voc, **evaluation.voc_at}.items():
            for name, curve in class_curves(voc).items():
                recall = ["" if value != value else value for value in curve.recall]
                for score, precision, found in zip(curve.score, curve.precision, recall, strict=True):
                    yield name, iou, score, precision, found

    return _csv(CURVE, points())


def _csv(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([quoted(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, float | None]]:
    for class_name, coco in {"": figures["coco"], **figures["coco_per_class"]}.items():
        for name, value in coco.items():
            yield "coco", "", class_name, name, value
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
    """The figures of an `Evaluation` as tables with a row a class; the tables of AP add a row of all classes.

    Fractions of 1 are shown as per cent, undefined figures as a dash.
    """
    coco = [("all", figures["coco"]), *figures["coco_per_class"].items()]
    parts = [
        "## COCO",
        _table(list(figures["coco"]), [(name, map(percent, row.values())) for name, row in coco]),
    ]
    by_iou = _by_iou(figures)
    if by_iou:
        columns = [f"AP@{iou} {way}" for iou in by_iou for way in ("area", "11-point")]
        means = [voc[key] for voc in by_iou.values() for key in ("mAP_area", "mAP_11point")]
        rows: list[tuple[str, Iterable[str]]] = [("all", map(percent, means))]
        for name in next(iter(by_iou.values()))["per_class"]:
            ap = [voc["per_class"][name][way] for voc in by_iou.values() for way in ("area", "11point")]
            rows.append((name, map(percent, ap)))
        parts += ["## Pascal VOC", _table(columns, rows)]
    if figures["thresholds"]:
        rows = [(name, _best(best)) for name, best in figures["thresholds"].items()]
        parts += ["## Best F1 at IoU 0.5", _table(BEST, rows)]
    if figures["errors"]:
        kinds = list(next(iter(figures["errors"].values())))
        rows = [(name, [str(counts[kind]) for kind in kinds]) for name, counts in figures["errors"].items()]
        parts += ["## Right and wrong at that score", _table(kinds, rows)]
    if figures["confusion"]:
        parts += ["## Objects, and what they are found as", _confusion(figures["confusion"])]
    return "\n\n".join(parts) + "\n"


def _by_iou(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {} if figures["voc"] is None else {"0.5": figures["voc"], **figures["voc_at"]}


def _best(best: Mapping[str, float] | None) -> list[str]:
    """The score of a class's best F1 in four digits; precision, recall and F1 there in per cent."""
    if best is None:
        return [NOT_DEFINED] * len(BEST)
    return [f"{best['score']:.4g}", *(percent(best[name]) for name in BEST[1:])]


def _confusion(confusion: Mapping[str, Any]) -> str:
    """A row an object's class, a column a detection's class: see `confusion_matrix`."""
    names = [_escaped(name) for name in confusion["classes"]]
    counts = zip(names, confusion["matrix"], confusion["missed"], strict=True)
    rows = [(name, *map(str, row), str(missed)) for name, row, missed in counts]
    none = ("*none*", *map(str, confusion["background"]), "")
    return markdown_table(("object", *names, "*missed*"), [*rows, none])


def _table(columns: Sequence[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    return markdown_table(["class", *columns], ((_escaped(name), *cells) for name, cells in rows))


def _escaped(name: str) -> str:
    """A class name with Markdown's special characters escaped."""
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+!|~" else c for c in printable(name))
