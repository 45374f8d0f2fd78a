"""Projection against the paper's formula, against its definition cell by cell, and its edges."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.model.backbone import Backbone
from spp_det.model.geometry import Geometry
from spp_det.model.projection import closest_scale, distinct_rectangles, project

ZF5 = Geometry(stride=16, offset=0.0, receptive_field=139, smallest_input=1)
GEOMETRIES = st.builds(
    Geometry,
    stride=st.sampled_from([1, 2, 8, 16, 32]),
    offset=st.sampled_from([0.0, 0.5, 7.5, 15.0, 17.0, -3.0]),
    receptive_field=st.just(1),
    smallest_input=st.just(1),
)


@st.composite
def pixel_windows(draw: st.DrawFn, low: int = 0, high: int = 640) -> list[int]:
    """A window of whole pixels, at least one."""
    x1, y1 = draw(st.integers(low, high - 1)), draw(st.integers(low, high - 1))
    return [x1, y1, draw(st.integers(x1 + 1, high)), draw(st.integers(y1 + 1, high))]


def cells_of_the_definition(first: float, last: float, geometry: Geometry, length: int) -> list[int]:
    """The cells of one axis whose centres lie strictly between two pixels, in exact arithmetic."""
    low, high = Fraction(first), Fraction(last)
    return [j for j in range(length) if low < geometry.stride * j + Fraction(geometry.offset) < high]


# ---------------------------------------------------------------- against formula and definition


def test_the_geometry_of_these_tests_is_that_of_zf5():
    geometry = Backbone("zf5").geometry
    assert (geometry.stride, geometry.offset) == (ZF5.stride, ZF5.offset)


@given(st.lists(pixel_windows(), min_size=1, max_size=20))
def test_for_zf5_it_is_the_papers_formula(windows):
    """P, appendix A: left = floor(x / S) + 1 and right = ceil(x / S) - 1, inclusive cells."""
    projected = project(as_boxes(windows), ZF5, 40, 40).tolist()
    for (x1, y1, x2, y2), rectangle in zip(windows, projected, strict=True):
        left, top = math.floor(x1 / 16) + 1, math.floor(y1 / 16) + 1
        right, bottom = math.ceil((x2 - 1) / 16) - 1, math.ceil((y2 - 1) / 16) - 1  # x2 - 1: the last pixel
        if left <= right:
            assert rectangle[0::2] == [left, right + 1]
        if top <= bottom:
            assert rectangle[1::2] == [top, bottom + 1]


@pytest.mark.parametrize(
    ("window", "rectangle"),
    [
        # Cells are centred on pixels 0, 16, 32, 48, 64; a pixel at the edge of the window is not inside it.
        ([0, 0, 65, 65], [1, 1, 4, 4]),
        ([15, 0, 66, 65], [1, 1, 5, 4]),
        ([16, 0, 65, 65], [2, 1, 4, 4]),
        ([15, 31, 18, 34], [1, 2, 2, 3]),
        # No centre strictly inside: the cell nearest to the middle of the first and last pixels.
        ([0, 0, 1, 1], [0, 0, 1, 1]),
        ([1, 1, 15, 15], [0, 0, 1, 1]),  # middle 7.5
        ([2, 2, 17, 17], [1, 1, 2, 2]),  # middle 9; pixel 16 is the last and not inside
        ([16, 0, 33, 65], [2, 1, 3, 4]),  # middle 24, as far from 16 as from 32: the later one
        # One axis without a centre does not touch the other.
        ([0, 17, 65, 20], [1, 1, 4, 2]),
    ],
)
def test_hand_worked_windows(window, rectangle):
    assert project(as_boxes([window]), ZF5, 5, 5).tolist() == [rectangle]


@given(GEOMETRIES, st.integers(1, 30), st.integers(1, 30), st.lists(pixel_windows(-40, 500), max_size=10))
def test_it_is_the_definition_cell_by_cell(geometry, height, width, windows):
    projected = project(as_boxes(windows), geometry, height, width)
    assert projected.shape == (len(windows), 4)
    assert projected.dtype == np.int64
    for window, rectangle in zip(windows, projected.tolist(), strict=True):
        for axis, length in ((0, width), (1, height)):
            first, last = window[axis], window[axis + 2] - 1
            inside = cells_of_the_definition(first, last, geometry, length)
            start, stop = rectangle[axis], rectangle[axis + 2]
            if inside:
                assert list(range(start, stop)) == inside
            else:
                assert stop == start + 1
                middle = Fraction(first + last, 2)
                distance = [
                    abs(geometry.stride * j + Fraction(geometry.offset) - middle) for j in range(length)
                ]
                assert distance[start] == min(distance)


COORDINATES = st.floats(-1e5, 1e5, width=32)


@given(
    GEOMETRIES,
    st.integers(1, 50),
    st.integers(1, 50),
    st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), max_size=20),
)
def test_any_window_at_all_gives_a_rectangle_inside_the_map(geometry, height, width, windows):
    """Fractional, outlying, empty and inverted ones too."""
    rectangles = project(as_boxes(windows), geometry, height, width)
    assert (rectangles[:, :2] >= 0).all()
    assert (rectangles[:, 2:] > rectangles[:, :2]).all()
    assert (rectangles[:, 2:] <= [width, height]).all()


@given(GEOMETRIES, pixel_windows(), st.integers(0, 30), st.integers(0, 30))
def test_a_larger_window_never_loses_a_cell(geometry, window, grow_before, grow_after):
    larger = [
        window[0] - grow_before,
        window[1] - grow_before,
        window[2] + grow_after,
        window[3] + grow_after,
    ]
    inner, outer = project(as_boxes([window, larger]), geometry, 50, 50)
    for axis in (0, 1):
        if cells_of_the_definition(window[axis], window[axis + 2] - 1, geometry, 50):
            assert outer[axis] <= inner[axis]
            assert outer[axis + 2] >= inner[axis + 2]


@given(GEOMETRIES, pixel_windows(), st.integers(0, 5))
def test_moving_a_window_by_strides_moves_its_cells(geometry, window, steps):
    moved = [v + steps * geometry.stride for v in window]
    here, there = project(as_boxes([window, moved]), geometry, 10_000, 10_000)
    if here.min() > 0 or geometry.offset <= min(window):  # nothing cut off by the map's edge
        assert (there == here + steps).all()


@given(GEOMETRIES, pixel_windows())
def test_the_axes_are_treated_alike(geometry, window):
    turned = [window[1], window[0], window[3], window[2]]
    (upright,) = project(as_boxes([window]), geometry, 20, 30)
    (sideways,) = project(as_boxes([turned]), geometry, 30, 20)
    assert upright.tolist() == sideways[[1, 0, 3, 2]].tolist()


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0", "zf5_small"])
def test_the_whole_image_projects_to_all_cells_that_it_surrounds(name):
    geometry = Backbone(name).geometry
    cells = [j for j in range(30) if 0 < geometry.stride * j + geometry.offset < 479]
    (rectangle,) = project(as_boxes([[0, 0, 480, 480]]), geometry, 30, 30)
    assert rectangle.tolist() == [cells[0], cells[0], cells[-1] + 1, cells[-1] + 1]


def test_no_windows_have_no_rectangles():
    rectangles = project(as_boxes([]), ZF5, 4, 5)
    assert rectangles.shape == (0, 4)
    assert rectangles.dtype == np.int64


def test_the_windows_are_left_as_they_were():
    windows = as_boxes([[-5, 3, 99, 44]])
    windows.setflags(write=False)
    project(windows, ZF5, 4, 4)
    closest_scale(windows, [1.0, 2.0])


# ---------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("side", "chosen"),
    [
        (224, 1),  # as it is
        (112, 2),  # twice as large
        (448, 0),  # half as large
        (1, 2),
        (5000, 0),
        (300, 0),  # areas 22500 and 90000 against 50176: 27676 and 39824 away
        (270, 1),  # 18225 and 72900: 31951 and 22724 away
        (150, 1),  # 22500 and 90000 at 1 and 2
        (135, 2),
    ],
)
def test_hand_worked_scales(side, chosen):
    assert closest_scale(as_boxes([[7, 9, 7 + side, 9 + side]]), [0.5, 1.0, 2.0]).tolist() == [chosen]


def test_it_is_the_area_that_counts_not_the_shape():
    windows = as_boxes([[0, 0, 224, 224], [0, 0, 448, 112], [0, 0, 56, 896]])
    assert closest_scale(windows, [0.5, 1.0, 2.0]).tolist() == [1, 1, 1]


@given(
    st.lists(pixel_windows(high=2000), max_size=10),
    st.lists(st.floats(0.125, 8, width=16), min_size=1, max_size=6),
)
def test_the_closest_scale_is_that_of_a_search(windows, factors):
    """In exact arithmetic: a half-precision factor and whole pixels leave nothing to round."""
    chosen = closest_scale(as_boxes(windows), factors)
    assert chosen.dtype == np.int64
    assert chosen.shape == (len(windows),)
    for (x1, y1, x2, y2), index in zip(windows, chosen.tolist(), strict=True):
        away = [abs((x2 - x1) * (y2 - y1) * Fraction(factor) ** 2 - 224**2) for factor in factors]
        assert index == away.index(min(away))


def test_of_equally_close_scales_the_first_is_chosen():
    windows = as_boxes([[0, 0, 224, 224], [0, 0, 10, 10]])
    assert closest_scale(windows, [2.0, 1.0, 1.0, 2.0]).tolist() == [1, 0]


def test_one_scale_is_always_the_closest():
    assert closest_scale(as_boxes([[0, 0, 1, 1], [0, 0, 999, 999]]), [3.0]).tolist() == [0, 0]


def test_distinct_rectangles_rebuild_the_windows():
    corners = np.random.default_rng(0).integers(0, 4, (500, 4))
    windows = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], axis=1)
    distinct, inverse = distinct_rectangles(windows)
    assert len(distinct) == len({tuple(row) for row in windows.tolist()})
    assert (distinct[inverse] == windows).all()
    assert len(distinct_rectangles(distinct)[0]) == len(distinct)
