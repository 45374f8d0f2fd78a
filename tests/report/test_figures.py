"""Figures as CSV keep every digit; as Markdown they keep their cells."""

from __future__ import annotations

import csv
import io

from spp_det.report.figures import figures_csv, figures_markdown

VOC = {"mAP_area": 2 / 3, "mAP_11point": None, "per_class": {"a|b": {"area": 2 / 3, "11point": None}}}
FIGURES = {
    "coco": {"AP": 0.1234567890123, "APsmall": -1.0},
    "coco_per_class": {"a|b": {"AP": 0.5, "APsmall": -1.0}, "all": {"AP": 0, "APsmall": 1}},
    "voc": VOC,
    "voc_at": {"0.75": {**VOC, "mAP_area": 0.25}},
}


def test_csv_has_a_line_a_figure():
    rows = list(csv.DictReader(io.StringIO(figures_csv(FIGURES))))
    assert len(rows) == 6 + 2 * 4
    values = {tuple(row.values())[:4]: row["value"] for row in rows}
    assert float(values["coco", "", "", "AP"]) == 0.1234567890123
    assert values["coco", "", "", "APsmall"] == values["voc", "0.5", "", "mAP_11point"] == ""
    assert float(values["coco", "", "a|b", "AP"]) == 0.5
    assert float(values["voc", "0.5", "a|b", "area"]) == 2 / 3
    assert float(values["voc", "0.75", "", "mAP_area"]) == 0.25


def test_markdown_has_a_row_a_class():
    assert figures_markdown(FIGURES) == (
        "## COCO\n\n"
        "| class | AP | APsmall |\n| --- | ---: | ---: |\n"
        "| all | 12.3 | - |\n| a\\|b | 50.0 | - |\n| all | 0.0 | 100.0 |\n\n"
        "## Pascal VOC\n\n"
        "| class | AP@0.5 area | AP@0.5 11-point | AP@0.75 area | AP@0.75 11-point |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| all | 66.7 | - | 25.0 | - |\n| a\\|b | 66.7 | - | 66.7 | - |\n"
    )


def test_without_voc_figures_there_is_one_table():
    assert "Pascal" not in figures_markdown({**FIGURES, "voc": None, "voc_at": {}})
    assert "voc" not in figures_csv({**FIGURES, "voc": None, "voc_at": {}})
