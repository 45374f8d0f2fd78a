"""Precision-recall curves and the threshold of best F1, by hand and against every threshold tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.evaluation.curves import Threshold, best_f1, curve, pooled_curve
from spp_det.evaluation.voc import ClassResult, VocResult


def points(rows, positives):
    """A curve from rows ``(score, hit)``."""
    return curve(
        np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], bool), positives
    )


def test_worked_by_hand():
    # 4 objects: T F T F T; F1 = 2/5, 2/6, 4/7, 4/8, 6/9
    measured = points([(0.9, 1), (0.8, 0), (0.7, 1), (0.6, 0), (0.5, 1)], 4)
    np.testing.assert_array_equal(measured.score, [0.9, 0.8, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(measured.precision, [1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])
    np.testing.assert_allclose(measured.recall, [1 / 4, 1 / 4, 1 / 2, 1 / 2, 3 / 4])
    np.testing.assert_allclose(measured.f1, [2 / 5, 2 / 6, 4 / 7, 4 / 8, 6 / 9])
    assert best_f1(measured) == Threshold(0.5, 0.6, 0.75, pytest.approx(2 / 3))


def test_equal_scores_are_one_point():
    # Cut between them, the first two would give precision 1.
    measured = points([(0.9, 1), (0.9, 0), (0.9, 1), (0.2, 0)], 2)
    np.testing.assert_array_equal(measured.score, [0.9, 0.2])
    np.testing.assert_allclose(measured.precision, [2 / 3, 1 / 2])
    assert best_f1(measured).score == 0.9


def test_equal_f1_is_equal_in_floats_too():
    # 3 of 5 and 4 of 8, of 4 objects: 2/3 both, but not if it is made of .6 and .75 and of .5 and 1.
    rows = [(0.9, 1), (0.9, 1), (0.9, 1), (0.9, 0), (0.9, 0), (0.8, 1), (0.8, 0), (0.8, 0)]
    assert best_f1(points(rows, 4)).score == 0.9


def test_of_equal_f1_the_highest_score_wins():
    measured = points([(0.9, 1), (0.8, 0), (0.7, 0), (0.6, 1)], 2)  # F1 2/3, 2/4, 2/5, 4/6
    assert measured.f1[0] == measured.f1[3]
    assert best_f1(measured).score == 0.9


@pytest.mark.parametrize(("rows", "positives"), [([], 3), ([], 0), ([(0.5, 0)], 3), ([(0.5, 0)], 0)])
def test_where_nothing_is_found_nothing_is_recommended(rows, positives):
    assert best_f1(points(rows, positives)) is None


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12), st.integers(0, 3))
def test_no_threshold_is_better(rows, missed):
    positives = sum(hit for _, hit in rows) + missed
    best = best_f1(points(rows, positives))

    def f1_at(threshold):
        kept = [hit for score, hit in rows if score >= threshold]
        return 2 * sum(kept) / (len(kept) + positives) if kept else 0.0

    tried = {threshold: f1_at(threshold) for threshold in range(-4, 5)}
    if best is None:
        assert max(tried.values()) == 0
    else:
        assert best.f1 == pytest.approx(max(tried.values()))
        assert best.f1 == pytest.approx(tried[int(best.score)])
        assert all(f1 < best.f1 - 1e-9 for threshold, f1 in tried.items() if threshold > best.score)


def test_pooled_is_the_curve_of_all_classes_together():
    def result(scores, hit, positives):
        nothing = np.zeros(len(scores))
        return ClassResult(0, 0, nothing, nothing, np.array(scores), np.array(hit, bool), positives)

    both = VocResult(0, 0, {"a": result([0.9, 0.3], [1, 0], 1), "b": result([0.5], [1], 2)})
    pooled = pooled_curve(both)
    np.testing.assert_array_equal(pooled.score, [0.9, 0.5, 0.3])
    np.testing.assert_allclose(pooled.recall, [1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(pooled.precision, [1, 1, 2 / 3])
    assert len(pooled_curve(VocResult(0, 0, {})).score) == 0
