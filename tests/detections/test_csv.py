"""Detections as CSV: what is written reads back digit for digit; what is damaged is named by its line."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.detections.csv import HEADER, read_csv, write_csv
from spp_det.detections.types import Found
from spp_det.errors import UserError

numbers = st.floats(0, 5000, width=32)
boxes = st.tuples(numbers, numbers, numbers, numbers)
scores = st.floats(allow_nan=False, allow_infinity=False)
starts = st.sampled_from(["", "=", "'=", "''+", "-", "@", "\t", "'", "\uff1d"])
names = st.builds(
    str.__add__, starts, st.text(st.characters(codec="utf-8", exclude_characters="/\\\n\r\x00"), min_size=1)
)


@given(st.lists(st.builds(Found, names, names, scores, boxes)))
def test_round_trip(found):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detections.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            write_csv(iter(found), file)
        assert read_csv(path) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'file'"),
        ("file,class,score\n", "no column 'x1'"),
        (",".join(HEADER) + "\na,b,high,1,2,3,4\n", "line 2: .*high"),
        (",".join(HEADER) + "\na,b,1,1,2\n", "line 2: "),
    ],
)
def test_a_damaged_csv_is_named(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=rf"a\.csv: .*{said}|a\.csv: {said}"):
        read_csv(tmp_path / "a.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    text = ",".join(HEADER) + '\n"a\nb.jpg",cat,0.5,1,2,3,4\n'
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.csv").write_text(text, encoding=encoding)
        assert read_csv(tmp_path / "a.csv") == [Found("a\nb.jpg", "cat", 0.5, (1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ('=HYPERLINK("http://a")', '\'=HYPERLINK("http://a")'),
        ("+1", "'+1"),
        ("-1.jpg", "'-1.jpg"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("'quoted'", "'quoted'"),
        ("a=1", "a=1"),
    ],
)
def test_what_a_spreadsheet_would_run_has_a_quote_before_it(name, written):
    file = io.StringIO(newline="")
    write_csv([Found(name, name, -0.5, (1, 2, 3, 4))], file)
    _, row = csv.reader(io.StringIO(file.getvalue()))
    assert row == [written, written, "-0.5", "1", "2", "3", "4"]  # numbers are numbers


def test_a_table_of_somebody_elses_is_read_as_it_is(tmp_path):
    (tmp_path / "a.csv").write_text(",".join(HEADER) + "\n=a,'b,0.5,1,2,3,4\n")
    assert read_csv(tmp_path / "a.csv") == [Found("=a", "'b", 0.5, (1, 2, 3, 4))]
