"""Figures as CSV keep every digit; as Markdown they keep their cells."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from spp_det.data.records import Dataset, Record
from spp_det.detections.align import align
from spp_det.evaluation.results import evaluate
from spp_det.report.figures import curves_csv, figures_csv, figures_markdown

VOC = {"mAP_area": 2 / 3, "mAP_11point": None, "per_class": {"a|b": {"area": 2 / 3, "11point": None}}}
FIGURES = {
    "coco": {"AP": 0.1234567890123, "APsmall": None},
    "coco_per_class": {"a|b": {"AP": 0.5, "APsmall": None}, "all": {"AP": 0, "APsmall": 1}},
    "voc": VOC,
    "voc_at": {"0.75": {**VOC, "mAP_area": 0.25}},
    "thresholds": {
        "a|b": {"score": -0.1234567890123, "precision": 0.75, "recall": 0.5, "F1": 0.6},
        "never found": None,
    },
    "errors": {"a|b": {"correct": 3, "missed": 0}, "never found": {"correct": 0, "missed": 2}},
    "confusion": {
        "classes": ["a|b", "never found"],
        **{"matrix": [[3, 0], [1, 0]], "background": [4, 0], "missed": [0, 2]},
    },
}
COCO_ONLY = {**FIGURES, "voc_at": {}, **dict.fromkeys(("voc", "thresholds", "errors", "confusion"))}


def test_csv_has_a_line_a_figure():
    rows = list(csv.DictReader(io.StringIO(figures_csv(FIGURES))))
    assert len(rows) == 6 + 2 * 4 + 2 * 4 + 2 * 2
    values = {tuple(row.values())[:4]: row["value"] for row in rows}
    assert float(values["coco", "", "", "AP"]) == 0.1234567890123
    assert values["coco", "", "", "APsmall"] == values["voc", "0.5", "", "mAP_11point"] == ""
    assert float(values["coco", "", "a|b", "AP"]) == 0.5
    assert float(values["voc", "0.5", "a|b", "area"]) == 2 / 3
    assert float(values["voc", "0.75", "", "mAP_area"]) == 0.25
    assert float(values["best F1", "0.5", "a|b", "score"]) == -0.1234567890123
    assert float(values["best F1", "0.5", "a|b", "F1"]) == 0.6
    assert values["best F1", "0.5", "never found", "score"] == ""
    assert values["errors", "0.5", "a|b", "correct"] == "3"
    assert values["errors", "0.5", "never found", "missed"] == "2"


def test_markdown_has_a_row_a_class():
    assert figures_markdown(FIGURES) == (
        "## COCO\n\n"
        "| class | AP | APsmall |\n| --- | ---: | ---: |\n"
        "| all | 12.3 | - |\n| a\\|b | 50.0 | - |\n| all | 0.0 | 100.0 |\n\n"
        "## Pascal VOC\n\n"
        "| class | AP@0.5 area | AP@0.5 11-point | AP@0.75 area | AP@0.75 11-point |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| all | 66.7 | - | 25.0 | - |\n| a\\|b | 66.7 | - | 66.7 | - |\n\n"
        "## Best F1 at IoU 0.5\n\n"
        "| class | score | precision | recall | F1 |\n| --- | ---: | ---: | ---: | ---: |\n"
        "| a\\|b | -0.1235 | 75.0 | 50.0 | 60.0 |\n| never found | - | - | - | - |\n\n"
        "## Right and wrong at that score\n\n"
        "| class | correct | missed |\n| --- | ---: | ---: |\n"
        "| a\\|b | 3 | 0 |\n| never found | 0 | 2 |\n\n"
        "## Objects, and what they are found as\n\n"
        "| object | a\\|b | never found | *missed* |\n| --- | ---: | ---: | ---: |\n"
        "| a\\|b | 3 | 0 | 0 |\n| never found | 1 | 0 | 2 |\n| *none* | 4 | 0 |  |\n"
    )


def test_without_voc_figures_there_is_one_table():
    assert figures_markdown(COCO_ONLY).count("##") == 1
    assert all(line.startswith("coco,") for line in figures_csv(COCO_ONLY).splitlines()[1:])


def test_curves_have_a_line_a_score_of_each_class_and_threshold():
    boxes, no = np.float32([[0, 0, 10, 10], [20, 0, 30, 10]]), np.zeros(2, np.bool_)
    record = Record("1", Path("1.jpg"), boxes, np.zeros(2, np.int64), no, no, (40, 20))
    rows = [
        {"image_id": 1, "category_id": label, "bbox": box, "score": score}
        for label, box, score in (
            (1, [0, 0, 10, 10], 1 / 3),
            (1, [20, 0, 10, 7], 0.25),
            (1, [35, 0, 4, 4], 0.25),
            (2, [0, 0, 4, 4], -1.5),
        )
    ]
    dataset = Dataset(("a, b", "nowhere"), [record])
    text = curves_csv(evaluate(dataset, align(dataset, rows), ious=[0.75]))
    header, *points = csv.reader(io.StringIO(text))
    assert header == ["class", "iou", "score", "precision", "recall"]
    assert [
        (name, iou, np.float32(score), *map(float, rest[:1]), rest[1]) for name, iou, score, *rest in points
    ] == [
        ("a, b", "0.5", np.float32(1 / 3), 1.0, "0.5"),
        ("a, b", "0.5", 0.25, 2 / 3, "1.0"),
        ("nowhere", "0.5", -1.5, 0.0, ""),
        ("a, b", "0.75", np.float32(1 / 3), 1.0, "0.5"),
        ("a, b", "0.75", 0.25, 1 / 3, "0.5"),
        ("nowhere", "0.75", -1.5, 0.0, ""),
    ]
