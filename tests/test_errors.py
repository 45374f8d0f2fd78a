"""Messages are one line, whatever names are in them."""

from __future__ import annotations

import pytest

from spp_det.errors import UserError, is_out_of_memory, one_line


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


def test_torchs_ways_to_be_out_of_memory_are_told_from_other_errors():
    full = type("OutOfMemoryError", (RuntimeError,), {})  # as torch calls it on a GPU
    assert is_out_of_memory(full("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
