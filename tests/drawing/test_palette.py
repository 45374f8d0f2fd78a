"""Class colours."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.drawing.palette import BLACK, FIRST, WHITE, class_color, text_color


def test_colors_do_not_depend_on_who_asked_before():
    assert [class_color(i) for i in range(8)] == list(FIRST)
    before = class_color(40)
    class_color(500)
    assert class_color(40) == before


def test_a_hundred_classes_have_a_hundred_colors_that_differ_visibly():
    colors = np.array([class_color(i) for i in range(100)])
    distance = np.abs(colors[:, None] - colors[None, :]).max(axis=-1)
    np.fill_diagonal(distance, 255)
    assert distance.min() >= 17
    assert distance[:24, :24].min() >= 34


def test_any_label_has_a_color():
    assert len(class_color(10**6)) == 3


@pytest.mark.parametrize(("background", "text"), [(WHITE, BLACK), (BLACK, WHITE), ((240, 228, 66), BLACK)])
def test_text_stands_out(background, text):
    assert text_color(background) == text
