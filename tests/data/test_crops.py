"""Crops for pre-training: what is cut, what counts as background, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import as_boxes, iou
from spp_det.data.crops import BACKGROUND_IOU, background_windows, cut, jitter, record_crops
from spp_det.data.records import Record

POSITIONS = np.stack([*np.mgrid[:60, :80], np.zeros((60, 80))], axis=2).astype(np.uint8)  # [row, column, 0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_square_box_is_cut_exactly() -> None:
    crop = cut(POSITIONS, as_boxes([(10, 20, 26, 36)]), size=16)[0]
    assert np.array_equal(crop, POSITIONS[20:36, 10:26])


def test_a_flat_box_becomes_the_square_around_it() -> None:
    crop = cut(POSITIONS, as_boxes([(10, 24, 26, 32)]), size=16)[0]
    assert np.array_equal(crop, POSITIONS[20:36, 10:26])


def test_context_widens_the_square() -> None:
    crop = cut(POSITIONS, as_boxes([(14, 24, 22, 32)]), size=16, context=1.0)[0]
    assert np.array_equal(crop, POSITIONS[20:36, 10:26])


def test_a_square_that_leaves_the_image_moves_into_it() -> None:
    crop = cut(POSITIONS, as_boxes([(76, 0, 80, 40)]), size=40)[0]
    assert np.array_equal(crop, POSITIONS[:40, 40:])


def test_an_image_smaller_than_the_square_goes_on_as_its_mirror() -> None:
    crop = cut(POSITIONS, as_boxes([(0, 0, 80, 60)]), size=80)[0]
    assert np.array_equal(crop[10:70], POSITIONS)
    assert np.array_equal(crop[:10], POSITIONS[:10][::-1])
    assert np.array_equal(crop[70:], POSITIONS[50:][::-1])


def test_no_boxes_no_crops() -> None:
    assert cut(POSITIONS, as_boxes([]), size=8).shape == (0, 8, 8, 3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.data())
def test_every_box_gives_a_crop(width: int, height: int, size: int, data: st.DataObject) -> None:
    x1, y1 = data.draw(st.floats(-20, width)), data.draw(st.floats(-20, height))
    box = (x1, y1, x1 + data.draw(st.floats(0.01, 200)), y1 + data.draw(st.floats(0.01, 200)))
    image = np.full((height, width, 3), 7, np.uint8)
    crop = cut(image, as_boxes([box]), size)
    assert crop.shape == (1, size, size, 3)
    assert (crop == 7).all()


def test_jitter_stays_within_its_amount() -> None:
    boxes = as_boxes([(10, 10, 30, 50)] * 500)
    moved = jitter(rng(), boxes, 0.1)
    centres, sizes = (moved[:, :2] + moved[:, 2:]) / 2, moved[:, 2:] - moved[:, :2]
    assert np.abs(centres - [20, 30]).max(axis=0) == pytest.approx([2, 4], rel=0.05)
    assert np.abs(np.log(sizes / [20, 40])).max() == pytest.approx(0.1, rel=0.05)
    assert np.array_equal(jitter(rng(), boxes, 0), boxes)
    assert moved.dtype == np.float32


@pytest.mark.parametrize("boxes", [[], [(10, 10, 50, 50)], [(0, 0, 40, 60), (40, 0, 80, 60)]])
def test_background_lies_inside_and_off_the_objects(boxes: list[tuple[int, ...]]) -> None:
    objects = as_boxes(boxes)
    windows = background_windows(rng(), 80, 60, objects, 200)
    assert 100 < len(windows) <= 200
    assert iou(windows, objects).max(initial=0) < BACKGROUND_IOU
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] <= [80, 60]).all()
    assert (windows[:, 2:] - windows[:, :2]).min() >= 16


def test_background_is_partly_parts_of_objects() -> None:
    objects = as_boxes([(30, 20, 60, 50)])
    overlap = iou(background_windows(rng(), 200, 200, objects, 200), objects)
    assert (overlap > 0.05).mean() > 0.2


def test_no_room_no_background() -> None:
    assert background_windows(rng(), 15, 60, as_boxes([]), 5).shape == (0, 4)
    assert background_windows(rng(), 16, 16, as_boxes([(0, 0, 16, 16)]), 5).shape == (0, 4)


def test_record_crops_leaves_out_difficult_and_crowd_objects_and_keeps_off_them() -> None:
    record = Record(
        image_id="a",
        path=Path("a.jpg"),
        boxes=as_boxes([(0, 0, 20, 20), (20, 0, 80, 60), (30, 30, 40, 40)]),
        labels=np.array([2, 1, 0]),
        difficult=np.array([False, True, False]),
        crowd=np.array([False, False, True]),
    )
    image = np.zeros((60, 80, 3), np.uint8)
    image[:20, :20] = 255
    crops, labels = record_crops(rng(), image, record, background_label=3, size=24, backgrounds=4, shake=0)
    assert crops.shape == (len(labels), 24, 24, 3)
    assert labels.dtype == np.int64
    assert labels[0] == 2
    assert (crops[0] == 255).all()
    assert set(labels[1:]) <= {3}
    again, _ = record_crops(rng(), image, record, background_label=3, size=24, backgrounds=4, shake=0)
    assert np.array_equal(crops, again)


def test_an_image_without_objects_is_all_background() -> None:
    nothing = np.zeros(0, np.bool_)
    record = Record("a", Path("a.jpg"), as_boxes([]), np.zeros(0, np.int64), nothing, nothing)
    crops, labels = record_crops(rng(), POSITIONS, record, background_label=6, size=8)
    assert labels.tolist() == [6, 6]
    assert crops.shape == (2, 8, 8, 3)
