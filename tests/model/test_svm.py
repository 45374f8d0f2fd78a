"""Linear SVMs against scikit-learn's liblinear, by the objective that both minimise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC

from spp_det.model.svm import Hinge, LinearSVMs, fit_svms

R = Hinge(C=1e-3, bias=10.0, positive_weight=2.0)  # the authors' released code


def problem(seed: int, n: int, dimension: int, classes: int, positive: float):
    """Features as after a ReLU (none negative, many zero), and signs that they tell about, with noise."""
    rng = np.random.default_rng(seed)
    vectors = np.maximum(rng.standard_normal((n, dimension)), 0).astype(np.float32)
    vectors *= 20 / max(np.linalg.norm(vectors, axis=1).mean(), 1e-6)
    scores = vectors @ rng.standard_normal((dimension, classes))
    scores = scores / max(scores.std(), 1e-6) + rng.standard_normal(scores.shape)
    signs = np.where(scores > np.quantile(scores, 1 - positive, axis=0), 1, -1).astype(np.int8)
    return torch.from_numpy(vectors).half(), signs


def primal(objective: Hinge, weight, bias_weight, vectors, signs) -> float:
    """The objective of one class, as `Hinge` states it, for ``w`` and ``b`` of the scaled features."""
    x, y = vectors.double().numpy() * objective.scale, signs.astype(np.float64)
    cost = objective.C * np.where(y > 0, objective.positive_weight, 1.0) * (y != 0)
    slack = np.maximum(0, 1 - y * (x @ weight + objective.bias * bias_weight))
    return weight @ weight / 2 + bias_weight**2 / 2 + cost @ slack


def primal_of(objective: Hinge, svms: LinearSVMs, label: int, vectors, signs) -> float:
    weight = svms.weight[label].double().numpy() / objective.scale
    return primal(objective, weight, float(svms.bias[label]) / objective.bias, vectors, signs[:, label])


def dual(objective: Hinge, alpha, vectors, signs) -> float:
    """The dual objective of one class on the scaled features: a lower bound of every primal."""
    x, y = vectors.double().numpy() * objective.scale, signs.astype(np.float64)
    weight, bias_weight = x.T @ (alpha * y), objective.bias * (alpha @ y)
    return alpha.sum() - weight @ weight / 2 - bias_weight**2 / 2


def liblinear(objective: Hinge, vectors, signs) -> float:
    """The least objective of one class by LinearSVC, on the examples that the class has."""
    mine = signs != 0
    svc = LinearSVC(
        loss="hinge",
        dual=True,
        C=objective.C,
        intercept_scaling=objective.bias,
        class_weight={1: objective.positive_weight},
        tol=1e-7,
        max_iter=1_000_000,
        random_state=0,
    ).fit(vectors.double().numpy()[mine] * objective.scale, signs[mine])
    bias_weight = svc.intercept_[0] / objective.bias
    return primal(objective, svc.coef_[0], bias_weight, vectors[torch.from_numpy(mine)], signs[mine])


@pytest.mark.parametrize(
    ("n", "dimension", "classes", "positive", "objective"),
    [
        (400, 12, 1, 0.5, R),  # few dimensions, not separable
        (140, 1500, 3, 0.1, R),  # more dimensions than examples: separable
        (700, 60, 3, 0.01, R),  # 7 positives among 693 negatives
        (130, 40, 3, 0.3, Hinge(C=0.02, bias=1.0, positive_weight=1.0)),
        (300, 200, 3, 0.1, Hinge(C=1e-3, bias=10.0, positive_weight=2.0, scale=3.0)),
        (300, 200, 3, 0.1, Hinge(C=5e-3, bias=3.0, positive_weight=7.0, scale=0.1)),
    ],
)
def test_the_objective_is_that_of_liblinear(n, dimension, classes, positive, objective):
    vectors, signs = problem(n + dimension, n, dimension, classes, positive)
    fit = fit_svms(vectors, signs, objective)
    for label in range(classes):
        mine = primal_of(objective, fit.svms, label, vectors, signs)
        assert mine == pytest.approx(liblinear(objective, vectors, signs[:, label]), rel=1e-4)
        assert fit.primal[label] == pytest.approx(mine, rel=1e-5)
    assert (fit.gap <= 1e-4).all()


def test_a_sign_of_zero_takes_the_example_from_that_class_only():
    vectors, signs = problem(3, 300, 50, 3, 0.3)
    signs[np.random.default_rng(0).random(signs.shape) < 0.4] = 0
    fit = fit_svms(vectors, signs, R)
    for label in range(3):
        mine = primal_of(R, fit.svms, label, vectors, signs)
        assert mine == pytest.approx(liblinear(R, vectors, signs[:, label]), rel=1e-4)
    assert (fit.alpha[signs == 0] == 0).all()


def test_classes_do_not_disturb_each_other():
    vectors, signs = problem(4, 200, 80, 3, 0.2)
    together = fit_svms(vectors, signs, R, tolerance=1e-6)
    for label in range(3):
        alone = fit_svms(vectors, signs[:, [label]], R, tolerance=1e-6)
        assert together.primal[label] == pytest.approx(alone.primal[0], rel=1e-6)
        torch.testing.assert_close(
            together.svms(vectors.float())[:, label], alone.svms(vectors.float())[:, 0], atol=0.02, rtol=0
        )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 300),
    dimension=st.sampled_from([3, 30, 400]),  # of one number, few fits converge before the rounds are over
    classes=st.integers(1, 4),
    positive=st.sampled_from([0.02, 0.3, 0.9]),
    C=st.sampled_from([1e-4, 1e-3, 1e-2]),
    bias=st.sampled_from([0.5, 10.0]),
    tolerance=st.sampled_from([1e-1, 1e-2, 1e-4]),
)
def test_the_gap_bounds_the_distance_from_the_optimum(
    seed, n, dimension, classes, positive, C, bias, tolerance
):
    """Primal and dual are computed again in float64, from the weights and from the dual variables."""
    objective = Hinge(C=C, bias=bias, positive_weight=2.0, scale=1.5)
    vectors, signs = problem(seed, n, dimension, classes, positive)
    signs[np.random.default_rng(seed).random(signs.shape) < 0.1] = 0
    fit = fit_svms(vectors, signs, objective, tolerance)
    # The dual variables are those of the unscaled problem.
    unscaled = replace(objective, C=C * objective.scale**2, bias=bias / objective.scale, scale=1.0)
    cost = unscaled.C * np.where(signs > 0, 2.0, 1.0) * (signs != 0)
    assert (fit.alpha >= 0).all()
    assert (fit.alpha <= cost).all()
    for label in range(classes):
        upper = primal_of(objective, fit.svms, label, vectors, signs)
        lower = dual(unscaled, fit.alpha[:, label], vectors, signs[:, label]) / objective.scale**2
        assert fit.primal[label] == pytest.approx(upper, rel=1e-4)
        assert upper - lower <= (fit.gap[label] + 2e-5) * upper
        assert fit.gap[label] <= tolerance


@pytest.mark.parametrize("largest", [1e-6, 1e-4, 60000.0])
def test_every_half_precision_number_counts_for_what_it_is(largest):
    """From the subnormal ones, below 6e-5, to almost the largest, 65504; negative and zero."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.uniform(-largest, largest, (60, 5))).half()
    vectors[rng.random((60, 5)) < 0.2] = 0
    signs = np.where(vectors[:, :2].float().sum(1, keepdim=True) > 0, 1, -1).astype(np.int8)
    objective = Hinge(C=0.1, bias=1.0, positive_weight=2.0, scale=1 / largest)
    fit = fit_svms(vectors, signs, objective)
    mine = primal_of(objective, fit.svms, 0, vectors, signs)
    assert mine == pytest.approx(liblinear(objective, vectors, signs[:, 0]), rel=1e-4)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bfloat16), torch.zeros(3, 3).half()]
)
def test_vectors_of_another_type_or_number_are_refused(wrong):
    with pytest.raises(ValueError, match=r"float16 \[4, D\]"):
        fit_svms(wrong, np.ones((4, 1), np.int8), R)


def test_rows_that_do_not_lie_together_in_memory_are_read_all_the_same():
    vectors, signs = problem(5, 300, 40, 2, 0.2)
    apart = torch.stack([vectors, vectors], dim=2)[:, :, 0]
    assert not apart.is_contiguous()
    one, two = fit_svms(vectors, signs, R), fit_svms(apart, signs, R)
    assert torch.equal(one.svms.weight, two.svms.weight)


def test_a_warm_start_ends_at_the_same_objective():
    vectors, signs = problem(6, 900, 80, 3, 0.1)
    first = fit_svms(vectors[:600], signs[:600], R)
    alpha = np.concatenate([first.alpha, np.zeros((300, 3))])
    cold, warm = fit_svms(vectors, signs, R), fit_svms(vectors, signs, R, alpha=alpha)
    np.testing.assert_allclose(warm.primal, cold.primal, rtol=1e-4)
    again = fit_svms(vectors, signs, R, alpha=cold.alpha)
    np.testing.assert_allclose(again.alpha, cold.alpha)  # at the optimum nothing is left to do
    np.testing.assert_allclose(again.primal, cold.primal, rtol=1e-6)


def test_a_start_outside_the_bounds_is_brought_inside():
    vectors, signs = problem(7, 200, 20, 2, 0.2)
    signs[:20] = 0
    wild = np.random.default_rng(0).normal(0, 1, signs.shape)
    fit = fit_svms(vectors, signs, R, alpha=wild)
    np.testing.assert_allclose(fit.primal, fit_svms(vectors, signs, R).primal, rtol=1e-4)
    assert (fit.alpha[:20] == 0).all()


def test_the_same_seed_gives_the_same_bits_and_another_one_the_same_objective():
    vectors, signs = problem(8, 500, 60, 3, 0.1)
    one, two, other = (fit_svms(vectors, signs, R, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.svms.weight, two.svms.weight)
    assert torch.equal(one.svms.bias, two.svms.bias)
    assert (one.alpha == two.alpha).all()
    assert not (one.alpha == other.alpha).all()
    np.testing.assert_allclose(one.primal, other.primal, rtol=1e-4)


def test_the_arguments_are_left_as_they_were():
    vectors, signs = problem(9, 200, 20, 2, 0.2)
    alpha = np.full((200, 2), 1e-4)
    copies = vectors.clone(), signs.copy(), alpha.copy()
    fit_svms(vectors, signs, R, alpha=alpha)
    assert torch.equal(vectors, copies[0])
    assert (signs == copies[1]).all()
    assert (alpha == copies[2]).all()


def test_two_points_worked_by_hand():
    """x = +-1: the bias is 0 by symmetry, w minimises w^2/2 + 2 C max(0, 1 - w), so w = min(2 C, 1)."""
    vectors, signs = torch.tensor([[1.0], [-1.0]]).half(), np.array([[1], [-1]], np.int8)
    for C, weight in [(0.25, 0.5), (0.4, 0.8), (3.0, 1.0)]:
        fit = fit_svms(vectors, signs, Hinge(C, bias=1.0, positive_weight=1.0), tolerance=1e-6)
        assert fit.svms.weight.item() == pytest.approx(weight, abs=1e-3)
        assert fit.svms.bias.item() == pytest.approx(0, abs=1e-3)
        assert fit.alpha.ravel().tolist() == pytest.approx([weight / 2] * 2, abs=1e-3)


def test_scaled_features_worked_by_hand():
    """x = +-1 scaled to +-2: w minimises w^2/2 + 2 C max(0, 1 - 2 w); for unscaled x it is twice that."""
    vectors, signs = torch.tensor([[1.0], [-1.0]]).half(), np.array([[1], [-1]], np.int8)
    fit = fit_svms(vectors, signs, Hinge(0.1, 1.0, 1.0, scale=2.0), tolerance=1e-6)
    assert fit.svms.weight.item() == pytest.approx(2 * 0.4, abs=1e-3)
    assert fit.primal.item() == pytest.approx(0.4**2 / 2 + 2 * 0.1 * (1 - 2 * 0.4), rel=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_class_with_examples_of_one_sign_gives_every_one_that_sign(sign):
    vectors, signs = problem(10, 300, 30, 2, 0.2)
    signs[:, 1] = sign
    fit = fit_svms(vectors, signs, replace(R, C=0.02))
    assert (sign * fit.svms(vectors.float())[:, 1] > 0.9).all()
    assert (fit.gap <= 1e-4).all()


def test_a_class_without_examples_and_no_examples_at_all_give_zeros(caplog):
    vectors, signs = problem(11, 100, 30, 3, 0.2)
    signs[:, 1] = 0
    fit = fit_svms(vectors, signs, R)
    assert not fit.svms.weight[1].any()
    assert fit.svms.bias[1] == 0
    nothing = fit_svms(vectors[:0], signs[:0], R)
    assert not nothing.svms.weight.any()
    assert (fit.gap <= 1e-4).all()
    assert (nothing.gap <= 1e-4).all()
    assert not caplog.records


def test_vectors_of_zeros_and_repeated_vectors_are_examples_like_others():
    vectors, signs = problem(12, 200, 30, 2, 0.3)
    vectors[:40] = 0
    vectors[40:90] = vectors[90:140]
    fit = fit_svms(vectors, signs, R)
    for label in range(2):
        mine = primal_of(R, fit.svms, label, vectors, signs)
        assert mine == pytest.approx(liblinear(R, vectors, signs[:, label]), rel=1e-4)


def test_a_fit_that_does_not_end_says_how_far_it_came():
    vectors, signs = problem(13, 60, 5, 2, 0.3)
    fit = fit_svms(vectors, signs, R, tolerance=-1.0)  # which no gap is below
    assert ((fit.gap > -1) & (fit.gap < 1e-5)).all()


def test_no_class_is_a_fit_too():
    vectors, signs = problem(13, 60, 5, 2, 0.3)
    fit = fit_svms(vectors, signs[:, :0], R)
    assert (fit.svms.weight.shape, fit.svms.bias.shape, fit.alpha.shape) == ((0, 5), (0,), (60, 0))
    assert fit.gap.shape == fit.primal.shape == (0,)


def test_scores_are_distances_in_units_of_the_margin():
    svms = LinearSVMs(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([0.5, -0.5]))
    assert svms(torch.tensor([[1.0, 1.0], [0.0, 3.0]])).tolist() == [[3.5, -1.5], [6.5, -3.5]]
    assert svms(torch.zeros(0, 2)).shape == (0, 2)


def test_a_row_that_stands_for_several_examples_weighs_as_much_as_they_do():
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(40, 12, generator=generator).half()
    count = np.random.default_rng(5).integers(1, 5, 40)
    side = np.where(np.arange(40) % 3 == 0, 1, -1)
    objective = Hinge(C=0.02, bias=2.0, positive_weight=2.0)
    counted = fit_svms(vectors, (side * count)[:, None].astype(np.int8), objective, 1e-7)
    repeated = np.repeat(np.arange(40), count)
    written_out = fit_svms(vectors[repeated], side[repeated, None].astype(np.int8), objective, 1e-7)
    assert counted.primal == pytest.approx(written_out.primal, rel=1e-5)
    torch.testing.assert_close(counted.svms.weight, written_out.svms.weight, atol=1e-3, rtol=1e-2)
