"""Tables for the terminal."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from spp_det.evaluation.coco import FIGURES
from spp_det.report.tables import (
    ABLATION_COLUMNS,
    ablation_markdown,
    ablation_table,
    classification_table,
    coco_table,
    data_rows,
    data_tables,
    errors_table,
    missing_rows,
    percent,
    recall_table,
    voc_table,
)


def shown(table):
    console = Console(width=140, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "12.3"), (1, "100.0"), (0, "0.0"), *((v, "-") for v in (None, math.nan, -1))],
)
def test_a_fraction_is_per_cent_and_an_undefined_figure_a_dash(value, shown):
    assert percent(value) == shown


def test_coco_figures_are_per_cent_and_undefined_ones_a_dash():
    text = shown(coco_table({name: index / 100 for index, name in enumerate(FIGURES)} | {"APsmall": None}))
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


ABLATION = {
    "backbone": "zf5",
    "train": "trainval",
    "test": "te[s]t",
    "rows": [
        {
            **{"name": "pool5-1sc", "scales": [688], "mAP50": 0.43, "mAP75": 0.1234},
            **{"train_seconds": 61.7, "detect_seconds": 0.142},
        },
        {
            **{"name": "ft-fc7+bb-2sc", "scales": [480, 688], "mAP50": 0.592, "mAP75": None},
            **{"train_seconds": 3600.0, "detect_seconds": None},
        },
        {"name": "fc6-1sc", "scales": [688], "error": "no\nfc6 | [red]here"},
        {"name": "pool5-rcnn", "scales": None, "error": "x"},
    ],
}


def test_the_markdown_of_an_ablation_has_a_line_for_each_row_and_the_reasons_below():
    text = ablation_markdown(ABLATION)
    lines = text.splitlines()
    assert lines[0] == "Ablation, zf5, scored on te[s]t"
    table = [line for line in lines if line.startswith("|")]
    assert [line.count("|") for line in table] == [len(ABLATION_COLUMNS) + 1] * 6
    assert table[2] == "| pool5-1sc | 688 | 43.0 | 12.3 | 62 | 0.14 |"
    assert table[3] == "| ft-fc7+bb-2sc | 480, 688 | 59.2 | - | 3600 | - |"
    assert table[4] == "| fc6-1sc | 688 | - | - | - | - |"
    assert table[5] == "| pool5-rcnn | warped windows | - | - | - | - |"
    assert lines[-2:] == ["- fc6-1sc: no fc6 | [red]here", "- pool5-rcnn: x"]
    assert text.endswith("\n")


def test_the_terminal_shows_the_rows_of_an_ablation():
    text = shown(ablation_table(ABLATION))
    assert "te[s]t" in text
    for name in ("pool5-1sc", "ft-fc7+bb-2sc", "480, 688", "59.2", "3600", "fc6-1sc"):
        assert name in text


def test_an_ablation_without_failures_gives_no_reasons():
    whole = ABLATION | {"rows": ABLATION["rows"][:2]}
    assert missing_rows(whole) == {}
    assert not [line for line in ablation_markdown(whole).splitlines() if line.startswith("-")]


@pytest.mark.parametrize("rows", [[], ABLATION["rows"][2:]])
def test_an_ablation_of_no_figures_is_a_table(rows):
    assert ablation_markdown(ABLATION | {"rows": rows}).count("|") >= 2 * (len(ABLATION_COLUMNS) + 1)


def of(recall: float | None) -> dict:
    return {"objects": 4, "recall": {"0.5": recall}, "ABO": 0.5}


DATA = {
    **{"root": "pho[t]os", "format": "voc", "findings": []},
    "splits": {
        "train": {"photos": 5, "without_objects": 1, "objects": {"a[b]": 7, "c": 0}},
        "test": {"photos": 3, "without_objects": 0, "objects": {"a[b]": 2, "c": 3}},
    },
    "sizes": {"a[b]": {"<16": 4, "16-32": 5}, "c": {"<16": 3, "16-32": 0}},
    "recall": None,
}
RECALL = {
    **{"mode": "fast", "photos": 2, "windows": 9.5, **of(0.75)},
    **{"per_class": {"a[b]": of(0.875), "c": of(None)}, "by_size": {"<16": of(0.5), "16-32": of(1.0)}},
}


def test_a_look_at_data_has_a_row_a_class_and_a_column_a_split_size_and_recall():
    columns, groups = data_rows(DATA, sizes=True)
    assert columns == ["class", "train", "test", "<16 px", "16-32 px"]
    assert groups == [
        [["photos", "5", "3", "", ""], ["without objects", "1", "0", "", ""]],
        [["a[b]", "7", "2", "4", "5"], ["c", "0", "3", "3", "0"]],
        [["all", "7", "5", "7", "5"]],
    ]
    columns, groups = data_rows({**DATA, "recall": RECALL}, sizes=True)
    assert columns[-1] == "covered %"
    assert [row[-1] for group in groups for row in group] == ["", "", "87.5", "-", "75.0", ""]
    assert groups[-1][-1] == ["covered %", "", "", "50.0", "100.0", ""]
    assert {len(row) for group in groups for row in group} == {len(columns)}


@pytest.mark.parametrize("recall", [None, RECALL])
def test_the_terminal_shows_classes_and_sizes_apart(recall):
    by_class, by_size = (shown(table) for table in data_tables({**DATA, "recall": recall}))
    for text in ("pho[t]os", "a[b]", "without objects", "train"):
        assert text in by_class
    assert "16-32" not in by_class
    assert [number in by_size for number in ("<16", "7", "5")] == [True] * 3
    assert ("87.5" in by_class) == ("100.0" in by_size) == (recall is not None)
