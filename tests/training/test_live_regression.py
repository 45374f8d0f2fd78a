"""Products that are kept give the regression of all vectors at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.model.bbox import fit_ridge
from spp_det.training.live_regression import Products

D = 40


@pytest.fixture
def examples() -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """30 vectors in five groups, 50 examples with targets, and the vector of each."""
    generator = np.random.default_rng(3)
    vectors = torch.from_numpy(np.abs(generator.normal(1, 1, (30, D))).astype(np.float16))
    row_of = np.concatenate([np.arange(30), generator.integers(0, 30, 20)])
    targets = generator.normal(0, 0.2, (50, 4)).astype(np.float32)
    return vectors, row_of, targets, np.repeat(np.arange(5), 6)


def cells(count: int) -> list[tuple[str, int, int, int, int, int]]:
    return [("photo", 0, number, 0, number + 1, 1) for number in range(count)]


@pytest.mark.parametrize("pieces", [(30,), (1, 29), (10, 10, 10)])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_fit_is_that_of_all_vectors_at_once(examples, pieces, grouped):
    vectors, row_of, targets, groups = examples
    products, names, start = Products(D), cells(30), 0
    for count in pieces:
        products.add(names[start : start + count], vectors[start : start + count])
        start += count
    found = products.ridge(names, row_of, targets, 7.0, groups if grouped else None)
    expected = fit_ridge(vectors, targets, 7.0, row_of, groups if grouped else None)
    torch.testing.assert_close(found.weight, expected.weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.bias, expected.bias, atol=1e-5, rtol=1e-4)
    assert (found.left_out is None) == (not grouped)
    if grouped:
        np.testing.assert_allclose(found.left_out, expected.left_out, atol=1e-5)


def test_a_part_of_the_vectors_in_another_order_is_fitted_alone(examples):
    vectors, _, targets, _ = examples
    products, names = Products(D), cells(30)
    products.add(names, vectors)
    chosen = [17, 3, 29, 8, 11]
    found = products.ridge([names[i] for i in chosen], np.arange(5), targets[:5], 1.0, None)
    expected = fit_ridge(vectors[chosen], targets[:5], 1.0)
    torch.testing.assert_close(found.weight, expected.weight, atol=1e-5, rtol=1e-4)


def test_more_vectors_than_a_block_have_the_products_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1100, 8, generator=generator).half()
    products, names = Products(8), cells(1100)
    products.add(names[:300], vectors[:300])
    products.add(names[300:], vectors[300:])
    expected = vectors.double() @ vectors.double().T
    torch.testing.assert_close(products.gram, expected, atol=1e-4, rtol=1e-4)


def test_what_is_kept_has_its_own_products():
    vectors = torch.arange(20).reshape(10, 2).half()
    products, names = Products(2), cells(10)
    products.add(names, vectors)
    products.keep(names[2:9])  # most are used: nothing moves
    assert len(products) == 10
    products.keep([names[7], names[1]])
    assert len(products) == 2
    assert products.place == {names[7]: 0, names[1]: 1}
    expected = vectors[[7, 1]].double() @ vectors[[7, 1]].double().T
    torch.testing.assert_close(products.gram, expected)
