"""VOC average precision against tables worked by hand, and against a second implementation."""

from __future__ import annotations

import time
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.data.records import Dataset, Detections, Record
from spp_det.errors import UserError
from spp_det.evaluation.voc import VocResult, evaluate_voc

NOWHERE = (900, 900, 910, 910)  # a box that overlaps no object


def no_detections() -> Detections:
    """The detections of an image on which nothing was found."""
    return {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int64),
        "scores": np.zeros(0, np.float64),
    }


def image(*objects, name="image", crowd=False):
    """A record from rows ``(x1, y1, x2, y2, label, difficult)``; the last two may be left out."""
    rows = [(*row, *(0, False)[len(row) - 4 :]) for row in objects]
    difficult = np.array([bool(row[5]) for row in rows], np.bool_)
    return Record(
        image_id=name,
        path=Path(name + ".jpg"),
        boxes=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[4] for row in rows], np.int64),
        difficult=np.zeros_like(difficult) if crowd else difficult,
        crowd=difficult if crowd else np.zeros_like(difficult),
    )


def found(*rows) -> Detections:
    """The detections of one image from rows ``(x1, y1, x2, y2, score, label)``; label 0 if left out."""
    rows = [(*row, *(0,)[len(row) - 5 :]) for row in rows]
    return {
        "boxes": np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        "labels": np.array([row[5] for row in rows], np.int64),
        "scores": np.array([row[4] for row in rows], np.float32),
    }


def evaluate(records, detections, classes=("a",), iou_threshold=0.5) -> VocResult:
    return evaluate_voc(Dataset(tuple(classes), records), detections, iou_threshold)


def objects_in_a_row(count):
    """Objects that do not touch."""
    return [(20 * i, 0, 20 * i + 10, 10) for i in range(count)]


# ---- tables worked by hand --------------------------------------------------------------------


def test_ranked_list_worked_by_hand():
    # 4 objects over two images; the ranking is  T F T F T, and one object is never found.
    first, second, third, missed = objects_in_a_row(4)
    records = [image(first, second), image(third, missed)]
    detections = [
        found((*first, 0.9), (*NOWHERE, 0.8), (*second, 0.7)),
        found((*NOWHERE, 0.6), (*third, 0.5)),
    ]
    result = evaluate(records, detections).per_class["a"]
    assert result.positives == 4
    np.testing.assert_allclose(result.precision, [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    np.testing.assert_allclose(result.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])
    np.testing.assert_array_equal(result.scores, np.float32([0.9, 0.8, 0.7, 0.6, 0.5]))
    assert result.ap_area == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-12)
    # Recall 0, .1, .2 -> 1; .3, .4, .5 -> 2/3; .6, .7 -> 3/5; .8, .9, 1 are never reached.
    assert result.ap_11point == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11, abs=1e-12)


def test_the_envelope_raises_an_early_dip():
    # F T T: precision 0, 1/2, 2/3; both objects count with the 2/3 that comes later.
    first, second = objects_in_a_row(2)
    detections = [found((*NOWHERE, 0.9), (*first, 0.8), (*second, 0.7))]
    result = evaluate([image(first, second)], detections)
    assert result.mAP_area == pytest.approx(2 / 3, abs=1e-12)
    assert result.mAP_11point == pytest.approx(2 / 3, abs=1e-12)


def test_a_duplicate_is_a_false_positive():
    first, second = objects_in_a_row(2)
    detections = [found((*first, 0.9), (*first, 0.8), (*second, 0.7))]
    result = evaluate([image(first, second)], detections).per_class["a"]
    np.testing.assert_allclose(result.precision, [1, 1 / 2, 2 / 3])
    assert result.ap_area == pytest.approx((1 + 2 / 3) / 2, abs=1e-12)


def test_a_duplicate_does_not_take_the_second_best_object():
    # The devkit looks only at the object overlapped most, even when that one is found already.
    big, shifted = (0, 0, 100, 100), (10, 0, 110, 100)
    detections = [found((0, 0, 100, 100, 0.9), (2, 0, 102, 100, 0.8))]
    result = evaluate([image(big, shifted)], detections).per_class["a"]
    np.testing.assert_array_equal(result.recall, [0.5, 0.5])


def test_difficult_objects_are_ignored_and_so_are_their_detections():
    easy, hard = objects_in_a_row(2)
    records = [image(easy, (*hard, 0, True))]
    detections = [found((*hard, 0.9), (*hard, 0.8), (*easy, 0.7))]
    result = evaluate(records, detections).per_class["a"]
    assert (result.positives, result.ap_area, result.ap_11point) == (1, 1.0, 1.0)
    np.testing.assert_array_equal(result.scores, np.float32([0.7]))
    # Were the flag not read, there would be two objects and a duplicate before the second.
    unflagged = evaluate([image(easy, hard)], detections).per_class["a"]
    assert unflagged.ap_area == pytest.approx((1 + 2 / 3) / 2, abs=1e-12)


def test_crowd_counts_as_difficult():
    easy, hard = objects_in_a_row(2)
    detections = [found((*hard, 0.9), (*easy, 0.7))]
    assert evaluate([image(easy, (*hard, 0, True), crowd=True)], detections).mAP_area == 1.0


def test_an_easy_object_in_reach_does_not_save_a_detection_on_a_difficult_one():
    # IoU with the difficult object is larger, so the detection is ignored and the easy one missed.
    records = [image((0, 0, 10, 10, 0, True), (2, 0, 12, 10, 0, False))]
    result = evaluate(records, [found((0, 0, 10, 10, 0.9))]).per_class["a"]
    assert len(result.scores) == 0
    assert result.ap_area == 0.0


def test_equal_scores_rank_in_the_order_given():
    (obj,) = objects_in_a_row(1)
    right, wrong = found((*obj, 0.5)), found((*NOWHERE, 0.5))
    assert evaluate([image(obj), image()], [right, wrong]).mAP_area == 1.0
    assert evaluate([image(), image(obj)], [wrong, right]).mAP_area == 0.5
    assert evaluate([image(obj)], [found((*NOWHERE, 0.5), (*obj, 0.5))]).mAP_area == 0.5


def test_scores_are_not_rounded_before_ranking():
    (obj,) = objects_in_a_row(1)
    detections = found((*NOWHERE, 0.5), (*obj, 0.5))
    detections["scores"] = np.array([0.5, 0.5 + 1e-12])  # one and the same in float32
    assert evaluate([image(obj)], [detections]).mAP_area == 1.0


def test_of_objects_overlapped_equally_the_first_is_found():
    twin = (0, 0, 10, 10)
    result = evaluate([image(twin, twin)], [found((*twin, 0.9), (*twin, 0.8))]).per_class["a"]
    np.testing.assert_array_equal(result.recall, [0.5, 0.5])


def test_objects_without_detections_score_zero():
    result = evaluate([image((0, 0, 10, 10))], [no_detections()])
    assert (result.mAP_area, result.mAP_11point) == (0.0, 0.0)


def test_a_class_without_objects_is_not_defined_and_left_out_of_the_mean():
    obj = (0, 0, 10, 10)
    detections = [found((*obj, 0.9, 0), (*obj, 0.8, 1))]
    result = evaluate([image((*obj, 0))], detections, classes=("a", "b"))
    assert isnan(result.per_class["b"].ap_area)
    assert isnan(result.per_class["b"].ap_11point)
    np.testing.assert_array_equal(result.per_class["b"].precision, [0.0])
    assert np.isnan(result.per_class["b"].recall).all()
    assert (result.mAP_area, result.mAP_11point) == (1.0, 1.0)


def test_a_class_with_difficult_objects_only_is_not_defined():
    result = evaluate([image((0, 0, 10, 10, 0, True))], [found((0, 0, 10, 10, 0.9))])
    assert isnan(result.mAP_area)
    assert isnan(result.mAP_11point)


def test_no_images():
    assert isnan(evaluate([], []).mAP_area)


def test_another_class_in_the_same_place_is_no_object():
    obj = (0, 0, 10, 10)
    result = evaluate([image((*obj, 0))], [found((*obj, 0.9, 1))], classes=("a", "b"))
    assert result.per_class["a"].ap_area == 0.0


def test_the_threshold_itself_is_enough():
    obj = (0, 0, 10, 10)
    seven_tenths = [found((0, 0, 7, 10, 0.9))]  # in float32, 7/10 is less than 0.7
    assert evaluate([image(obj)], seven_tenths, iou_threshold=0.7).mAP_area == 1.0
    assert evaluate([image(obj)], seven_tenths, iou_threshold=0.701).mAP_area == 0.0


def test_recall_is_compared_with_the_eleven_points_in_the_protocols_floats():
    # 3 * 0.1 is a little more than 3 / 10, 6 * 0.1 and 7 * 0.1 are a little more than 6 / 10 and 7 / 10.
    objects = objects_in_a_row(10)
    for count, reached in ((2, 3), (3, 3), (4, 5), (6, 6), (7, 7), (8, 9), (10, 11)):
        detections = [found(*[(*obj, 0.9 - i / 100) for i, obj in enumerate(objects[:count])])]
        result = evaluate([image(*objects)], detections)
        assert result.mAP_area == pytest.approx(count / 10, abs=1e-12)
        assert result.mAP_11point == pytest.approx(reached / 11, abs=1e-12)


# ---- the door ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["scores", "boxes"])
def test_values_that_are_not_finite_are_refused(key, bad):
    detections = found((0, 0, 10, 10, 0.5), (0, 0, 10, 10, 0.4))
    detections[key].flat[-1] = bad
    with pytest.raises(UserError, match=r"image kangaroo: .*NaN or infinite") as error:
        evaluate([image((0, 0, 10, 10), name="kangaroo")], [detections])
    assert "\n" not in str(error.value)


def test_detections_that_do_not_fit_the_data_set_are_refused():
    records = [image((0, 0, 10, 10))]
    with pytest.raises(ValueError, match="2 detections for 1 images"):
        evaluate(records, [no_detections(), no_detections()])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\)"):
        evaluate(records, [found((0, 0, 10, 10, 0.5, 1))])
    with pytest.raises(ValueError, match=r"must be \[N, 4\], \[N\] and \[N\]"):
        evaluate(records, [{**found((0, 0, 10, 10, 0.5)), "scores": np.zeros(2, np.float32)}])


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(UserError, match="IoU threshold"):
        evaluate([image()], [no_detections()], iou_threshold=threshold)


def test_inputs_are_not_changed():
    record = image((0, 0, 10, 10), (20, 0, 30, 10, 0, True))
    detections = found((0, 0, 10, 10, 0.1), (20, 0, 30, 10, 0.9))
    before = {key: value.copy() for key, value in detections.items()}
    evaluate([record], [detections])
    for key, value in before.items():
        np.testing.assert_array_equal(detections[key], value)
    np.testing.assert_array_equal(record.difficult, [False, True])


# ---- a second implementation, straight from the definition, in exact arithmetic -----------------


def exact(box):
    return tuple(Fraction(float(v)) for v in box)


@lru_cache(maxsize=10_000)  # there are few different boxes of whole numbers
def exact_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return Fraction(width * height, areas - width * height)


def by_definition(records, detections, label, threshold):
    """``(area, eleven points)`` of one class, each a Fraction, or None where not defined.

    Exact but for one thing that is the protocol's own: recall meets the eleven points in float64.
    """
    positives = sum(
        1 for r in records for i in range(len(r)) if r.labels[i] == label and not (r.difficult | r.crowd)[i]
    )
    if positives == 0:
        return None
    pool = [
        (-float(d["scores"][i]), image_index, i)
        for image_index, d in enumerate(detections)
        for i in range(len(d["scores"]))
        if d["labels"][i] == label
    ]
    taken, curve, true, false = set(), [], 0, 0
    for _, image_index, i in sorted(pool):
        record, box = records[image_index], exact(detections[image_index]["boxes"][i])
        best, best_object = Fraction(-1), None
        for g in range(len(record)):
            if record.labels[g] == label and exact_iou(box, exact(record.boxes[g])) > best:
                best, best_object = exact_iou(box, exact(record.boxes[g])), g
        if best_object is not None and best >= threshold:
            if record.difficult[best_object] or record.crowd[best_object]:
                continue
            if (image_index, best_object) not in taken:
                taken.add((image_index, best_object))
                true += 1
            else:
                false += 1
        else:
            false += 1
        curve.append((Fraction(true, positives), Fraction(true, true + false)))

    def best_precision(reaches):
        return max((p for r, p in curve if reaches(r)), default=Fraction(0))

    steps = sorted({Fraction(0)} | {r for r, _ in curve})
    area = sum(((b - a) * best_precision(b.__le__) for a, b in pairwise(steps)), Fraction(0))
    eleven = [best_precision(lambda r, point=t * 0.1: float(r) >= point) for t in range(11)]
    return area, sum(eleven, Fraction(0)) / 11


@st.composite
def scenes(draw, real=False):
    """A few images of small whole-numbered boxes, so that ties of score and of IoU are common.

    ``real`` ones have any corners, detections near objects, and scores that are one and the same in float32.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    classes = draw(st.integers(1, 3))
    score_levels = draw(st.sampled_from([2, 5, 1000]))
    most_objects, most_detections = draw(st.integers(0, 12)), draw(st.integers(0, 15))

    def boxes(count):
        corners = generator.integers(0, 5, (count, 2))
        whole = np.concatenate([corners, corners + generator.integers(1, 6, (count, 2))], 1)
        return (whole + real * generator.uniform(-0.4, 0.4, whole.shape)).astype(np.float32)

    records, detections = [], []
    for index in range(draw(st.integers(1, 4))):
        count = int(generator.integers(0, most_objects + 1))
        flags = generator.random((2, count)) < 0.15
        labels = generator.integers(0, classes, count)
        records.append(Record(f"{index}", Path("x"), boxes(count), labels, flags[0], flags[1]))
        count = int(generator.integers(0, most_detections + 1))
        levels = generator.integers(0, score_levels, count) / score_levels
        scores = 0.5 + 1e-10 * levels if real else levels.astype(np.float32)
        labels = generator.integers(0, classes, count)
        detections.append({"boxes": boxes(count), "labels": labels, "scores": scores})
    return Dataset(tuple("abc"[:classes]), records), detections


@settings(max_examples=1000, deadline=None)
@given(
    scenes(), st.sampled_from([Fraction(1, 10), Fraction(1, 2), Fraction(3, 5), Fraction(7, 10), Fraction(1)])
)
def test_equals_the_definition(scene, threshold):
    assert_equals_the_definition(*scene, threshold)


@settings(max_examples=400, deadline=None)
@given(scenes(real=True), st.sampled_from([Fraction(1, 10), Fraction(1, 2), Fraction(3, 4)]))
def test_equals_the_definition_at_real_corners_and_scores_of_float64(scene, threshold):
    assert_equals_the_definition(*scene, threshold)


def assert_equals_the_definition(dataset, detections, threshold):
    result = evaluate_voc(dataset, detections, float(threshold))
    areas, elevens = [], []
    for label, name in enumerate(dataset.classes):
        expected = by_definition(dataset.records, detections, label, threshold)
        measured = result.per_class[name]
        if expected is None:
            assert isnan(measured.ap_area)
            assert isnan(measured.ap_11point)
            continue
        assert measured.ap_area == pytest.approx(float(expected[0]), abs=1e-9)
        assert measured.ap_11point == pytest.approx(float(expected[1]), abs=1e-9)
        areas.append(expected[0])
        elevens.append(expected[1])
    if areas:
        assert result.mAP_area == pytest.approx(float(sum(areas) / len(areas)), abs=1e-9)
        assert result.mAP_11point == pytest.approx(float(sum(elevens) / len(elevens)), abs=1e-9)
    else:
        assert isnan(result.mAP_area)


def test_a_whole_voc_test_split_takes_seconds():
    generator = np.random.default_rng(0)

    def boxes(count):
        corners = generator.uniform(0, 400, (count, 2))
        return np.concatenate([corners, corners + generator.uniform(5, 200, (count, 2))], 1).astype(
            np.float32
        )

    records, detections = [], []
    for index in range(5000):
        nothing = np.zeros(3, np.bool_)
        records.append(
            Record(f"{index}", Path("x"), boxes(3), generator.integers(0, 20, 3), nothing, nothing)
        )
        detections.append(
            {"boxes": boxes(20), "labels": generator.integers(0, 20, 20), "scores": generator.random(20)}
        )
    dataset = Dataset(tuple(f"class {i}" for i in range(20)), records)
    start = time.perf_counter()
    evaluate_voc(dataset, detections)
    assert (
        time.perf_counter() - start < 10
    )  # 100,000 detections; about half a second when the machine is free
