"""Which windows are examples of what, against a hand-made scene and against the definitions, slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.boxes import as_boxes, iou
from spp_det.training.windows import LabelledWindows, spread_out
from tests.training.scenes import record, scenes


def overlap(a, b) -> float:
    """IoU of two boxes, once more."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def part_inside(a, b) -> float:
    """Of box a's area, what lies in box b; boxes are of a pixel at least."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]))


# Two raccoons (1) side by side, a kangaroo (0) far off, and a difficult kangaroo.
OBJECTS = [[0, 0, 10, 10], [10, 0, 20, 10], [50, 50, 70, 70], [80, 80, 90, 90]]
LABELS = [1, 1, 0, 0]
PROPOSALS = as_boxes(
    [
        [0, 0, 10, 5],  # 4: half of the first raccoon
        [4, 0, 14, 10],  # 5: 6/14 of the first, 4/16 of the second
        [0, 0, 20, 10],  # 6: half of each: the first counts
        [50, 50, 70, 70],  # 7: exactly the kangaroo
        [80, 80, 90, 88],  # 8: most of the difficult kangaroo
        [30, 30, 40, 40],  # 9: nothing
    ]
)


@pytest.fixture
def windows() -> LabelledWindows:
    return LabelledWindows.of(record(OBJECTS, LABELS, difficult=[3]), PROPOSALS)


def test_objects_come_first_then_the_proposals(windows):
    assert windows.objects == 4
    assert windows.boxes.tolist() == [*OBJECTS, *PROPOSALS.tolist()]
    assert windows.boxes.dtype == np.float32
    assert windows.overlaps.shape == (10, 4)
    assert windows.overlaps[6].tolist() == [0.5, 0.5, 0, 0]


def test_windows_near_an_object_belong_to_the_one_they_overlap_most(windows):
    index, target = windows.near(0.5)
    assert index.tolist() == [0, 1, 2, 4, 6, 7]
    assert target.tolist() == [0, 1, 2, 0, 0, 2]
    index, target = windows.near(0.4)
    assert dict(zip(index.tolist(), target.tolist(), strict=True))[5] == 0


def test_positives_are_the_objects_alone_or_windows_that_near(windows):
    index, labels = windows.positives(1.0)
    assert index.tolist() == [0, 1, 2]  # not the proposal that equals one, nor the difficult object
    assert labels.tolist() == [1, 1, 0]
    index, labels = windows.positives(0.5)
    assert index.tolist() == [0, 1, 2, 4, 6, 7]
    assert labels.tolist() == [1, 1, 0, 1, 1, 0]


def test_overlaps_with_a_class_count_difficult_objects(windows):
    overlaps = windows.class_overlaps(3)
    assert overlaps.shape == (10, 3)
    assert overlaps[8, 0] == pytest.approx(0.8)
    assert overlaps[5, 1] == pytest.approx(6 / 14)
    assert overlaps[9].tolist() == [0, 0, 0]
    assert (overlaps[:, 2] == 0).all()


def test_a_window_deep_inside_a_crowd_is_no_negative_of_its_class():
    """Its IoU with the crowd is 0.01."""
    crowd = record([[0, 0, 100, 100], [0, 0, 100, 100]], [0, 1], crowd=[0])
    windows = LabelledWindows.of(crowd, as_boxes([[40, 40, 50, 50], [95, 0, 105, 10]]))
    assert windows.class_overlaps(2)[2] == pytest.approx([1, 0.01])
    assert windows.class_overlaps(2)[3] == pytest.approx([0.5, 50 / 10050])


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_difficult_and_crowd_objects_are_no_examples(kind):
    windows = LabelledWindows.of(record([[0, 0, 10, 10]], [0], **{kind: [0]}), as_boxes([[0, 0, 10, 9]]))
    for min_iou in (0.5, 1.0):
        assert len(windows.positives(min_iou)[0]) == 0
    assert len(windows.near(0.5)[0]) == 0
    near = {"difficult": 0.9, "crowd": 1.0}[kind]
    assert windows.class_overlaps(1)[1, 0] == pytest.approx(near)  # but what is near them is no negative


def test_background_is_near_an_object_but_not_too_near(windows):
    """The third is near the difficult kangaroo, the fourth far from all."""
    assert windows.background(0.1, 0.5).tolist() == [5]
    assert windows.background(0.1, 0.6).tolist() == [4, 5, 6]
    assert windows.background(0, 0.1).tolist() == [9]


def test_objects_that_share_a_box_each_have_their_own_window():
    shared = record([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], [0, 1, 1], difficult=[0])
    windows = LabelledWindows.of(shared, np.zeros((0, 4), np.float32))
    index, labels = windows.positives(1.0)
    assert index.tolist() == [1, 2]
    assert labels.tolist() == [1, 1]
    assert windows.near(0.5)[1].tolist() == [1, 2]


@pytest.mark.parametrize("proposals", [PROPOSALS, np.zeros((0, 4), np.float32)])
def test_an_image_without_objects_has_windows_but_no_examples(proposals):
    windows = LabelledWindows.of(record([], []), proposals)
    assert windows.objects == 0
    assert windows.boxes.shape == proposals.shape
    assert windows.overlaps.shape == (len(proposals), 0)
    assert not windows.class_overlaps(2).any()
    for indices in (*windows.near(0.5), *windows.positives(1.0)):
        assert indices.shape == (0,)
        assert indices.dtype == np.int64


@settings(max_examples=80, deadline=None)
@given(scenes(), st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_examples_obey_their_definition(windows, min_iou):
    marked, boxes = windows.record, windows.boxes.tolist()
    wanted = {}
    for i, box in enumerate(boxes):
        ious = [overlap(box, other) for other in marked.boxes.tolist()]
        if ious:
            best = i if i < windows.objects else max(range(len(ious)), key=lambda j: ious[j])
            if ious[best] >= min_iou - 1e-6 and not marked.difficult[best] and not marked.crowd[best]:
                wanted[i] = best
    index, target = windows.near(min_iou)
    assert dict(zip(index.tolist(), target.tolist(), strict=True)) == wanted
    found = windows.class_overlaps(3)
    for label in range(3):
        mine = marked.labels == label
        for i, box in enumerate(boxes):
            shares = [overlap(box, other) for other in marked.boxes[mine].tolist()]
            shares += [part_inside(box, other) for other in marked.boxes[mine & marked.crowd].tolist()]
            assert found[i, label] == pytest.approx(max(shares, default=0), abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(scenes(), st.sampled_from([0.0, 0.3, 0.7]), st.integers(0, 2**32 - 1))
def test_windows_that_remain_are_spread_out_and_no_more_are_dropped_than_need_be(windows, max_iou, seed):
    rng = np.random.default_rng(seed)
    boxes, scores = windows.boxes, rng.integers(0, 5, len(windows.boxes)).astype(np.float32)
    candidates = rng.random(len(boxes)) < 0.7
    kept = spread_out(boxes, scores, candidates, max_iou)
    overlaps = iou(boxes, boxes)
    assert candidates[kept].all()
    assert (np.diff(scores[kept]) <= 0).all()
    between = overlaps[kept][:, kept]
    np.fill_diagonal(between, 0)
    assert (between <= max_iou).all()
    for dropped in set(np.flatnonzero(candidates)) - set(kept):
        assert any(overlaps[dropped, k] >= max_iou - 1e-6 and scores[k] >= scores[dropped] for k in kept)
