"""The frame of every search: the copy that it sees, and the boxes that come of the windows found there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.images import RGB
from spp_det.proposals.shrunk import search_shrunk


def blank(width: int, height: int) -> RGB:
    return np.zeros((height, width, 3), np.uint8)


def finds(*windows: tuple[int, int, int, int]):
    """A search with these windows as its result."""
    return lambda _: np.array(windows, np.int64).reshape(-1, 4)


@pytest.mark.parametrize("max_side", [None, 60, 400])
def test_an_image_that_is_small_enough_is_searched_itself(max_side):
    image, seen = blank(60, 40), []
    search_shrunk(image, max_side, lambda copy: seen.append(copy) or np.zeros((0, 4), np.int64))
    assert seen[0] is image


@pytest.mark.parametrize(
    ("size", "max_side", "shrunk"),
    [
        ((200, 100), 50, (50, 25)),
        ((100, 200), 50, (25, 50)),
        ((101, 67), 50, (50, 33)),
        ((1000, 3), 50, (50, 1)),
    ],
)
def test_the_longer_side_of_the_copy_is_what_was_asked_for(size, max_side, shrunk):
    seen = []
    search_shrunk(
        blank(*size), max_side, lambda copy: seen.append(copy.shape[1::-1]) or np.zeros((0, 4), np.int64)
    )
    assert seen == [shrunk]


def test_the_copy_averages_areas():
    image = blank(8, 4)
    image[:, ::2] = 200  # every second column
    seen = []
    search_shrunk(image, 4, lambda copy: seen.append(copy) or np.zeros((0, 4), np.int64))
    assert (seen[0] == 100).all()


def test_windows_become_sorted_boxes_of_the_image_without_duplicates():
    boxes = search_shrunk(blank(200, 100), 50, finds((10, 5, 20, 10), (0, 1, 2, 3), (10, 5, 20, 10)))
    assert boxes.tolist() == [[0, 4, 8, 16], [40, 20, 120, 60]]
    assert boxes.dtype == np.float32
    whole = search_shrunk(blank(101, 67), 50, finds((0, 0, 50, 33)))  # other factors across than down
    np.testing.assert_allclose(whole, [[0, 0, 101, 67]], rtol=1e-6)
    assert search_shrunk(blank(20, 10), None, finds()).shape == (0, 4)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 200), st.integers(0, 2**32 - 1))
def test_boxes_lie_in_the_image_in_one_order_whatever_the_order_of_the_windows(width, height, side, seed):
    rng = np.random.default_rng(seed)

    def search(copy: RGB) -> np.ndarray:
        size = np.array(copy.shape[1::-1])
        corner = rng.integers(0, size, (12, 2))
        windows = np.concatenate([corner, 1 + rng.integers(0, size - corner)], axis=1)
        found.append(windows)
        return windows

    found: list[np.ndarray] = []
    boxes = search_shrunk(blank(width, height), side, search)
    again = search_shrunk(blank(width, height), side, lambda _: rng.permutation(found[0]))
    assert np.array_equal(boxes, again)
    assert boxes.tolist() == sorted(boxes.tolist())
    assert len(boxes) == len(np.unique(found[0], axis=0))
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= np.array([width, height]) * (1 + 1e-6)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), blank(0, 4)],
    ids=["gray", "alpha", "floats", "empty"],
)
def test_anything_but_a_picture_is_refused_before_the_search(image):
    with pytest.raises(ValueError, match=r"image must be uint8 \[H, W, 3\] and not empty, got"):
        search_shrunk(image, None, lambda _: pytest.fail("it was searched"))
