"""Box regression against the primal normal equations in float64, scikit-learn, and known linear maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from spp_det.boxes import as_boxes, decode_deltas, encode_deltas
from spp_det.model.bbox import BoxRegressor, _cholesky, _whitening, fit_ridge


def examples(seed: int, n: int, dimension: int):
    """Vectors as after a ReLU and targets of four very different spreads that lean on each other."""
    rng = np.random.default_rng(seed)
    vectors = np.maximum(rng.standard_normal((n, dimension)), 0).astype(np.float32)
    mixing = np.array([[0.1, 0, 0, 0], [0.05, 0.3, 0, 0], [0, 0, 0.01, 0], [0.2, 0, 0.1, 0.5]])
    targets = rng.standard_normal((n, 4)) @ mixing + [0.1, 0, -0.3, 0.2]
    return torch.from_numpy(vectors), targets.astype(np.float32)


def fit(*arguments, **options):
    """Weight ``[4, D]`` and bias ``[4]``."""
    fitted = fit_ridge(*arguments, **options)
    return fitted.weight, fitted.bias


def whitening(targets):
    """By another road than the code's: the inverse square root of the covariance, through its SVD."""
    centred = targets.astype(np.float64) - targets.mean(0, dtype=np.float64)
    u, values, _ = np.linalg.svd(centred.T @ centred / len(centred))
    return u @ np.diag((values + 1e-3) ** -0.5) @ u.T


def primal_ridge(vectors, targets, ridge):
    """``(X' X + ridge I) w = X' y`` on centred X and whitened, centred y; then back to raw targets."""
    x, y = vectors.double().numpy(), targets.astype(np.float64)
    mean, whiten = x.mean(0), whitening(y)
    centred = x - mean
    gram = centred.T @ centred + ridge * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, centred.T @ (y - y.mean(0)) @ whiten) @ np.linalg.inv(whiten)
    return weight.T, y.mean(0) - mean @ weight


@pytest.mark.parametrize(("n", "dimension"), [(300, 20), (20, 300), (64, 64), (2, 5), (5, 1)])
@pytest.mark.parametrize("ridge", [0.1, 10.0, 4000.0])
def test_the_dual_solves_the_primal_normal_equations(n, dimension, ridge):
    vectors, targets = examples(n + dimension, n, dimension)
    weight, bias = fit(vectors, targets, ridge)
    expected_weight, expected_bias = primal_ridge(vectors, targets, ridge)
    assert weight.dtype == bias.dtype == torch.float32
    np.testing.assert_allclose(weight.numpy(), expected_weight, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(bias.numpy(), expected_bias, rtol=2e-3, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 60), st.sampled_from([1.0, 50.0, 4000.0])
)
def test_predictions_are_those_of_scikit_learns_ridge_on_whitened_targets(seed, n, dimension, ridge):
    vectors, targets = examples(seed, n, dimension)
    weight, bias = fit(vectors, targets, ridge)
    mean, whiten = targets.mean(0, dtype=np.float64), whitening(targets)
    other = Ridge(alpha=ridge, solver="cholesky").fit(vectors.double().numpy(), (targets - mean) @ whiten)
    expected = other.predict(vectors.double().numpy()) @ np.linalg.inv(whiten) + mean
    np.testing.assert_allclose((vectors @ weight.T + bias).numpy(), expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 60), st.sampled_from([1.0, 4000.0]))
def test_examples_that_share_a_vector_are_fitted_as_if_each_had_its_own(seed, m, dimension, ridge):
    rng = np.random.default_rng(seed)
    vectors, _ = examples(seed, m, dimension)
    vector_of = rng.integers(0, m, rng.integers(2, 80))  # some vectors serve many examples, some none
    _, targets = examples(seed + 1, len(vector_of), 1)
    weight, bias = fit(vectors, targets, ridge, vector_of)
    expected_weight, expected_bias = fit(vectors[torch.from_numpy(vector_of)], targets, ridge)
    torch.testing.assert_close(weight, expected_weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bias, expected_bias, rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 30), st.integers(1, 60), st.sampled_from([1.0, 4000.0]))
def test_left_out_examples_are_predicted_as_by_a_fit_without_their_group(seed, m, dimension, ridge):
    rng = np.random.default_rng(seed)
    vectors, _ = examples(seed, m, dimension)
    vector_of, group_of = rng.integers(0, m, rng.integers(2, 80)), rng.integers(0, 3, m)
    _, targets = examples(seed + 1, len(vector_of), 1)
    fitted = fit_ridge(vectors, targets, ridge, vector_of, group_of)
    x, y = vectors.double().numpy()[vector_of], targets.astype(np.float64)
    whiten, mean = whitening(targets), x.mean(0)
    x, white = x - mean, (y - y.mean(0)) @ whiten
    expected = np.empty_like(y)
    for group in range(3):
        out = group_of[vector_of] == group
        gram = x[~out].T @ x[~out] + ridge * np.eye(dimension)
        weight = np.linalg.solve(gram, x[~out].T @ white[~out])
        expected[out] = x[out] @ weight @ np.linalg.inv(whiten) + y.mean(0)
    np.testing.assert_allclose(fitted.left_out, expected, rtol=1e-3, atol=1e-3)
    plain = fit_ridge(vectors, targets, ridge, vector_of)
    torch.testing.assert_close(fitted.weight, plain.weight, rtol=1e-3, atol=1e-5)
    assert plain.left_out is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 30), st.integers(1, 60), st.sampled_from([1.0, 4000.0]))
def test_the_regression_without_a_fold_predicts_the_fold_as_left_out_groups_are_predicted(seed, m, d, ridge):
    """Two ways to one result: each fold solved by itself, and all from one inverse."""
    rng = np.random.default_rng(seed)
    vectors, _ = examples(seed, m, d)
    vector_of, fold_of = rng.integers(0, m, rng.integers(2, 80)), rng.integers(0, 3, m)
    _, targets = examples(seed + 1, len(vector_of), 1)
    fitted = fit_ridge(vectors, targets, ridge, vector_of, fold_of, fold_of, 3)
    for fold in range(3):
        mine = fold_of[vector_of] == fold
        moved = vectors.float().numpy() @ fitted.fold_weight[fold].T.numpy() + fitted.fold_bias[fold].numpy()
        np.testing.assert_allclose(moved[vector_of[mine]], fitted.left_out[mine], rtol=2e-3, atol=2e-3)
    plain = fit_ridge(vectors, targets, ridge, vector_of)
    torch.testing.assert_close(fitted.weight, plain.weight, rtol=1e-3, atol=1e-5)
    assert len(plain.fold_weight) == len(plain.fold_bias) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 100))
def test_whitening_and_its_inverse_cancel(seed, n):
    _, targets = examples(seed, n, 1)
    centred = torch.from_numpy(targets).double()
    centred -= centred.mean(0)
    whiten, unwhiten = _whitening(centred)
    torch.testing.assert_close(whiten @ unwhiten, torch.eye(4).double())
    torch.testing.assert_close(whiten, whiten.T)


def test_whitened_targets_have_unit_covariance_where_they_spread():
    _, targets = examples(0, 5000, 1)
    centred = torch.from_numpy(100 * targets).double()  # far above the 1e-3 that guards a constant target
    centred -= centred.mean(0)
    white = centred @ _whitening(centred)[0]
    torch.testing.assert_close(white.T @ white / 5000, torch.eye(4).double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("n", "dimension"), [(400, 10), (30, 200)])
def test_a_linear_relation_is_recovered(n, dimension):
    rng = np.random.default_rng(n)
    vectors = torch.from_numpy(rng.standard_normal((n, dimension)).astype(np.float32))
    true_weight, true_bias = rng.normal(0, 0.1, (dimension, 4)), np.array([0.2, -0.1, 0.3, 0.0])
    targets = (vectors.numpy() @ true_weight + true_bias).astype(np.float32)
    weight, bias = fit(vectors, targets, ridge=1e-3)
    np.testing.assert_allclose((vectors @ weight.T + bias).numpy(), targets, atol=1e-3)
    if n > dimension:  # otherwise many maps fit, and the shortest is found
        np.testing.assert_allclose(weight.numpy(), true_weight.T, atol=1e-3)
        np.testing.assert_allclose(bias.numpy(), true_bias, atol=1e-3)


def test_a_large_ridge_leaves_the_mean_of_the_targets():
    vectors, targets = examples(1, 50, 20)
    weight, bias = fit(vectors, targets, ridge=1e9)
    assert weight.abs().max() < 1e-5
    np.testing.assert_allclose(bias.numpy(), targets.mean(0), atol=1e-4)


def test_one_example_and_equal_examples_give_their_own_target():
    target = np.array([[0.5, -0.25, 0.125, 1.0]], np.float32)
    for n in (1, 7):
        weight, bias = fit(torch.ones(n, 6), np.repeat(target, n, axis=0), ridge=4000.0)
        assert not weight.any()
        np.testing.assert_allclose(bias.numpy(), target[0], rtol=1e-6)


def test_a_constant_target_stays_constant():
    vectors, targets = examples(2, 60, 10)
    targets[:, 2] = 0.25
    weight, bias = fit(vectors, targets, ridge=10.0)
    np.testing.assert_allclose((vectors @ weight.T + bias)[:, 2].numpy(), 0.25, atol=1e-5)


def test_the_arguments_are_left_as_they_were():
    vectors, targets = examples(3, 20, 10)
    copies = vectors.clone(), targets.copy()
    fit_ridge(vectors, targets, 1.0)
    assert torch.equal(vectors, copies[0])
    assert (targets == copies[1]).all()


# ---------------------------------------------------------------- the regressor

BOXES = as_boxes([[10, 20, 50, 60], [0, 0, 8, 16], [3, 4, 103, 24]])


def test_each_box_moves_by_the_map_of_its_own_class():
    weight = torch.zeros(2, 4, 1)
    weight[0, :, 0] = torch.tensor([0.25, 0.0, 0.0, 0.0])  # a quarter of the width to the right, each unit
    bias = torch.zeros(2, 4)
    bias[1] = torch.tensor([0.0, 0.0, np.log(2), np.log(0.5)])  # twice as wide, half as high
    regressor = BoxRegressor(weight, bias)
    vectors = torch.tensor([[1.0], [1.0], [2.0]])
    refined = regressor(vectors, np.array([0, 1, 0]), BOXES)
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined, [[20, 20, 60, 60], [-4, 4, 12, 12], [53, 4, 153, 24]], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12))
def test_labels_may_come_in_any_order(labels):
    """Runs of one class, of several, and classes that come back."""
    generator = torch.Generator().manual_seed(len(labels))
    regressor = BoxRegressor(
        0.1 * torch.randn(4, 4, 7, generator=generator), torch.randn(4, 4, generator=generator)
    )
    vectors = torch.randn(len(labels), 7, generator=generator)
    boxes = BOXES[np.arange(len(labels)) % 3]
    refined = regressor(vectors, np.array(labels, np.int64), boxes)
    assert refined.shape == boxes.shape
    for row, label in enumerate(labels):
        deltas = (regressor.weight[label] @ vectors[row] + regressor.bias[label]).numpy()
        expected = decode_deltas(boxes[[row]], deltas[None])
        np.testing.assert_allclose(refined[[row]], expected, rtol=1e-4, atol=1e-3)


def test_a_class_without_examples_leaves_its_boxes():
    regressor = BoxRegressor(torch.zeros(2, 4, 5), torch.zeros(2, 4))
    refined = regressor(torch.randn(3, 5), np.array([0, 1, 1]), BOXES)
    np.testing.assert_allclose(refined, BOXES, atol=1e-5)


def test_no_boxes_are_no_boxes():
    regressor = BoxRegressor(torch.randn(2, 4, 5), torch.randn(2, 4))
    refined = regressor(torch.zeros(0, 5), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    assert refined.shape == (0, 4)
    assert refined.dtype == np.float32


def test_wild_deltas_give_finite_boxes():
    regressor = BoxRegressor(torch.zeros(1, 4, 1), torch.tensor([[0.0, 0.0, 1e6, -1e6]]))
    refined = regressor(torch.zeros(3, 1), np.zeros(3, np.int64), BOXES)
    assert np.isfinite(refined).all()
    assert (refined[:, 2:] > refined[:, :2]).all()


def test_a_fit_on_encoded_deltas_moves_windows_onto_their_objects():
    """The vector of a window tells where its object lies; decoding the fit's answer must give that box."""
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 200, (300, 2))
    windows = as_boxes(np.concatenate([corners, corners + rng.uniform(20, 100, (300, 2))], axis=1))
    deltas = rng.normal(0, 0.15, (300, 4)).astype(np.float32)
    objects = decode_deltas(windows, deltas)
    vectors = torch.from_numpy((deltas @ rng.standard_normal((4, 40)) + 1).astype(np.float32))
    weight, bias = fit(vectors, encode_deltas(windows, objects), ridge=1e-3)
    regressor = BoxRegressor(weight[None], bias[None])
    refined = regressor(vectors, np.zeros(300, np.int64), windows)
    np.testing.assert_allclose(refined, objects, atol=0.05)


def test_the_caller_keeps_its_boxes():
    boxes = BOXES.copy()
    BoxRegressor(torch.randn(1, 4, 5), torch.randn(1, 4))(torch.randn(3, 5), np.zeros(3, np.int64), boxes)
    assert (boxes == BOXES).all()


def test_a_matrix_that_rounding_has_left_not_quite_positive_definite_has_a_factor():
    half = torch.rand(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = half @ half.T - 1e-9 * torch.eye(
        30, dtype=torch.float64
    )  # of rank 4: its other values are -1e-9
    assert int(torch.linalg.cholesky_ex(matrix).info) > 0
    factor = _cholesky(matrix.clone())
    torch.testing.assert_close(factor @ factor.T, matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_products_that_are_not_finite_are_refused(wrong):
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1, 1] = wrong
    with pytest.raises(ValueError, match="not finite"):
        _cholesky(matrix)


def test_a_fold_of_all_examples_leaves_none():
    assert _cholesky(torch.zeros(0, 0, dtype=torch.float64)).shape == (0, 0)
