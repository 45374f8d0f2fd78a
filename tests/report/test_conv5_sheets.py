"""Figures of conv5: cells are drawn where they lie, and every window and image gives a figure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.drawing.heat import heat
from spp_det.model.explain import CellGrid, InspectedWindow
from spp_det.model.geometry import Geometry
from spp_det.model.projection import project
from spp_det.report.conv5_sheets import (
    NO_CELL,
    View,
    contributions_sheet,
    field_panel,
    filter_panel,
    filters_sheet,
    window_sheet,
)

GEOMETRY = Geometry(stride=16, offset=17, receptive_field=155, smallest_input=1)
GRID = CellGrid.of(GEOMETRY, (1.0, 1.0))
LEVELS = (3, 1)


def image_of(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seen_at(window, columns, rows, shares=None):
    window = np.float32(window)
    rectangle = project(window[None], GEOMETRY, rows, columns)[0]
    shares = np.linspace(-1, 1, 10) if shares is None else np.array(shares)
    scores = np.float32([shares.sum() - 0.5, 0])
    return InspectedWindow(window, 0, rectangle, scores, 0, shares, -0.5)


def test_a_cell_is_drawn_as_its_tile_and_the_border_as_no_cell():
    """Stride 16, first centre at 17.5: cell (2, 1) stands for x 41.5 to 57.5 and y 25.5 to 41.5."""
    values = np.zeros((4, 5), np.float32)
    values[1, 2] = 1
    view = View.of(image_of(100, 80), (200, 200))
    assert view.size == (200, 160)
    picture = view.map(values, GRID)
    hot, cold = heat(np.array([[1.0, 0.0]]))[0]
    ys, xs = np.nonzero((picture == hot).all(axis=2))
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (83, 115, 51, 83)
    assert len(ys) == 32 * 32
    assert (picture[18, 18] == NO_CELL).all()  # the first tile starts at 9.5 pixels, here 19
    assert (picture[19, 19] == cold).all()
    assert (picture[159, 100] == NO_CELL).all()  # after the last of four rows


def test_a_part_of_an_image_shows_its_boxes_where_they_are():
    image = image_of(300, 200)
    view = View.of(image, (110, 400), around=np.float32([100, 50, 200, 90]))
    assert view.part == (90, 40, 210, 100)
    assert view.size == (110, 55)
    # 110 / 120 of a pixel for each: 10 -> 9.2, 40 -> 36.7, what lies outside ends at the border.
    assert view.boxes(np.float32([[100, 80, 500, 90]])) == [(9, 37, 110, 46)]
    assert view.boxes(np.float32([[0, 0, 1, 1]])) == [(0, 0, 1, 1)]  # nothing is too small to be seen
    whole = View.of(image, (300, 200))
    assert np.array_equal(whole.photo(image), image)


corners = st.floats(-50, 400, width=32)


@given(st.sampled_from([(300, 200), (1, 1), (3, 900), (900, 3)]), st.tuples(*[corners] * 4))
@settings(max_examples=15)
def test_every_window_of_every_image_has_its_figures(size, box):
    width, height = size
    x1, y1 = min(box[0], width - 0.5), min(box[1], height - 0.5)
    window = (x1, y1, max(box[2], x1 + 0.5, 0.5), max(box[3], y1 + 0.5, 0.5))
    image, columns, rows = image_of(width, height), max(1, width // 16), max(1, height // 16)
    before = image.copy()
    seen = seen_at(window, columns, rows)
    values = np.random.default_rng(1).random((rows, columns), np.float32)
    for sheet in (
        window_sheet("a.jpg", image, values, GRID, LEVELS, seen),
        contributions_sheet("a.jpg", image, GRID, LEVELS, seen, ("cat", "dog")),
    ):
        assert sheet.dtype == np.uint8
        assert sheet.shape[1] < 1300
        assert (sheet[:, -8:] == 255).all()  # nothing reaches the edge
    assert np.array_equal(image, before)


def test_bins_for_are_red_and_bins_against_blue():
    image = np.full((200, 300, 3), 127, np.uint8)
    sums = []
    for sign in (1, -1):
        seen = seen_at((50, 40, 250, 180), 18, 12, sign * np.ones(10))
        sheet = contributions_sheet("", image, GRID, LEVELS, seen, ("cat", "dog"))
        sums.append((sheet[..., 0].astype(int) - sheet[..., 2]).sum())
    red, blue = sums
    assert red > 100_000
    assert blue < -100_000


def test_without_shares_there_is_no_figure_of_them():
    seen = dataclasses.replace(seen_at((0, 0, 50, 50), 18, 12), contributions=None)
    with pytest.raises(ValueError, match="does not read bins"):
        contributions_sheet("", image_of(300, 200), GRID, LEVELS, seen, ("cat",))
    assert window_sheet("", image_of(300, 200), np.ones((12, 18), np.float32), GRID, LEVELS, seen).any()


@pytest.mark.parametrize("over", [0, 7])
def test_filters_have_a_row_each_or_share_it(over):
    image, field = image_of(300, 200), np.float32([0, 0, 95, 95])
    values = np.ones((12, 18), np.float32)
    row = [
        field_panel(image, field, "filter 3"),
        filter_panel(image, values, GRID, field, "its map"),
        *[field_panel(image, field, "elsewhere")] * (3 if over else 0),
    ]
    one, four = (filters_sheet("a.jpg", over, [row] * count) for count in (1, 4))
    lines = 4 if over else 2  # without images of its own, three filters a row
    height = row[0].picture.shape[0]
    assert four.shape[0] - one.shape[0] >= (lines - 1) * height
    assert four.shape[0] - one.shape[0] < lines * height
