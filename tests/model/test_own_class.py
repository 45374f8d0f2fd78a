"""Products with the weights of each vector's own class, beside the products of all classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.model.own_class import of_classes
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs

generator = torch.Generator().manual_seed(0)
VECTORS = torch.randn(9, 70, generator=generator)
LABELS = np.array([2, 2, 0, 4, 4, 4, 1, 0, 2])
WEIGHT, BIAS = torch.randn(5, 3, 70, generator=generator), torch.randn(5, 3, generator=generator)


def test_each_vector_meets_the_weights_of_its_class_alone():
    every = torch.einsum("nd,krd->nkr", VECTORS, WEIGHT) + BIAS
    expected = every.numpy()[np.arange(9), LABELS]
    found = of_classes(VECTORS, LABELS, WEIGHT, BIAS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert of_classes(VECTORS[:0], LABELS[:0], WEIGHT, BIAS).shape == (0, 3)


def test_the_bits_do_not_depend_on_the_vectors_beside_it_nor_on_the_place_in_memory():
    """BLAS's product with one row rounds by alignment: two copies of a model would differ."""
    whole = of_classes(VECTORS, LABELS, WEIGHT, BIAS)
    for offset in range(1, 5):
        moved = torch.empty(VECTORS.numel() + offset)[offset:].view_as(VECTORS).copy_(VECTORS)
        weights = torch.empty(WEIGHT.numel() + offset)[offset:].view_as(WEIGHT).copy_(WEIGHT)
        alone = [of_classes(moved[[i]], LABELS[[i]], weights, BIAS)[0] for i in range(9)]
        assert np.array_equal(alone, whole)


@pytest.mark.parametrize("kind", [LinearSVMs, SoftmaxScorer])
def test_a_scorer_scores_one_class_a_vector_as_it_scores_all(kind):
    scorer = kind(WEIGHT[:, 0].contiguous(), BIAS[:, 0].contiguous())
    labels = LABELS % 4  # the last row of a softmax is the background's
    expected = scorer(VECTORS).numpy()[np.arange(9), labels]
    np.testing.assert_allclose(scorer.of_classes(VECTORS, labels), expected, atol=1e-4)
