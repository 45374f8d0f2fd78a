"""The table of an ablation: every row in both forms, and why a row has no figures."""

from __future__ import annotations

import pytest
from rich.console import Console

from spp_det.report.ablation import COLUMNS, ablation_markdown, ablation_table, missing_rows

FIGURES = {
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


def test_markdown_has_a_line_for_each_row_and_the_reasons_below():
    text = ablation_markdown(FIGURES)
    lines = text.splitlines()
    assert lines[0] == "Ablation, zf5, scored on te[s]t"
    table = [line for line in lines if line.startswith("|")]
    assert [line.count("|") for line in table] == [len(COLUMNS) + 1] * 6
    assert table[2] == "| pool5-1sc | 688 | 43.0 | 12.3 | 62 | 0.14 |"
    assert table[3] == "| ft-fc7+bb-2sc | 480, 688 | 59.2 | - | 3600 | - |"
    assert table[4] == "| fc6-1sc | 688 | - | - | - | - |"
    assert table[5] == "| pool5-rcnn | warped windows | - | - | - | - |"
    assert lines[-2:] == ["- fc6-1sc: no fc6 | [red]here", "- pool5-rcnn: x"]
    assert text.endswith("\n")


def test_the_terminal_shows_the_same():
    console = Console(width=140, record=True, force_terminal=False)
    console.print(ablation_table(FIGURES))
    text = console.export_text()
    assert "te[s]t" in text
    for name in ("pool5-1sc", "ft-fc7+bb-2sc", "480, 688", "59.2", "3600", "fc6-1sc"):
        assert name in text


def test_a_whole_table_gives_no_reasons():
    whole = FIGURES | {"rows": FIGURES["rows"][:2]}
    assert missing_rows(whole) == {}
    assert not [line for line in ablation_markdown(whole).splitlines() if line.startswith("-")]


@pytest.mark.parametrize("rows", [[], FIGURES["rows"][2:]])
def test_a_table_of_no_figures_is_a_table(rows):
    assert ablation_markdown(FIGURES | {"rows": rows}).count("|") >= 2 * (len(COLUMNS) + 1)
