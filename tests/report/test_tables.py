"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Console

from spp_det.evaluation.coco import FIGURES
from spp_det.report.tables import classification_table, coco_table, errors_table, recall_table, voc_table


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


def test_coco_figures_say_what_they_are_of_and_stand_in_threes_at_any_limit():
    names = [name.replace("AR100", "AR300") for name in FIGURES]
    lines = shown(coco_table(dict.fromkeys(names, 0.5))).splitlines()
    body = lines[lines.index(next(line for line in lines if "AP " in line)) :]
    assert [index for index, line in enumerate(body) if line[0] == "├"] == [3, 7, 11]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in body if line[0] == "│"]
    assert [cell[0] for cell in cells] == names
    assert cells[8] == ["AR300", "300 detections", "50.0"]
    assert all(of for _, of, _ in cells)


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


def test_the_score_of_the_best_f1_stands_beside_the_class():
    values = {"area": 0.5, "11point": 0.5}
    figures = {"mAP_area": 0.5, "mAP_11point": 0.5, "per_class": {"cat": values, "dog": values}}
    thresholds = {"cat": {"score": -0.126, "precision": 1.0, "recall": 1.0, "F1": 1.0}, "dog": None}
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in shown(voc_table(figures, thresholds=thresholds)).splitlines()
        if "│" in line
    ]
    assert rows == [
        ["cat", "50.0", "50.0", "-0.13"],
        ["dog", "50.0", "50.0", "-"],
        ["mean", "50.0", "50.0", ""],
    ]
    assert "best F1 at" not in shown(voc_table(figures))


def test_errors_are_counted_over_all_classes():
    text = shown(errors_table({"cat": {"correct": 3, "missed": 0}, "dog": {"correct": 4, "missed": 0}}))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert rows == [["correct", "7"], ["missed", "0"]]


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
