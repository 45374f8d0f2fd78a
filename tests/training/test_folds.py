"""Folds: every image in one, of nearly one size, by the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.training.folds import Folds


@pytest.mark.parametrize(("images", "count", "expected"), [(10, 3, [4, 3, 3]), (2, 5, [1, 1]), (7, 0, [])])
def test_sizes(images, count, expected):
    folds = Folds.draw(images, count, seed=4)
    assert folds.count == len(expected)
    if expected:
        assert sorted(np.bincount(folds.of).tolist(), reverse=True) == expected
        assert folds.key() == Folds.draw(images, count, seed=4).key()
    else:
        assert folds.key() == Folds.none(images).key() == []


def test_one_image_has_no_folds():
    assert Folds.draw(1, 3, seed=0).count == 0


def test_the_seed_chooses():
    assert Folds.draw(50, 2, 0).of.tolist() != Folds.draw(50, 2, 1).of.tolist()
