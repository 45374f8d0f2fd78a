"""The CUDA kernel of pooling against the CPU's; without a GPU, Triton interprets it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.model.pooling_cpu import pool_on_cpu
from spp_det.model.pyramid import plan_of
from tests.rectangles import random_rectangles

pytest.importorskip("triton")
from spp_det.model import pooling_triton
from spp_det.model.pooling_triton import pool_by_triton, pool_places, takes

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:triton"
)  # of numpy, which stands in for a GPU
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.contiguous().view(torch.int64 if numbers.dtype == torch.float64 else torch.int32)


def awkward(height: int, width: int, channels: int) -> torch.Tensor:
    """Cells with ties, both zeros, NaN and infinities among them."""
    generator = torch.Generator().manual_seed(channels)
    cells = torch.randn(height, width, channels, generator=generator).round(decimals=1)
    special = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf])
    where = torch.rand(cells.shape, generator=generator) < 0.3
    return torch.where(where, special[torch.randint(5, cells.shape, generator=generator)], cells)


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (1, 2, 4), (4, 3, 1, 1), (7,), (5, 2)])
def test_maxima_equal_the_cpus_to_the_bit_whatever_the_cells_hold(levels):
    cells, plan = awkward(11, 14, 5), plan_of(levels, "max")
    windows = np.concatenate([random_rectangles(3, 11, 14), [[0, 0, 14, 11], [13, 10, 14, 11], [2, 3, 9, 5]]])
    pooled = pool_by_triton(cells.to(DEVICE), windows, plan, average=False).cpu()
    assert torch.equal(bits(pooled), bits(pool_on_cpu(cells, windows, plan, average=False)))


@pytest.mark.parametrize("channels", [1, 128, 131])  # a part of a block, a block, more
def test_every_channel_is_pooled(channels):
    cells, plan = torch.randn(6, 5, channels), plan_of((2, 1), "max")
    windows = random_rectangles(4, 6, 5)
    pooled = pool_by_triton(cells.to(DEVICE), windows, plan, average=False).cpu()
    assert torch.equal(pooled, pool_on_cpu(cells, windows, plan, average=False))


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (3, 4)])
def test_means_equal_the_cpus_to_rounding(levels):
    cells, plan = torch.randn(9, 12, 3), plan_of(levels, "average")
    windows = random_rectangles(5, 9, 12)
    pooled = pool_by_triton(cells.to(DEVICE), windows, plan, average=True).cpu()
    torch.testing.assert_close(pooled, pool_on_cpu(cells, windows, plan, average=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["max", "average"])
def test_every_dtype_is_pooled_as_float32_or_wider(dtype, mode):
    cells, plan = torch.randn(7, 8, 4).to(dtype), plan_of((3, 1), mode)
    windows, average = random_rectangles(4, 7, 8), mode == "average"
    pooled = pool_by_triton(cells.to(DEVICE), windows, plan, average).cpu()
    wide = cells if dtype == torch.float64 else cells.float()
    expected = pool_on_cpu(wide, windows, plan, average).to(dtype)
    assert pooled.dtype == dtype
    torch.testing.assert_close(
        pooled, expected, rtol=0 if mode == "max" else None, atol=0 if mode == "max" else None
    )


def test_windows_of_several_maps_are_pooled_together():
    maps = [torch.randn(5, 7, 3), torch.randn(9, 4, 3)]
    windows = [random_rectangles(2, 5, 7), random_rectangles(3, 9, 4)]
    places = [
        np.column_stack([windows[k], np.full((len(windows[k]), 2), [(0, 7), (35, 4)][k])]) for k in (0, 1)
    ]
    cells = torch.cat([each.flatten(0, 1) for each in maps]).to(DEVICE)
    plan = plan_of((2, 1), "max")
    pooled = pool_places(cells, torch.from_numpy(np.concatenate(places)).to(DEVICE), plan, average=False)
    expected = [pool_on_cpu(each, own, plan, average=False) for each, own in zip(maps, windows, strict=True)]
    assert torch.equal(pooled.cpu(), torch.cat(expected))


def test_no_windows_and_no_channels_are_no_launch():
    plan = plan_of((2,), "max")
    none = np.zeros((0, 4), np.int64)
    assert pool_by_triton(torch.rand(3, 3, 2).to(DEVICE), none, plan, average=False).shape == (0, 4, 2)
    one = np.array([[0, 0, 1, 1]])
    assert pool_by_triton(torch.rand(3, 3, 0).to(DEVICE), one, plan, average=False).shape == (1, 4, 0)


def test_what_would_be_too_long_a_program_is_left_to_others():
    cells = torch.rand(3, 3, 2)
    assert takes(cells, plan_of((6, 3, 2, 1), "average"))
    assert not takes(cells, plan_of((8, 4), "max"))
    assert not takes(cells.expand(2**15, 2**15, 2, 3, 3, 2), plan_of((1,), "max"))


def test_coarser_levels_are_made_as_soon_as_their_bins_are_there():
    """Few numbers are then held at a time: two rows of bins, and what was made of the others."""
    steps = pooling_triton._steps(tuple(map(tuple, plan_of((6, 3, 2, 1), "max").tolist())))
    assert sorted(step[0] for step in steps if step[0] >= 0) == list(range(50))
    last_use = {
        source: i for i, (_, n, _, before, *four) in enumerate(steps) if not n for source in (before, *four)
    }
    held = max(sum(1 for j in range(i + 1) if last_use.get(j, -1) > i) for i in range(len(steps)))
    assert held <= 20
