"""From scores to probabilities: the curve behind the data comes back, and figures are those by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from spp_det.model.probability import (
    FEWEST,
    Probabilities,
    calibration_error,
    fit_probabilities,
    reliability,
)


def drawn(slope: float, intercept: float, count: int, seed: int = 0):
    """Scores, and whether each detection is right, by a known curve."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-0.5, 0.8, count).astype(np.float32)
    return scores, rng.random(count) < 1 / (1 + np.exp(-(slope * scores + intercept)))


def test_the_curves_that_made_the_data_come_back():
    one, two = drawn(3.0, -1.0, 40_000), drawn(1.0, 0.5, 40_000, seed=1)
    labels = np.repeat([0, 1], 40_000)
    fitted, own = fit_probabilities(np.append(one[0], two[0]), labels, np.append(one[1], two[1]), 2)
    assert fitted is not None
    assert own.tolist() == [True, True]
    np.testing.assert_allclose(fitted.slope, [3.0, 1.0], rtol=0.06)
    np.testing.assert_allclose(fitted.intercept, [-1.0, 0.5], atol=0.06)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(FEWEST, 60), st.integers(FEWEST, 60), st.floats(0.3, 30))
def test_the_curve_is_the_best_of_platt_s_objective(seed, positives, negatives, spread):
    """By a general minimiser, of scores in any unit; of two heaps that no threshold need part."""
    rng = np.random.default_rng(seed)
    right = np.arange(positives + negatives) < positives
    scores = spread * (rng.normal(0, 1, len(right)) + right)
    fitted, _ = fit_probabilities(scores, np.zeros(len(right), np.int64), right, 1)
    if fitted is None:  # high scores are no better: rare, and then the best slope is no better than 0
        assert np.corrcoef(scores, right)[0, 1] < 0.05
        return
    target = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters):
        z = parameters[0] * scores / spread + parameters[1]
        return (target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z)).sum()

    found = loss((float(fitted.slope[0]) * spread, float(fitted.intercept[0])))
    assert found <= minimize(loss, (1.0, 0.0), method="Nelder-Mead").fun * (1 + 1e-3)


def test_probabilities_by_hand_are_finite_at_any_score_and_rank_as_scores_do():
    curves = Probabilities(np.float32([2, 1]), np.float32([0, 1]))
    scores = np.float32([0, 1, -1, 1e30, -1e30])
    p = curves(scores, np.array([0, 0, 1, 1, 1]))
    np.testing.assert_allclose(p, [0.5, 1 / (1 + np.exp(-2)), 0.5, 1, 0])
    boxes = np.arange(20, dtype=np.float32).reshape(5, 4)
    changed = curves.of({"boxes": boxes, "labels": np.array([0, 0, 1, 1, 1]), "scores": scores})
    assert changed["boxes"][:, 0].tolist() == [12, 4, 0, 8, 16]  # by probability, of equal ones the first
    assert changed["labels"].tolist() == [1, 0, 0, 1, 1]
    assert (np.diff(changed["scores"]) <= 0).all()
    assert changed["scores"].dtype == np.float32


def test_a_class_with_few_detections_gets_the_curve_of_all():
    scores, right = drawn(2.0, 0.0, 2000)
    labels = np.zeros(2000, np.int64)
    labels[np.flatnonzero(right)[: FEWEST - 1]] = 1  # no wrong ones, and too few right ones
    labels[np.flatnonzero(~right)[:50]] = 1
    fitted, own = fit_probabilities(scores, labels, right, 3)
    whole, _ = fit_probabilities(scores, np.zeros(2000, np.int64), right, 1)
    assert fitted is not None
    assert whole is not None
    assert own.tolist() == [True, False, False]
    assert fitted.slope[1] == fitted.slope[2] == whole.slope[0]
    assert fitted.slope[0] != whole.slope[0]


@pytest.mark.parametrize("right", [[True] * 40, [False] * 40, [True] * 20 + [False] * 20, []])
def test_there_is_no_curve_where_nothing_is_known_or_high_scores_are_worse(right):
    scores = np.arange(len(right), dtype=np.float32)
    fitted, own = fit_probabilities(scores, np.zeros(len(right), np.int64), np.array(right, bool), 2)
    assert fitted is None
    assert not own.any()


def test_scores_that_a_threshold_parts_have_a_finite_curve():
    scores = np.float32([-1] * 20 + [1] * 20)
    fitted, _ = fit_probabilities(scores, np.zeros(40, np.int64), scores > 0, 1)
    assert fitted is not None
    p = fitted(np.float32([-1, 1]), np.array([0, 0]))
    np.testing.assert_allclose(p, [1 / 22, 21 / 22], atol=1e-3)  # Platt's targets


def test_the_calibration_error_by_hand():
    p = np.array([0.02, 0.04, 0.5, 0.52, 1.0])
    right = np.array([False, True, True, False, True])
    # {.02, .04} hold .06 of probability and one right, {.5, .52} hold 1.02 and one, {1} is exact
    assert calibration_error(p, right) == pytest.approx((0.94 + 0.02 + 0) / 5)
    figures = reliability(p, right)
    assert (figures["detections"], figures["likely_detections"]) == (5, 3)
    assert figures["likely_ECE"] == pytest.approx(0.02 / 3)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_curves_follow_the_names_of_classes_to_another_data_set():
    own = Probabilities(np.array([1, 2], np.float32), np.array([0.5, -0.5], np.float32))
    moved = own.of_classes(("kangaroo", "raccoon"), ("cat", "raccoon", "kangaroo"))
    scores = np.array([0.3, -1.0])
    assert np.array_equal(moved(scores, np.array([1, 2])), own(scores, np.array([1, 0])))
    assert np.isnan(moved.slope[0])
    assert np.isnan(moved.intercept[0])
