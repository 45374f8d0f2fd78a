"""Numbers, lines and files that are there whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.detections.text import numbered_lines, shortest, whole_text


@given(st.floats(width=32, allow_nan=False))
def test_the_shortest_decimal_reads_back_as_the_same_float32(value):
    short = shortest(np.float32(value))
    assert np.float32(short) == np.float32(value)
    assert len(repr(short)) <= len(repr(float(np.float32(value))))


def test_blank_lines_are_counted_and_left_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \ncaf\xe9 \x0b two")
    assert list(numbered_lines(tmp_path / "a.txt")) == [(1, "one"), (4, "caf\udce9 \x0b two")]


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    with whole_text(path) as file:
        file.write("caf\udce9\r\n")
        assert not path.exists()
    assert path.read_bytes() == b"caf\xe9\r\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def fail(path) -> None:
    with whole_text(path) as file:
        file.write("half")
        raise KeyboardInterrupt


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a.txt")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_a_killed_run_left_is_written_over_and_no_link_is_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".a.txt.partial").symlink_to(tmp_path / "mine")
    with whole_text(tmp_path / "a.txt") as file:
        file.write("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine": "mine", "a.txt": "new"}
