"""Detections as YOLO text: boxes come back as the same float32, scores digit for digit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.detections.yolo import read_yolo, yolo_text
from spp_det.errors import UserError

NEAR_ZERO = 4e-7  # of the farther corner: what lies nearer to 0 loses digits, but not 0

numbers = st.floats(0, 5000, width=32)
scores = st.floats(allow_nan=False, allow_infinity=False)


def told_by_fractions(box):
    """The box with 0 for what YOLO's fractions cannot tell from it."""
    farther = np.maximum(box[:2], box[2:]).tolist() * 2
    return tuple(0.0 if value < NEAR_ZERO * far else value for value, far in zip(box, farther, strict=True))


boxes = st.tuples(numbers, numbers, numbers, numbers).map(told_by_fractions)


def as_float32(box):
    return np.float32(box).tolist()


@given(
    st.lists(st.tuples(st.integers(0, 99), scores, boxes)),
    st.tuples(*[st.integers(1, 5000)] * 2),
)
def test_round_trip(found, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_text(yolo_text(found, size))
        read = read_yolo(path, size)
    assert [row[:2] for row in read] == [row[:2] for row in found]
    for (*_, a), (*_, b) in zip(read, found, strict=True):
        assert as_float32(a) == as_float32(b)


def test_a_tiny_corner_survives_yolos_fractions(tmp_path):
    box = tuple(np.float32([0.00123456789, 3e-4, 600, 480]).tolist())
    (tmp_path / "a.txt").write_text(yolo_text([(0, 0.5, box)], (640, 480)))
    ((_, _, read),) = read_yolo(tmp_path / "a.txt", (640, 480))
    assert as_float32(read) == as_float32(box)


@pytest.mark.parametrize("text", ["0 .5 .5 .1 .1", "cat .5 .5 .1 .1 1", "0 .5 .5 .1 .1 high"])
def test_a_damaged_line_is_named(tmp_path, text):
    (tmp_path / "a.txt").write_text(f"\n{text}\n")
    with pytest.raises(UserError, match=r"a\.txt: line 2: "):
        read_yolo(tmp_path / "a.txt", (10, 10))


def test_a_byte_order_mark_is_no_part_of_the_first_label(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff1 .5 .5 .2 .2 .75\r\n0 .5 .5 .2 .2 .5\r\n", encoding="utf-8")
    assert [row[:2] for row in read_yolo(tmp_path / "a.txt", (10, 10))] == [(1, 0.75), (0, 0.5)]


def test_labelling_tools_want_no_scores():
    found = [(3, 0.5, (0, 0, 5, 10))]
    assert yolo_text(found, (10, 20), scores=False) == "3 0.25 0.25 0.5 0.5\n"
    assert yolo_text(found, (10, 20)) == "3 0.25 0.25 0.5 0.5 0.5\n"
