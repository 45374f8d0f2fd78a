"""Recall of proposals against a table worked by hand, a second implementation, and what must hold."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.evaluation.recall import RecallResult, evaluate_recall


def image(*objects, name="image"):
    """A record from rows ``(x1, y1, x2, y2, label, difficult, crowd)``; the last three may be left out."""
    rows = [(*row, *(0, False, False)[len(row) - 4 :]) for row in objects]
    return Record(
        image_id=name,
        path=Path(name + ".jpg"),
        boxes=as_boxes([row[:4] for row in rows]),
        labels=np.array([row[4] for row in rows], np.int64),
        difficult=np.array([row[5] for row in rows], np.bool_),
        crowd=np.array([row[6] for row in rows], np.bool_),
    )


def evaluate(records, windows, classes=("a",), thresholds=(0.5, 0.7)) -> RecallResult:
    return evaluate_recall(Dataset(tuple(classes), records), [as_boxes(w) for w in windows], thresholds)


# ---- tables worked by hand --------------------------------------------------------------------


def test_a_table_worked_by_hand():
    # Objects of 10 x 10 and the share of each that its best window, cut from its left, covers:
    #   first image   a .7 (and .4)   b .5      second image   a .2   b 1
    records = [image((0, 0, 10, 10, 0), (50, 0, 60, 10, 1)), image((0, 0, 10, 10, 0), (20, 20, 30, 30, 1))]
    windows = [
        [(0, 0, 7, 10), (0, 0, 4, 10), (50, 0, 55, 10)],
        [(0, 0, 2, 10), (20, 20, 30, 30), (80, 80, 90, 90), (0, 0, 90, 90), (1, 80, 2, 81)],
    ]
    result = evaluate(records, windows, classes=("a", "b", "c"))
    a, b, none = result.per_class.values()
    assert (a.objects, a.recall, a.abo) == (2, {0.5: 0.5, 0.7: 0.5}, pytest.approx(0.45))
    assert (b.objects, b.recall, b.abo) == (2, {0.5: 1.0, 0.7: 0.5}, pytest.approx(0.75))
    assert none.objects == 0
    assert isnan(none.abo)
    assert all(map(isnan, none.recall.values()))
    assert result.overall.objects == 4
    assert result.overall.recall == {0.5: 0.75, 0.7: 0.5}
    assert result.overall.abo == pytest.approx(0.6)
    assert result.mabo == pytest.approx(0.6)
    assert result.windows == 4.0


def test_the_mean_over_classes_is_not_that_over_objects():
    record = image((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 1), (60, 0, 70, 10, 1))
    result = evaluate([record], [[(0, 0, 10, 10)]], classes=("a", "b"))
    assert result.overall.abo == 0.25
    assert result.mabo == 0.5


def test_difficult_and_crowd_objects_do_not_count():
    near, far = (0, 0, 10, 10), (50, 50, 60, 60)
    windows = [[near]]
    for flags in ((True, False), (False, True), (True, True)):
        result = evaluate([image(near, (*far, 0, *flags))], windows)
        assert (result.overall.objects, result.overall.recall[0.5], result.overall.abo) == (1, 1.0, 1.0)
    assert evaluate([image(near, far)], windows).overall.recall[0.5] == 0.5


def test_one_window_serves_several_objects():
    record = image((0, 0, 10, 10), (1, 0, 11, 10))
    assert evaluate([record], [[(0, 0, 11, 10)]]).overall.recall == {0.5: 1.0, 0.7: 1.0}


def test_an_overlap_of_just_the_threshold_suffices():
    for tenths in range(1, 11):
        result = evaluate([image((0, 0, 10, 10))], [[(0, 0, tenths, 10)]], thresholds=(tenths / 10,))
        assert result.overall.recall == {tenths / 10: 1.0}


def test_windows_of_another_image_cover_nothing():
    records = [image((0, 0, 10, 10)), image((0, 0, 10, 10))]
    assert evaluate(records, [[(0, 0, 10, 10)], []]).overall.recall[0.5] == 0.5


def test_no_windows_no_objects_no_images():
    result = evaluate([image((0, 0, 10, 10))], [[]])
    assert (result.overall.recall[0.5], result.overall.abo, result.windows) == (0.0, 0.0, 0.0)
    result = evaluate([image()], [[(0, 0, 10, 10)]])
    assert (result.overall.objects, result.windows) == (0, 1.0)
    assert isnan(result.overall.abo)
    assert isnan(result.mabo)
    assert isnan(evaluate([], []).windows)


# ---- a second implementation ------------------------------------------------------------------


def slow(records, windows, threshold, label=None):
    """In fractions, one object and one window at a time: the covered, all that count, the sum of overlaps."""
    covered, objects, total = 0, 0, Fraction(0)
    for record, boxes in zip(records, windows, strict=True):
        for index in range(len(record)):
            if record.difficult[index] or record.crowd[index] or label not in (None, record.labels[index]):
                continue
            ax1, ay1, ax2, ay2 = map(int, record.boxes[index])
            best = Fraction(0)
            for bx1, by1, bx2, by2 in boxes:
                width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
                if width > 0 and height > 0:
                    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
                    best = max(best, Fraction(width * height, union))
            covered += best >= threshold
            objects += 1
            total += best
    return covered, objects, total


box = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 8)] * 2).map(
    lambda row: (row[0], row[1], row[0] + row[2], row[1] + row[3])
)
objects_of_an_image = st.lists(
    st.tuples(box, st.integers(0, 1), st.booleans(), st.booleans()).map(lambda row: (*row[0], *row[1:])),
    max_size=4,
)
scenes = st.lists(st.tuples(objects_of_an_image, st.lists(box, max_size=6)), max_size=4)
tenths = st.integers(1, 10)


@given(scenes, tenths)
def test_the_figures_are_those_of_a_slow_second_implementation(scene, tenth):
    records = [image(*objects) for objects, _ in scene]
    windows = [boxes for _, boxes in scene]
    result = evaluate(records, windows, classes=("a", "b"), thresholds=(tenth / 10,))
    parts = [(None, result.overall), (0, result.per_class["a"]), (1, result.per_class["b"])]
    for label, part in parts:
        covered, objects, total = slow(records, windows, Fraction(tenth, 10), label)
        assert part.objects == objects
        if objects:
            assert part.recall[tenth / 10] == pytest.approx(covered / objects, abs=1e-12)
            assert part.abo == pytest.approx(float(total / objects), abs=1e-12)
        else:
            assert isnan(part.abo)


@given(scenes, box, st.randoms(use_true_random=False))
def test_more_windows_cover_no_less_and_their_order_does_not_matter(scene, extra, random):
    records = [image(*objects) for objects, _ in scene]
    windows = [boxes for _, boxes in scene]
    before = evaluate(records, windows, classes=("a", "b"))
    shuffled = [random.sample(boxes, len(boxes)) for boxes in windows]
    assert str(evaluate(records, shuffled, classes=("a", "b"))) == str(before)  # NaN is as NaN
    after = evaluate(records, [[*boxes, extra] for boxes in windows], classes=("a", "b"))
    if before.overall.objects:
        assert after.overall.abo >= before.overall.abo
        assert all(after.overall.recall[t] >= before.overall.recall[t] for t in (0.5, 0.7))
        assert 0 <= before.overall.recall[0.7] <= before.overall.recall[0.5] <= 1


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_window_that_is_no_number_is_refused(value):
    with pytest.raises(UserError, match="image image"):
        evaluate([image((0, 0, 10, 10))], [[(0, 0, 10, value)]])


@pytest.mark.parametrize("threshold", [0, -0.5, 1.1, np.nan])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        evaluate([], [], thresholds=(0.5, threshold))


def test_there_is_one_array_an_image():
    with pytest.raises(ValueError, match="0 images for 1"):
        evaluate([image()], [])
    with pytest.raises(ValueError, match=r"\[4\] must be \[N, 4\]"):
        evaluate_recall(Dataset(("a",), [image()]), [np.zeros(4, np.float32)])


def test_the_arguments_are_left_as_they_were():
    record = image((0, 0, 10, 10))
    locked = replace(record, boxes=record.boxes.copy())
    windows = as_boxes([(0, 0, 10, 10)])
    locked.boxes.setflags(write=False)
    windows.setflags(write=False)
    assert evaluate_recall(Dataset(("a",), [locked]), [windows]).overall.abo == 1.0
