"""Pooling three ways: a hand-worked table, torch's own adaptive pooling, and invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spp_det.model.pyramid import (
    SpatialPyramidPooling,
    mirrored_bins,
    num_bins,
    pool_windows,
    score_windows,
)
from tests.rectangles import LEVELS, maps_and_rectangles, random_rectangles

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pool_crops(feature_map: torch.Tensor, windows: np.ndarray, levels: list[int], mode: str) -> torch.Tensor:
    """The definition: crop, then torch's adaptive pooling, one window and one level at a time."""
    pool = nn.AdaptiveMaxPool2d if mode == "max" else nn.AdaptiveAvgPool2d
    rows = []
    for x1, y1, x2, y2 in windows.tolist():
        crop = feature_map[:, y1:y2, x1:x2]
        rows.append(torch.cat([pool(n)(crop[None])[0].flatten(1).T for n in levels]))
    return torch.stack(rows) if rows else feature_map.new_empty((0, num_bins(levels), len(feature_map)))


@settings(max_examples=150, deadline=None)
@given(maps_and_rectangles(), LEVELS)
def test_maximum_equals_adaptive_pooling_of_the_crop_to_the_bit(case, levels):
    feature_map, windows = case
    pooled = pool_windows(feature_map, windows, levels)
    assert torch.equal(pooled, pool_crops(feature_map, windows, levels, "max"))


@settings(max_examples=60, deadline=None)
@given(maps_and_rectangles(), LEVELS)
def test_average_equals_adaptive_pooling_of_the_crop(case, levels):
    feature_map, windows = case
    pooled = pool_windows(feature_map, windows, levels, mode="average")
    torch.testing.assert_close(pooled, pool_crops(feature_map, windows, levels, "average"))


def test_mirrored_bins_by_hand():
    assert mirrored_bins((3, 1)).tolist() == [2, 1, 0, 5, 4, 3, 8, 7, 6, 9]
    assert mirrored_bins((1, 2)).tolist() == [0, 2, 1, 4, 3]


@settings(max_examples=60)
@given(maps_and_rectangles(), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_mirrored_bins_are_those_of_the_mirrored_map_to_the_bit(case, levels):
    feature_map, windows = case
    width = feature_map.shape[2]
    mirrored = np.column_stack([width - windows[:, 2], windows[:, 1], width - windows[:, 0], windows[:, 3]])
    expected = pool_windows(feature_map.flip(2), mirrored, levels)
    assert torch.equal(pool_windows(feature_map, windows, levels)[:, mirrored_bins(levels)], expected)


def test_a_hand_worked_map():
    feature_map = torch.arange(12.0).view(1, 3, 4)  # rows 0..3, 4..7, 8..11
    window = torch.tensor([[1, 0, 4, 3]])  # columns 1..3, all rows
    # Level 2 over 3 cells: bins [0, 2) and [1, 3), they share the middle row and column.
    assert pool_windows(feature_map, window, (2, 1)).flatten().tolist() == [6, 7, 10, 11, 11]
    assert pool_windows(feature_map, window, (2, 1), "average").flatten().tolist() == [3.5, 4.5, 7.5, 8.5, 6]


def test_a_window_of_one_cell_repeats_it_in_every_bin():
    pooled = pool_windows(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[1, 0, 2, 1]]))
    assert pooled.shape == (1, 50, 1)
    assert (pooled == 5).all()


def test_negative_and_infinite_values_survive():
    feature_map = torch.tensor([[[-3.0, -torch.inf], [-5.0, -4.0]]])
    assert pool_windows(feature_map, np.array([[0, 0, 2, 2]]), [1]).item() == -3
    assert pool_windows(feature_map, np.array([[1, 0, 2, 1]]), [1]).item() == -torch.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_map_is_kept_and_exact(dtype):
    feature_map, windows = torch.randn(8, 9, 11).to(dtype), random_rectangles(50, 9, 11)
    pooled = pool_windows(feature_map, windows)
    assert pooled.dtype == dtype
    assert torch.equal(pooled.double(), pool_windows(feature_map.double(), windows))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_numbers(threads):
    feature_map, windows = torch.randn(16, 20, 30), random_rectangles(333, 20, 30)
    reference, before = pool_windows(feature_map, windows), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(pool_windows(feature_map, windows), reference)
    finally:
        torch.set_num_threads(before)


def test_order_and_repetition_of_windows_do_not_matter():
    feature_map, windows = torch.randn(5, 10, 10), random_rectangles(40, 10, 10)
    order = np.random.default_rng(1).integers(0, 40, 200)
    assert torch.equal(pool_windows(feature_map, windows[order]), pool_windows(feature_map, windows)[order])


def linear(dimension: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, dimension, generator=generator) / dimension**0.5
    return weight, torch.randn(classes, generator=generator)


@settings(max_examples=100, deadline=None)
@given(
    maps_and_rectangles(),
    LEVELS,
    st.sampled_from(["max", "average"]),
    st.integers(0, 21),
    st.none() | st.floats(0.5, 100),
)
def test_scores_are_the_products_of_pooled_vectors(case, levels, mode, classes, length):
    feature_map, windows = case
    weight, bias = linear(num_bins(levels) * len(feature_map), classes)
    scores = score_windows(feature_map, windows, weight, bias, levels, mode, length)
    vectors = pool_windows(feature_map, windows, levels, mode).flatten(1).double()
    if length is not None:
        vectors *= length / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=1e-12)
    expected = vectors @ weight.double().T + bias.double()
    assert scores.dtype == torch.float32
    scale = vectors.abs() @ weight.double().abs().T + bias.double().abs()  # of what was summed
    assert ((scores - expected).abs() <= 1e-5 * scale + 1e-30).all()


def test_a_windows_scores_depend_neither_on_its_neighbours_nor_on_threads(three_threads):  # noqa: ARG001
    """To the bit: so detections do not change with the number of cores, or with windows of no interest."""
    feature_map, windows = torch.rand(31, 20, 30), random_rectangles(333, 20, 30)
    weight, bias = linear(50 * 31, 5)
    scores = score_windows(feature_map, windows, weight, bias)
    order = np.random.default_rng(1).permutation(333)
    assert torch.equal(score_windows(feature_map, windows[order], weight, bias), scores[order])
    for i in (0, 100, 332):
        assert torch.equal(score_windows(feature_map, windows[i : i + 1], weight, bias)[0], scores[i])
    torch.set_num_threads(1)
    assert torch.equal(score_windows(feature_map, windows, weight, bias), scores)
    assert torch.equal(score_windows(feature_map, windows, weight[2:3], bias[2:3])[:, 0], scores[:, 2])


def test_windows_of_any_kind_and_weights_that_learn_can_be_scored():
    feature_map, windows = torch.rand(3, 9, 9), random_rectangles(20, 9, 9)
    weight, bias = linear(150, 2)
    expected = score_windows(feature_map, windows, weight, bias, length=7.0)
    strided = np.asfortranarray(np.repeat(windows, 2, axis=0))[::2]
    for same in (torch.from_numpy(windows), windows.astype(np.int32), strided):
        learning = weight.clone().requires_grad_()
        assert torch.equal(score_windows(feature_map, same, learning, bias, length=7), expected)


def test_a_vector_of_zeros_has_no_length_to_scale():
    weight, bias = linear(50, 2)
    windows = np.array([[0, 0, 2, 2]])
    assert torch.equal(score_windows(torch.zeros(1, 3, 3), windows, weight, bias, length=7.0)[0], bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(2, 49)}, r"weight must be float32 \[2, 50\] on the CPU"),
        ({"weight": torch.zeros(2, 50, device="meta")}, "on meta"),
        ({"bias": torch.tensor(0.0)}, "weight"),
        ({"length": 0.0}, "length"),
        ({"length": -1}, "length"),
        ({"weight": torch.zeros(2, 50).double()}, "float64"),
        ({"weight": torch.zeros(3, 50)}, "weight"),
        ({"bias": torch.zeros(2, 1)}, "bias"),
        ({"feature_map": torch.zeros(1, 4, 5).double()}, "feature_map must be float32"),
        ({"feature_map": torch.zeros(1, 4, 5, device="meta")}, "on the CPU"),
        ({"windows": np.array([[0, 0, 6, 1]])}, "leaves the map"),
        ({"mode": "median"}, "mode"),
        ({"levels": ()}, "levels"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    """The kernel reads memory unchecked."""
    given = {"feature_map": torch.zeros(1, 4, 5), "windows": np.array([[0, 0, 1, 1]])}
    given |= {"weight": torch.zeros(2, 50), "bias": torch.zeros(2)}
    assert score_windows(**given).shape == (1, 2)
    with pytest.raises(ValueError, match=message):
        score_windows(**given | change)


def test_the_arguments_are_left_as_they_were():
    feature_map, windows = torch.randn(3, 5, 6), random_rectangles(9, 5, 6)
    copies = feature_map.clone(), windows.copy()
    pool_windows(feature_map, windows)
    score_windows(feature_map, windows, *linear(150, 3))
    assert torch.equal(feature_map, copies[0])
    assert (windows == copies[1]).all()


COMPILED = """
import numpy as np, torch
from spp_det.model import pyramid
cells, windows = torch.rand(2, 5, 6), np.array([[0, 0, 3, 4]])
pyramid.pool_windows(cells, windows)
pyramid.score_windows(cells, windows, torch.rand(3, 100), torch.rand(3))
kernels = pyramid._kernel, pyramid._score_kernel
"""


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([[0, 0, 0, 1]], "at least one cell"),
        ([[0, 2, 1, 1]], "at least one cell"),
        ([[0, 0, 6, 1]], "leaves the map"),
        ([[-1, 0, 1, 1]], "leaves the map"),
        ([[0, 0, 1]], "shape"),
    ],
)
def test_windows_that_cannot_be_pooled_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        pool_windows(torch.zeros(1, 4, 5), np.array(windows))


@pytest.mark.parametrize("levels", [(), (0,), (1, -2), (1.5,)])
def test_levels_that_make_no_pyramid_are_refused(levels):
    with pytest.raises(ValueError, match="levels"):
        SpatialPyramidPooling(levels)
    with pytest.raises(ValueError, match="levels"):
        pool_windows(torch.zeros(1, 4, 5), np.array([[0, 0, 1, 1]]), levels)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode"):
        SpatialPyramidPooling(mode="median")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20),
    st.lists(st.integers(1, 6), min_size=1, max_size=6), st.sampled_from(["max", "average"]),
)  # fmt: skip
def test_the_module_is_the_concatenation_of_adaptive_pools(batch, channels, height, width, levels, mode):
    x = torch.randn(batch, channels, height, width)
    pool = nn.AdaptiveMaxPool2d if mode == "max" else nn.AdaptiveAvgPool2d
    module = SpatialPyramidPooling(levels, mode)
    pooled = module(x)
    assert torch.equal(pooled, torch.cat([pool(n)(x).flatten(1) for n in levels], dim=1))
    assert pooled.shape == (batch, module.out_features(channels))


def test_average_passes_gradcheck():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SpatialPyramidPooling((1, 2, 3), "average"), (x,))


def test_the_gradient_of_the_maximum_is_autograds():
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, SpatialPyramidPooling((3, 2, 1)).out_features(3), dtype=torch.float64)
    (SpatialPyramidPooling((3, 2, 1))(x) * weights).sum().backward()
    mine, x.grad = x.grad, None
    pools = torch.cat([nn.AdaptiveMaxPool2d(n)(x).flatten(1) for n in (3, 2, 1)], dim=1)
    (pools * weights).sum().backward()
    assert torch.equal(mine, x.grad)


def test_pool_windows_of_the_whole_map_is_the_module_reordered():
    x = torch.randn(6, 11, 13)
    vectors = pool_windows(x, np.array([[0, 0, 13, 11]]), (4, 2, 1))  # [1, bins, C]
    flat = SpatialPyramidPooling((4, 2, 1))(x[None])
    parts = flat.split([6 * 16, 6 * 4, 6], dim=1)
    assert torch.equal(vectors[0], torch.cat([part.view(6, -1).T for part in parts]))
