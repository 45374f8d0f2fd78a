"""What is shown goes where it belongs: tables to stdout, lines to stderr, names as they are."""

from __future__ import annotations

import pytest
from rich.markup import escape
from rich.table import Table

from spp_det.commands.terminal import say, say_skipped, show, show_figures
from spp_det.errors import one_line
from spp_det.runtime.progress import track


def test_files_that_were_skipped_are_counted_and_the_first_one_is_named(capsys):
    say_skipped([{"file": name, "reason": "empty"} for name in ("a[red]\n.jpg", "b.jpg")])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "skipped 2 files that could not be read, the first: a[red]\\n.jpg\n"


def test_nothing_skipped_is_not_worth_a_line(capsys):
    say_skipped([])
    assert capsys.readouterr().err == ""


def test_tables_are_printed_one_below_the_other(capsys):
    show(Table("first"), Table("second"))
    shown = capsys.readouterr()
    assert shown.out.index("first") < shown.out.index("second")
    assert shown.err == ""


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "a\x9b2Jb", "\x1b]0;title\x07", "a\u202eb", "\x00", "a\rb", "\ud800"]
)
def test_no_name_controls_the_terminal(capsys, name):
    """Whatever prints it: a table, its title, a line, a bar."""
    table = Table(name, title=escape(name))
    table.add_row(escape(name))
    say(escape(name))
    show(table)
    for _ in track([1], name):
        pass
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert shown.err == f"{one_line(name)}\n"


def test_a_line_is_a_line(capsys):
    say("a\nb")
    assert capsys.readouterr().err == "a\\nb\n"


def test_figures_of_both_protocols_thresholds_and_errors_are_shown(capsys):
    voc = {"mAP_area": 0.5, "mAP_11point": 0.5, "per_class": {"cat": {"area": 0.5, "11point": 0.5}}}
    best = {"score": 0.375, "precision": 1.0, "recall": 0.5, "F1": 0.667}
    figures = {
        **{"coco": {"AP": 0.25}, "coco_per_class": {}, "voc": voc, "voc_at": {"0.75": voc}},
        **{"thresholds": {"cat": best}, "errors": {"cat": {"correct": 1, "missed": 11}}},
    }
    show_figures(figures)
    shown = capsys.readouterr().out
    places = [
        shown.index(text) for text in ("25.0", "IoU 0.5", "best F1 at", "0.38", "IoU 0.75", "missed", "11 ")
    ]
    assert places == sorted(places)
    assert shown.count("best F1 at") == 1
    show_figures({**figures, "voc": None, "voc_at": {}, "thresholds": None, "errors": None})
    assert "Pascal" not in capsys.readouterr().out
