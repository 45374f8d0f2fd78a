"""Pooling by whole-tensor operations against the CPU's kernels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.model.pooling_accelerator import pool_on_accelerator
from spp_det.model.pooling_cpu import pool_on_cpu
from spp_det.model.pyramid import plan_of, pool_windows
from tests.rectangles import LEVELS, maps_and_rectangles, random_rectangles


@settings(max_examples=60, deadline=None)
@given(maps_and_rectangles(), LEVELS, st.sampled_from(["max", "average"]))
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
    windows = random_rectangles(2000, 43, 57)
    on_cuda = pool_windows(feature_map.cuda(), torch.from_numpy(windows).cuda())
    assert torch.equal(on_cuda.cpu(), pool_windows(feature_map, windows))
