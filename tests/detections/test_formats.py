"""Detections as text: what is written reads back digit for digit; what is damaged is named by its line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.detections.formats import (
    CSV_HEADER,
    Found,
    devkit_line,
    devkit_name,
    read_csv,
    read_devkit,
    read_yolo,
    write_csv,
    yolo_text,
)
from spp_det.errors import UserError

YOLO, DEVKIT = 4e-7, 1e-8  # of the farther corner, of a pixel: what lies nearer to 0 loses digits, but not 0
NUMBERS = st.floats(0, 5000, width=32)


def corners(numbers):
    return st.tuples(numbers, numbers, numbers, numbers)


def told_by_fractions(box):
    """The box with 0 for what YOLO's fractions cannot tell from it."""
    farther = np.maximum(box[:2], box[2:]).tolist() * 2
    return tuple(0.0 if value < YOLO * far else value for value, far in zip(box, farther, strict=True))


boxes = corners(NUMBERS)
scores = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\n\r\x00"), min_size=1)


@given(st.lists(st.builds(Found, names, names, scores, boxes)))
def test_csv(found):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detections.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            write_csv(iter(found), file)
        assert read_csv(path) == found


@given(
    st.lists(st.tuples(st.integers(0, 99), scores, boxes.map(told_by_fractions))),
    st.tuples(*[st.integers(1, 5000)] * 2),
)
def test_yolo(found, size):
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


def as_float32(box):
    return np.float32(box).tolist()


devkit_boxes = corners(st.just(0.0) | NUMBERS.filter(lambda value: value >= DEVKIT))


@given(st.lists(st.builds(Found, names, st.sampled_from(["cat", "race_car"]), scores, devkit_boxes)))
def test_devkit(found):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cat", "race_car"):
            lines = [devkit_line(row) for row in found if row.name == name]
            (Path(folder) / devkit_name(name)).write_text("".join(lines), encoding="utf-8")
        read = read_devkit(Path(folder))
    assert [row[:3] for row in read] == [row[:3] for row in sorted(found, key=lambda row: row.name)]
    assert sorted(as_float32(row.box) for row in read) == sorted(as_float32(row.box) for row in found)


def test_devkit_files_of_others_are_read(tmp_path):
    (tmp_path / "comp3_det_val_dog.txt").write_text("000005 0.917 1.0 2.0 3.0 4.0\r\n\r\n")
    (tmp_path / "comp4_cls_val_dog.txt").write_text("000005 0.9\n")
    assert read_devkit(tmp_path) == [Found("000005", "dog", 0.917, (0, 1, 3, 4))]


@pytest.mark.parametrize("text", ["5 0.9 1 2 3", "5 0.9 1 2 3 x", "5"])
def test_a_damaged_line_of_the_devkit_is_named(tmp_path, text):
    (tmp_path / "comp4_det_test_dog.txt").write_text(f"5 0.9 1 2 3 4\n{text}\n")
    with pytest.raises(UserError, match=r"comp4_det_test_dog\.txt: line 2: "):
        read_devkit(tmp_path)


@pytest.mark.parametrize("text", ["0 .5 .5 .1 .1", "cat .5 .5 .1 .1 1", "0 .5 .5 .1 .1 high"])
def test_a_damaged_line_of_yolo_is_named(tmp_path, text):
    (tmp_path / "a.txt").write_text(f"\n{text}\n")
    with pytest.raises(UserError, match=r"a\.txt: line 2: "):
        read_yolo(tmp_path / "a.txt", (10, 10))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'file'"),
        ("file,class,score\n", "no column 'x1'"),
        (",".join(CSV_HEADER) + "\na,b,high,1,2,3,4\n", "line 2: .*high"),
        (",".join(CSV_HEADER) + "\na,b,1,1,2\n", "line 2: "),
    ],
)
def test_a_damaged_csv_is_named(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=rf"a\.csv: .*{said}|a\.csv: {said}"):
        read_csv(tmp_path / "a.csv")
