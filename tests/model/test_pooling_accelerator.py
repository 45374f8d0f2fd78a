"""Pooling by whole-tensor operations against the CPU's kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.model.pooling_accelerator import pool_on_accelerator
from spp_det.model.pooling_cpu import pool_on_cpu
from spp_det.model.pyramid import plan_of, pool_windows


@st.composite
def maps_and_windows(draw: st.DrawFn) -> tuple[torch.Tensor, np.ndarray]:
    channels = draw(st.sampled_from([1, 2, 3, 7, 16, 31, 64, 513]) | st.integers(1, 513))
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal((channels, height, width)).astype(np.float32)
    if draw(st.booleans()):  # as after a ReLU: many exact ties
        values = np.maximum(values, 0)
    feature_map = torch.from_numpy(values)
    if draw(st.booleans()):
        feature_map = feature_map[None].to(memory_format=torch.channels_last)[0]
    count = draw(st.integers(0, 40))
    x = np.sort(np.stack([rng.integers(0, width, count), rng.integers(0, width, count)], 1), axis=1)
    y = np.sort(np.stack([rng.integers(0, height, count), rng.integers(0, height, count)], 1), axis=1)
    return feature_map, np.stack([x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], axis=1).astype(np.int64)


LEVELS = st.lists(st.integers(1, 8), min_size=1, max_size=5) | st.just([6, 3, 2, 1])


@settings(max_examples=60, deadline=None)
@given(maps_and_windows(), LEVELS, st.sampled_from(["max", "average"]))
def test_the_accelerator_path_gives_the_same_numbers(case, levels, mode):
    feature_map, windows = case
    if len(windows) == 0:
        return
    cells = feature_map.permute(1, 2, 0).contiguous()
    fast = pool_on_accelerator(cells, windows, plan_of(levels, mode), mode == "average")
    slow = pool_on_cpu(cells, windows, plan_of(levels, mode), mode == "average")
    if mode == "max":
        assert torch.equal(fast, slow)
    else:
        torch.testing.assert_close(fast, slow)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu_to_the_bit():
    feature_map = torch.randn(256, 43, 57)
    windows = random_windows(2000, 43, 57)
    on_cuda = pool_windows(feature_map.cuda(), torch.from_numpy(windows).cuda())
    assert torch.equal(on_cuda.cpu(), pool_windows(feature_map, windows))


def random_windows(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, width, count), rng.integers(0, height, count)
    return np.stack([x1, y1, rng.integers(x1, width) + 1, rng.integers(y1, height) + 1], axis=1)
