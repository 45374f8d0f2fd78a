"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Console

from spp_det.evaluation.coco import FIGURES
from spp_det.report.tables import coco_table, voc_table


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
