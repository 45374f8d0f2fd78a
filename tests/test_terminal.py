"""What is shown goes where it belongs: tables to stdout, lines to stderr, names as they are."""

from __future__ import annotations

from rich.table import Table

from spp_det.terminal import say_skipped, show


def test_files_that_were_skipped_are_counted_and_the_first_one_is_named(capsys):
    say_skipped(["a[red].jpg", "b.jpg"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "skipped 2 files that could not be read, the first: a[red].jpg\n"


def test_nothing_skipped_is_not_worth_a_line(capsys):
    say_skipped([])
    assert capsys.readouterr().err == ""


def test_tables_are_printed_one_below_the_other(capsys):
    show(Table("first"), Table("second"))
    shown = capsys.readouterr()
    assert shown.out.index("first") < shown.out.index("second")
    assert shown.err == ""
