"""Sheets: every picture whole, and no text over another's place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.drawing.sheet import GAP, MARGIN, NOTE, Panel, compose, shortened, text_width, wrapped


def picture(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def whole(sheet, shade, height, width):
    """Whether all pixels of a picture of that shade stand together on the sheet."""
    ys, xs = np.nonzero((sheet == shade).all(axis=2))
    return len(ys) == height * width and np.ptp(ys) + 1 == height and np.ptp(xs) + 1 == width


@pytest.mark.parametrize("text", ["short", "long " * 400, "x" * 3000, "", "\u202eevil\nname", "猫" * 200])
def test_whatever_the_texts_pictures_stay_whole_and_the_border_white(text):
    panels = [
        [Panel(picture(40, 300, (9, 99, 200)), text), Panel(picture(60, 1, (1, 200, 100)), text)],
        [Panel(picture(20, 90, (250, 3, 77)), text)],
    ]
    sheet = compose(text, [text, text], panels)
    for row in panels:
        for panel in row:
            height, width = panel.picture.shape[:2]
            assert whole(sheet, panel.picture[0, 0], height, width)
    for edge in (sheet[: MARGIN // 2], sheet[-MARGIN:], sheet[:, : MARGIN // 2], sheet[:, -MARGIN // 2 :]):
        assert (edge == 255).all()


def test_panels_stand_side_by_side_with_their_tops_in_line():
    sheet = compose("t", [], [[Panel(picture(30, 100, 7), "a"), Panel(picture(50, 400, 8), "b")]])
    (y1, x1), (y2, x2) = (np.argwhere((sheet == shade).all(axis=2))[0] for shade in (7, 8))
    assert y1 == y2
    assert x2 == x1 + 100 + GAP
    assert x1 == MARGIN


@given(st.text(max_size=80), st.integers(30, 400))
def test_a_shortened_text_fits(text, width):
    assert text_width(shortened(text, NOTE, width), NOTE) <= width


def test_what_fits_is_left_alone():
    assert shortened("a name.jpg", NOTE, 300) == "a name.jpg"
    assert shortened("a name.jpg" * 20, NOTE, 100).endswith("…")


@given(st.lists(st.text("abcdefg", min_size=1, max_size=9), min_size=1, max_size=30))
def test_wrapping_keeps_every_word(words):
    lines = wrapped(" ".join(words), NOTE, 200)
    assert " ".join(lines).split() == words
    assert all(text_width(line, NOTE) <= 200 for line in lines)
