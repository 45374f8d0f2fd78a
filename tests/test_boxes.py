"""Boxes: exact rational arithmetic and the VOC devkit's own formula stand against the arrays."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import (
    MAX_LOG_GROWTH,
    Keep,
    area,
    as_boxes,
    clip,
    decode_deltas,
    encode_deltas,
    exact_iou,
    intersection,
    iou,
    nms,
    soft_nms,
)


@st.composite
def box_arrays(draw: st.DrawFn, smallest_side: int = 0, max_size: int = 12) -> np.ndarray:
    """Integer boxes as float32 ``[N, 4]``: every quantity of theirs is an exact rational."""
    corner, side = st.integers(0, 8), st.integers(smallest_side, 10)  # few: boxes touch, contain, repeat
    rows = draw(st.lists(st.tuples(corner, corner, side, side), max_size=max_size))
    return as_boxes([(x, y, x + width, y + height) for x, y, width, height in rows])


def pixels(box) -> set[tuple[int, int]]:
    """The definition of the convention: the pixels that an integer box covers."""
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def ratio_of_pixels(a, b) -> Fraction:
    shared, union = len(pixels(a) & pixels(b)), len(pixels(a) | pixels(b))
    return Fraction(shared, union) if union else Fraction(0)


# ---------------------------------------------------------------- areas and overlaps


@given(box_arrays(), box_arrays())
def test_areas_and_intersections_count_pixels(a, b):
    assert area(a).tolist() == [len(pixels(box)) for box in a]
    shared = intersection(a, b)
    assert shared.shape == (len(a), len(b))
    assert shared.tolist() == [[len(pixels(p) & pixels(q)) for q in b] for p in a]


@given(box_arrays(), box_arrays())
def test_iou_is_the_ratio_of_pixels_rounded_once(a, b):
    overlap, exact = iou(a, b), exact_iou(a, b)
    assert overlap.shape == exact.shape == (len(a), len(b))
    assert (overlap.dtype, exact.dtype) == (np.float32, np.float64)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            ratio = ratio_of_pixels(p, q)
            assert overlap[i, j] == np.float32(ratio.numerator) / np.float32(ratio.denominator)
            assert exact[i, j] == ratio.numerator / ratio.denominator


def test_a_hand_worked_table_of_overlaps():
    box = as_boxes([[0, 0, 4, 2]])
    others = as_boxes(
        [
            [0, 0, 4, 2],  # itself
            [2, 0, 6, 2],  # half of each: 4 of 12
            [4, 0, 8, 2],  # touches at an edge
            [4, 2, 5, 3],  # touches at a corner
            [1, 0, 3, 1],  # inside: 2 of 8
            [0.5, 0.5, 3.5, 1.5],  # fractions of pixels: 3 of 8
            [2, 1, 2, 9],  # no width
            [3, 2, 1, 0],  # inverted
        ]
    )
    expected = np.float32([1, 1 / 3, 0, 0, 0.25, 0.375, 0, 0])
    assert iou(box, others)[0].tolist() == expected.tolist()
    assert area(others).tolist() == [8, 8, 8, 1, 2, 3, 0, 0]
    assert iou(others[-2:], others[-2:]).tolist() == [[0, 0], [0, 0]]  # and no division by zero


@given(box_arrays(smallest_side=1), box_arrays(smallest_side=1))
def test_iou_is_symmetric_and_one_only_with_an_equal_box(a, b):
    overlap = iou(a, b)
    assert np.array_equal(overlap, iou(b, a).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    equal = (a[:, None] == b[None]).all(axis=2)
    assert np.array_equal(overlap == 1, equal)


def devkit_overlap(bb, bbgt) -> float:
    """VOCevaldet.m, line by line: 1-based boxes whose last row and column belong to them."""
    bi = [max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3])]
    iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
    if iw <= 0 or ih <= 0:
        return 0.0
    ua = (
        (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
        + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
        - iw * ih
    )
    return iw * ih / ua


@given(box_arrays(smallest_side=1), box_arrays(smallest_side=1))
def test_iou_of_boxes_read_from_voc_is_the_devkits(a, b):
    overlap = iou(a, b)
    back = np.array([1, 1, 0, 0])  # what the reader took off: (xmin - 1, ymin - 1, xmax, ymax)
    for i, p in enumerate((a + back).astype(int).tolist()):
        for j, q in enumerate((b + back).astype(int).tolist()):
            assert overlap[i, j] == np.float32(devkit_overlap(p, q))


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4), np.int64)])
def test_no_boxes_have_their_shape(empty):
    boxes = as_boxes(empty)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32
    some = as_boxes([[0, 0, 1, 1]])
    assert area(boxes).shape == (0,)
    assert iou(boxes, some).shape == (0, 1)
    assert iou(some, boxes).shape == (1, 0)
    assert clip(boxes, 5, 5).shape == (0, 4)
    assert encode_deltas(boxes, boxes).shape == (0, 4)
    assert decode_deltas(boxes, boxes).shape == (0, 4)
    assert nms(boxes, np.zeros(0, np.float32), 0.3).shape == (0,)
    assert nms(boxes, np.zeros(0, np.float32), 0.3).dtype == np.int64


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [[1, 2, 3]], [[[1, 2, 3, 4]]], 7])
def test_what_is_not_rows_of_four_is_refused(values):
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        as_boxes(values)


@given(box_arrays(), st.integers(1, 15), st.integers(1, 15))
def test_a_clipped_box_covers_what_it_shares_with_the_image(boxes, width, height):
    clipped = clip(boxes, width, height)
    assert clipped.dtype == np.float32
    assert np.array_equal(clip(clipped, width, height), clipped)
    image = pixels((0, 0, width, height))
    for before, after in zip(boxes, clipped, strict=True):
        assert pixels(after) == pixels(before) & image


def test_clipping_moves_every_corner_inside():
    boxes = as_boxes([[-3, -2.5, 99, 7.25], [20, 1, 30, 2], [-9, 4, -1, 5]])
    assert clip(boxes, 10, 8).tolist() == [[0, 0, 10, 7.25], [10, 1, 10, 2], [0, 4, 0, 5]]


@given(box_arrays(smallest_side=1), box_arrays(smallest_side=1))
def test_the_arguments_are_left_as_they_were(a, b):
    count = min(len(a), len(b))
    a, b, scores = a[:count], b[:count], np.linspace(0, 1, count, dtype=np.float32)
    for array in (a, b, scores):
        array.setflags(write=False)
    results = [
        area(a), intersection(a, b), iou(a, b), clip(a, 5, 5),
        encode_deltas(a, b), decode_deltas(a, b), nms(a, scores, 0.3),
    ]  # fmt: skip
    for result in results:
        assert not np.shares_memory(result, a)
        assert not np.shares_memory(result, b)
        assert not np.shares_memory(result, scores)


# ---------------------------------------------------------------- regression


def test_a_hand_worked_delta():
    box, target = as_boxes([[10, 20, 30, 60]]), as_boxes([[20, 20, 60, 40]])
    # Centres (20, 40) and (40, 30), sizes 20 x 40 and 40 x 20.
    deltas = encode_deltas(box, target)
    np.testing.assert_allclose(deltas, [[1, -0.25, np.log(2), -np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(decode_deltas(box, deltas), target, rtol=1e-6)


SIDES = st.floats(1, 50, width=32)
CORNERS = st.floats(-500, 500, width=32)
ROWS = st.lists(st.tuples(CORNERS, CORNERS, SIDES, SIDES, CORNERS, CORNERS, SIDES, SIDES), max_size=8)


@given(ROWS)
def test_decoding_inverts_encoding(rows):
    table = np.array(rows, np.float32).reshape(-1, 8)
    boxes, targets = (
        np.concatenate([t[:, :2], t[:, :2] + t[:, 2:]], axis=1) for t in (table[:, :4], table[:, 4:])
    )
    deltas = encode_deltas(boxes, targets)
    assert deltas.dtype == np.float32
    decoded = decode_deltas(boxes, deltas)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, targets, atol=0.01)


@given(box_arrays(smallest_side=1))
def test_no_delta_is_no_change(boxes):
    assert np.array_equal(decode_deltas(boxes, np.zeros_like(boxes)), boxes)
    assert not encode_deltas(boxes, boxes).any()


@given(box_arrays(smallest_side=1), st.integers(-20, 20), st.integers(1, 9))
def test_deltas_do_not_depend_on_where_the_boxes_lie_or_how_large_the_image_is(boxes, shift, factor):
    if len(boxes) < 2:
        return
    deltas = encode_deltas(boxes[:-1], boxes[1:])
    moved = boxes * np.float32(factor) + np.float32(shift)
    np.testing.assert_allclose(encode_deltas(moved[:-1], moved[1:]), deltas, atol=1e-5)


def test_absurd_deltas_stay_finite():
    boxes = as_boxes([[0, 0, 10, 10], [0, 0, 10, 10]])
    grown = decode_deltas(boxes, np.float32([[0, 0, 1000, 1000], [0, 0, -1000, -1000]]))
    sides = grown[:, 2:] - grown[:, :2]
    np.testing.assert_allclose(sides, 10 * np.exp([[MAX_LOG_GROWTH] * 2, [-MAX_LOG_GROWTH] * 2]), rtol=1e-3)


# ---------------------------------------------------------------- non-maximum suppression


def slow_nms(boxes, scores, threshold: Fraction) -> list[int]:
    """Take the best box that is left, the first of equals; drop what overlaps it by more."""
    left, kept = list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        kept.append(best)
        left = [i for i in left if i != best and ratio_of_pixels(boxes[best], boxes[i]) <= threshold]
    return kept


@given(
    box_arrays(max_size=25),
    st.sampled_from([Fraction(n, d) for n, d in ((0, 1), (3, 10), (1, 3), (1, 2), (7, 10), (1, 1))]),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_suppression_equals_the_greedy_definition(boxes, threshold, distinct_scores, random):
    # Few distinct scores and small integer boxes: ties, equal boxes and IoUs of just the threshold abound.
    scores = np.float32([random.randrange(distinct_scores) / 4 - 1 for _ in boxes])
    kept = nms(boxes, scores, float(threshold))
    assert kept.dtype == np.int64
    assert kept.tolist() == slow_nms(boxes, scores.tolist(), threshold)


def test_an_overlap_of_just_the_threshold_is_kept():
    boxes = as_boxes([[0, 0, 10, 1], [0, 0, 3, 1]])  # 3 of 10; as float32 that is a little more than 0.3
    scores = np.float32([2, 1])
    assert nms(boxes, scores, 0.3).tolist() == [0, 1]
    assert nms(boxes, scores, 0.2999).tolist() == [0]


def test_of_many_equal_boxes_with_equal_scores_the_first_is_kept():
    boxes = np.tile(as_boxes([[1, 2, 5, 9]]), (1000, 1))
    assert nms(boxes, np.ones(1000, np.float32), 0.5).tolist() == [0]
    assert nms(boxes, np.ones(1000, np.float32), 1.0).tolist() == list(range(1000))


def test_empty_boxes_suppress_nothing():
    boxes = as_boxes([[0, 0, 4, 4], [1, 1, 1, 3], [1, 1, 1, 3], [2, 2, 2, 2]])
    assert nms(boxes, np.float32([1, 4, 3, 2]), 0.0).tolist() == [1, 2, 3, 0]


def test_suppressing_twice_changes_nothing():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (300, 2))
    boxes = as_boxes(np.concatenate([corners, corners + rng.uniform(5, 40, (300, 2))], axis=1))
    scores = rng.standard_normal(300).astype(np.float32)
    kept = nms(boxes, scores, 0.3)
    assert 10 < len(kept) < 200
    assert (np.diff(scores[kept]) <= 0).all()
    assert nms(boxes[kept], scores[kept], 0.3).tolist() == list(range(len(kept)))
    overlaps = iou(boxes[kept], boxes[kept]) - np.eye(len(kept), dtype=np.float32)
    assert overlaps.max() <= np.float32(0.3)


# ---------------------------------------------------------------- soft-NMS


def soft_nms_by_definition(boxes, scores, sigma, lowest):
    """Probabilities, one box after the other."""
    probability = {i: 1 / (1 + math.exp(-float(score))) for i, score in enumerate(scores)}
    found = []
    while probability:
        best = max(probability, key=probability.__getitem__)  # the first of equals
        p = probability.pop(best)
        found.append((best, math.log(p / (1 - p))))
        for i in probability:
            overlap = float(iou(boxes[best : best + 1], boxes[i : i + 1])[0, 0])
            probability[i] *= math.exp(-(overlap**2) / sigma)
    return [(i, score) for i, score in found if score > lowest]


@given(box_arrays(smallest_side=1), st.data())
def test_soft_nms_is_its_definition_in_probabilities(boxes, data):
    distinct = st.lists(st.integers(-50, 50), min_size=len(boxes), max_size=len(boxes), unique=True)
    scores = np.float32(data.draw(distinct)) / 10
    sigma, lowest = (
        data.draw(st.sampled_from([0.1, 0.3, 1.0])),
        data.draw(st.sampled_from([-math.inf, -1.03])),
    )
    kept, lowered = soft_nms(boxes, scores, sigma, keep=Keep(lowest))
    expected = soft_nms_by_definition(boxes, scores, sigma, lowest)
    assert lowered.tolist() == sorted(lowered.tolist(), reverse=True)
    assert dict(zip(kept.tolist(), lowered.tolist(), strict=True)) == pytest.approx(dict(expected), abs=1e-4)


def test_soft_nms_leaves_boxes_that_touch_none_as_they_are_and_sure_ones_finite():
    boxes = as_boxes([(0, 0, 10, 10), (20, 0, 30, 10), (20, 0, 30, 10), (50, 0, 60, 10)])
    scores = np.float32([0.1, 90, 80, -0.3])
    kept, lowered = soft_nms(boxes, scores, sigma=0.5)
    assert kept.tolist() == [1, 0, 3, 2]
    assert lowered[:3].tolist() == scores[[1, 0, 3]].tolist()
    assert lowered[3] == pytest.approx(-math.log(math.e**2 - 1))  # of probability 1 exp(-2) is left


def test_soft_nms_stops_after_the_most_and_at_the_lowest():
    boxes = as_boxes([(0, 0, 10, 10)] * 3)
    scores = np.float32([1, 2, 3])
    assert soft_nms(boxes, scores, sigma=0.5, keep=Keep(most=2))[0].tolist() == [2, 1]
    assert soft_nms(boxes, scores, sigma=0.5, keep=Keep(lowest=3))[0].tolist() == []
    assert soft_nms(boxes[:0], scores[:0], sigma=0.5)[0].tolist() == []


# ---------------------------------------------------------------- several classes, and limits


@given(
    box_arrays(smallest_side=1),
    st.data(),
    st.sampled_from([None, 0.3]),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([1, 4, 100]),
)
def test_classes_are_suppressed_each_by_itself_and_the_best_of_all_are_kept(boxes, data, sigma, each, most):
    count = len(boxes)
    labels = np.array(
        data.draw(st.lists(st.sampled_from([0, 3, 7]), min_size=count, max_size=count)), np.int64
    )
    distinct = st.lists(st.integers(-50, 50), min_size=count, max_size=count, unique=True)
    scores = np.float32(data.draw(distinct)) / 10

    def suppressed(mine, *classes_and_limits):
        given = boxes[mine], scores[mine]
        if sigma is not None:
            return soft_nms(*given, sigma, *classes_and_limits)
        kept = nms(*given, 0.3, *classes_and_limits)
        return kept, scores[mine][kept]

    rows = []  # score, box
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        kept, lowered = suppressed(mine)
        alone = [(score, mine[i]) for i, score in zip(kept, lowered, strict=True) if score > -1]
        rows += alone[:each]
    rows = sorted(rows, key=lambda row: -row[0])[:most]
    kept, lowered = suppressed(np.arange(count), labels, Keep(-1, each, most))
    assert lowered.tolist() == [score for score, _ in rows]
    if len({score for score, _ in rows}) == len(rows):
        assert kept.tolist() == [i for _, i in rows]
