"""Which photos come next: doubt by hand, and a choice that a slow second one repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.model.features import ConvMap
from spp_det.model.informative import choose, describe, doubt, expected_objects, probabilities_of
from spp_det.model.probability import Probabilities


def test_doubt_is_the_number_of_corrections_to_expect():
    assert doubt(np.array([1.0, 0.0])) == 0
    assert doubt(np.array([0.75, 0.5, 0.1])) == pytest.approx(0.85)
    assert doubt(np.zeros(0)) == 0


def test_a_correction_counts_more_where_its_class_has_few_labels():
    p, labels = np.array([0.75, 0.5, 0.1]), np.array([1, 0, 1])
    assert doubt(p, labels, np.array([0.0, 0.0])) == pytest.approx(doubt(p))
    assert doubt(p, labels, np.array([1.0, 4.0])) == pytest.approx(0.5 / 2 + (0.25 + 0.1) / 5)
    np.testing.assert_allclose(expected_objects(p, labels, 3), [0.5, 0.85, 0])
    assert expected_objects(np.zeros(0), np.zeros(0, np.int64), 2).tolist() == [0, 0]


def test_probabilities_are_those_of_the_curves_or_of_the_logistic_function():
    found = {"boxes": np.zeros((2, 4)), "labels": np.array([0, 1]), "scores": np.float32([0, 2])}
    np.testing.assert_allclose(probabilities_of(found, None), [0.5, 1 / (1 + np.exp(-2))])
    curves = Probabilities(np.float32([1, 2]), np.float32([1, 0]))
    np.testing.assert_allclose(probabilities_of(found, curves), 1 / (1 + np.exp(-np.array([1.0, 4.0]))))


def test_a_look_has_length_1_and_does_not_depend_on_the_size():
    cells = torch.tensor([[[1.0, 4.0]], [[0.0, 0.0]], [[-9.0, -9.0]]])  # [3, 1, 2]
    look = describe(ConvMap(cells, (1.0, 1.0)))
    np.testing.assert_allclose(look, np.array([1.5, 0, -3]) / np.sqrt(11.25), rtol=1e-6)
    np.testing.assert_allclose(describe(ConvMap(cells.repeat(1, 2, 3), (1.0, 1.0))), look, rtol=1e-6)
    assert np.isfinite(describe(ConvMap(torch.zeros(3, 2, 2), (1.0, 1.0)))).all()


def test_of_equal_doubts_the_photo_that_is_unlike_the_labelled_ones_comes_first():
    looks = np.float32([[1, 0], [0.99, 0.1], [0, 1]])
    order, novelty = choose(np.ones(3), looks, 3, labelled=np.float32([[1, 0.01]]))
    assert order[0] == 2
    assert novelty[0] == 1 > novelty[1]
    assert sorted(order.tolist()) == [0, 1, 2]


def test_of_equal_looks_the_doubtful_photo_comes_first():
    order, _ = choose(np.array([0.1, 3.0, 0.2]), np.float32([[1, 0], [1, 0], [0, 1]]), 2)
    assert order.tolist() == [1, 2]  # then the other look, not the same one again


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 4))
def test_a_choice_by_hand_agrees(seed, n, m):
    rng = np.random.default_rng(seed)
    doubts, looks = rng.random(n), rng.random((n, 3)).astype(np.float32)
    labelled = rng.random((m, 3)).astype(np.float32) if m else None
    order, novelty = choose(doubts, looks, 7, labelled)
    every = np.concatenate([looks, labelled]) if m else looks
    every = every.astype(float) - every.astype(float).mean(axis=0)
    unit = [row / max(np.linalg.norm(row), 1e-12) for row in every]
    near, left = [*range(n, n + m)], set(range(n))
    for place, photo in enumerate(order.tolist()):
        new = {i: min([1.0, *(1 - unit[i] @ unit[j] for j in near)]) for i in left}
        assert novelty[place] == pytest.approx(new[photo], abs=1e-9)
        worth = {i: (doubts[i] + doubts.mean()) * max(new[i], 0) for i in left}
        assert worth[photo] == pytest.approx(max(worth.values()), abs=1e-9)
        near.append(photo)
        left.remove(photo)
    assert len(order) == min(7, n)
