"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Console

from spp_det.evaluation.coco import FIGURES
from spp_det.report.tables import classification_table, coco_table, recall_table, voc_table


def shown(table):
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_coco_figures_are_per_cent_and_undefined_ones_a_dash():
    text = shown(coco_table({name: index / 100 for index, name in enumerate(FIGURES)} | {"APsmall": -1.0}))
    rows = {
        line.split("│")[1].strip(): line.split("│")[3].strip() for line in text.splitlines() if "│" in line
    }
    assert rows["AP"] == "0.0"
    assert rows["ARlarge"] == "11.0"
    assert rows["APsmall"] == "-"


def test_voc_figures_and_hostile_names():
    per_class = {
        "raccoon": {"area": 0.8734, "11point": 1.0},
        "[red]markup[/red]\x1b[31m": {"area": None, "11point": None},
    }
    text = shown(voc_table({"mAP_area": 0.8734, "mAP_11point": None, "per_class": per_class}))
    assert "87.3" in text
    assert "100.0" in text
    assert "[red]markup[/red][31m" in text
    assert "\x1b" not in text


def test_accuracies_by_view_and_size():
    figures = {
        "full": {"160": {"top1": 0.5, "top5": 0.999}},
        "multi_view": {"224": {"top1": 1.0, "top5": 1.0}},
    }
    rows = [line.split("│") for line in shown(classification_table(figures)).splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert cells == [["full", "160", "50.0", "99.9"], ["multi_view", "224", "100.0", "100.0"]]


def test_recall_of_each_mode_and_of_its_classes():
    raccoon = {"objects": 8, "recall": {"0.5": 0.875, "0.7": 0.5}, "ABO": 0.7123}
    hostile = {"objects": 0, "recall": {"0.5": None, "0.7": None}, "ABO": None}
    mode = raccoon | {"MABO": 0.7, "per_class": {"raccoon": raccoon, "[red]x[/red]\x1b[31m": hostile}}
    fast = mode | {"windows": 1234.4, "seconds": 0.256}
    paper = mode | {"windows": None, "seconds": None}
    text = shown(recall_table({"images": 3, "skipped": [], "modes": {"fast": fast, "paper": paper}}))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert rows[0] == ["fast", "8", "87.5", "50.0", "71.2", "1234", "0.26"]
    assert rows[1] == ["raccoon", "8", "87.5", "50.0", "71.2", "", ""]
    assert rows[2] == ["[red]x[/red][31m", "0", "-", "-", "-", "", ""]
    assert rows[3] == ["paper", "8", "87.5", "50.0", "71.2", "-", "cached"]
    assert "difficult and crowd objects left out" in " ".join(text.split())
    assert "\x1b" not in text


def test_the_iou_of_average_precision_is_in_its_title():
    assert "AP at IoU 0.75" in shown(voc_table({"mAP_area": 0, "mAP_11point": 0, "per_class": {}}, "0.75"))
