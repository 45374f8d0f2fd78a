"""Messages and names are one line, whatever characters are in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.errors import UserError, is_out_of_memory, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ä and 猫", "plain, with ä and 猫"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("half \ud800", "half \\ud800"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_would_not_show_as_itself_is_escaped(text, shown):
    assert one_line(text) == shown
    assert str(UserError(text)) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("traffic light", "traffic light"),
        ("  a\n\tb \r\n", "a b"),
        ("a\x1b[31mb", "a[31mb"),
        ("\u202edrawkcab", "drawkcab"),
        ("\udc80x", "x"),
        ("袋鼠", "袋鼠"),
        ("", "?"),
        ("\0\u200b", "?"),
    ],
)
def test_printable(name, shown):
    assert printable(name) == shown


@given(st.text())
def test_printable_is_one_line(name):
    shown = printable(name)
    assert shown
    assert len(shown.splitlines()) == 1
    assert printable(shown) == shown


def test_torchs_ways_to_be_out_of_memory_are_told_from_other_errors():
    full = type("OutOfMemoryError", (RuntimeError,), {})  # as torch calls it on a GPU
    assert is_out_of_memory(full("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
