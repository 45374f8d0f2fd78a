"""Colours of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.drawing.heat import AGAINST, FOR, faded, heat, tint


def test_more_is_lighter():
    colors = heat(np.linspace(0, 5, 6)[None]).astype(int).sum(axis=2)[0]
    assert (np.diff(colors) > 0).all()
    np.testing.assert_array_equal(heat(np.array([[0.0, 5.0]])), heat(np.array([[0.0, 0.1]])))


def test_below_nothing_there_is_room():
    colors = heat(np.array([[-1.0, 0.0, 1.0]]))[0].astype(int).sum(axis=1)
    assert colors[0] < colors[1] < colors[2]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_map_without_a_number_is_all_dark(value):
    assert (heat(np.full((2, 3), value)) == heat(np.zeros((1, 1)))).all()


def test_a_tint_says_for_or_against_and_how_much():
    gray = np.full((2, 2, 3), 128, np.uint8)
    assert (tint(gray, 0.0, 1.0) == gray).all()
    assert (tint(gray, 3.0, 0.0) == gray).all()  # where every share is nothing

    def away(color, target):
        return np.abs(color.astype(int) - np.array(target)).sum()

    for sign, target in ((1, FOR), (-1, AGAINST)):
        steps = [away(tint(gray, sign * value, 1.0), target) for value in (0.0, 0.3, 0.7, 1.0)]
        assert (np.diff(steps) < 0).all()
        assert away(tint(gray, sign * 9.0, 1.0), target) == steps[-1] > 0  # something shines through


def test_a_faded_picture_has_no_colours_and_no_black():
    picture = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    gray = faded(picture)
    assert (gray == gray[:, :, :1]).all()
    assert gray.min() > 100
    assert gray.shape == picture.shape
