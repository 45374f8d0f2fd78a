"""The devkit's result files: boxes come back as the same float32, scores digit for digit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.detections.devkit import devkit_line, devkit_name, read_devkit
from spp_det.detections.types import Found
from spp_det.errors import UserError

NEAR_ZERO = 1e-8  # of a pixel: what lies nearer to 0 loses digits, but not 0

numbers = st.floats(0, 5000, width=32).filter(lambda value: value == 0 or value >= NEAR_ZERO)
boxes = st.tuples(numbers, numbers, numbers, numbers)
scores = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\n\r\x00"), min_size=1)


def as_float32(box):
    return np.float32(box).tolist()


@given(st.lists(st.builds(Found, names, st.sampled_from(["cat", "race_car"]), scores, boxes)))
def test_round_trip(found):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cat", "race_car"):
            lines = [devkit_line(row) for row in found if row.name == name]
            (Path(folder) / devkit_name(name)).write_text("".join(lines), encoding="utf-8")
        read = read_devkit(Path(folder))
    assert [row[:3] for row in read] == [row[:3] for row in sorted(found, key=lambda row: row.name)]
    assert sorted(as_float32(row.box) for row in read) == sorted(as_float32(row.box) for row in found)


def test_files_of_other_programs_are_read(tmp_path):
    (tmp_path / "comp3_det_val_dog.txt").write_text("000005 0.917 1.0 2.0 3.0 4.0\r\n\r\n")
    (tmp_path / "comp4_cls_val_dog.txt").write_text("000005 0.9\n")
    assert read_devkit(tmp_path) == [Found("000005", "dog", 0.917, (0, 1, 3, 4))]


@pytest.mark.parametrize("text", ["5 0.9 1 2 3", "5 0.9 1 2 3 x", "5"])
def test_a_damaged_line_is_named(tmp_path, text):
    (tmp_path / "comp4_det_test_dog.txt").write_text(f"5 0.9 1 2 3 4\n{text}\n")
    with pytest.raises(UserError, match=r"comp4_det_test_dog\.txt: line 2: "):
        read_devkit(tmp_path)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("comp3_det_val_dog.txt", "dog"),
        ("comp4_det_trainval_race_car.txt", "race_car"),
        ("comp4_det_test_2012_race_car.txt", "race_car"),
        ("comp4_det_minival_dog.txt", "dog"),
        ("comp4_d8ab3c4e-1111-4222-8333-0123456789ab_det_test_race_car.txt", "race_car"),
    ],
)
def test_the_r_cnn_familys_names_for_result_files(tmp_path, name, class_name):
    (tmp_path / name).write_text("\ufeff000005 0.917 1.0 2.0 3.0 4.0\n", encoding="utf-8")
    assert read_devkit(tmp_path) == [Found("000005", class_name, 0.917, (0, 1, 3, 4))]


def test_files_of_two_runs_are_not_added_up(tmp_path):
    for name in ("comp3_det_test_dog.txt", "comp4_det_test_dog.txt", "comp4_det_test_cat.txt"):
        (tmp_path / name).write_text("5 0.9 1 2 3 4\n")
    with pytest.raises(UserError, match=r"comp4_.*_dog\.txt and comp3_det_test_dog\.txt are of the class"):
        read_devkit(tmp_path)
