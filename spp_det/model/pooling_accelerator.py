"""Pooling windows on devices where the CPU's compiled kernels do not run.

On CUDA that is the kernel of `spp_det.model.pooling_triton`, elsewhere whole-tensor operations. The maxima
equal those of `spp_det.model.pooling_cpu` to the bit, the means to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Ints
from spp_det.errors import one_line

logger = logging.getLogger(__name__)


@cache
def compiles_kernels(device: torch.device) -> bool:
    """Whether Triton is there and compiles for the device: tried once, with a warning where it fails on CUDA.

    It comes with torch's builds for CUDA, needs a C compiler, and knows no old devices.
    """
    if device.type != "cuda":
        return False
    try:
        from spp_det.model.pooling_triton import pool_by_triton

        cell, plan = torch.ones((1, 1, 1), device=device), np.array([[1, 0, 0, 0]])
        return bool(pool_by_triton(cell, np.array([[0, 0, 1, 1]]), plan, average=False).item() == 1)
    except Exception as error:  # whatever a driver, a compiler or another version has to say
        logger.warning("Triton compiles nothing for this GPU, so it is slower: %s", one_line(str(error)))
        return False


def pool_on_accelerator(channels_last: Tensor, windows: Ints, plan: Ints, average: bool) -> Tensor:
    """``[h, w, C], [N, 4] -> [N, bins, C]``; ``plan`` from `spp_det.model.pyramid.plan_of`."""
    if compiles_kernels(channels_last.device):
        from spp_det.model import pooling_triton

        if pooling_triton.takes(channels_last, plan):
            return pooling_triton.pool_by_triton(channels_last, windows, plan, average)
    return pool_by_tensor_operations(channels_last, windows, plan, average)


def pool_by_tensor_operations(channels_last: Tensor, windows: Ints, plan: Ints, average: bool) -> Tensor:
    """``[h, w, C], [N, 4] -> [N, bins, C]``; ``plan`` from `spp_det.model.pyramid.plan_of`."""
    channels = channels_last.shape[2]
    steps: list[list[int]] = plan.tolist()
    vectors = channels_last.new_empty((len(windows), sum(n * n for n, *_ in steps), channels))
    region_of = _region_means if average else _region_maxima
    corners = torch.from_numpy(windows).to(channels_last.device)
    coarsest = min(n for n, _, finer, _ in steps if not finer)
    sides = (corners[:, 2:] - corners[:, :2]).amax(0)
    across, down = ((sides + coarsest - 1) // coarsest + 1).minimum(sides).tolist()  # of the largest bin
    region = region_of(channels_last, across, down)
    for n, first, finer, finer_first in steps:
        out = vectors[:, first : first + n * n]
        if finer:
            grid = vectors[:, finer_first : finer_first + finer * finer]
            blocks = grid.reshape(-1, n, finer // n, n, finer // n, channels)
            out.copy_(blocks.amax((2, 4)).flatten(1, 2))
            continue
        i = torch.arange(n, device=corners.device)
        x1, y1, x2, y2 = corners[:, :, None].unbind(1)  # [N, 1] each
        top, bottom = y1 + i * (y2 - y1) // n, y1 + ((i + 1) * (y2 - y1) + n - 1) // n  # [N, n]
        left, right = x1 + i * (x2 - x1) // n, x1 + ((i + 1) * (x2 - x1) + n - 1) // n  # [N, n]
        out.copy_(region(top[:, :, None], bottom[:, :, None], left[:, None], right[:, None]).flatten(1, 2))
    return vectors


_Region = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # four broadcast edges [N, n, n] -> [N, n, n, C]


def _region_maxima(cells: Tensor, across: int, down: int) -> _Region:
    """A function for the maxima of rectangles of ``cells [h, w, C]``, at most ``across x down`` cells large.

    Four blocks of ``2^p x 2^q`` cells, one in each corner, cover a rectangle; they may overlap. A table holds
    the maxima of the blocks of every size, so that a rectangle costs four look-ups however large it is.
    """
    height, width, channels = cells.shape
    powers_across, powers_down = across.bit_length(), down.bit_length()

    def doubled(block: Tensor, axis: int, by: int) -> Tensor:
        # Beyond the border the last cell is repeated; no rectangle asks for such a block.
        shifted = torch.arange(by, block.shape[axis] + by, device=cells.device).clamp_(
            max=block.shape[axis] - 1
        )
        return torch.maximum(block, block.index_select(axis, shifted))

    column = [cells]
    for p in range(powers_down - 1):
        column.append(doubled(column[-1], 0, 2**p))
    rows = [column]
    for q in range(powers_across - 1):
        rows.append([doubled(block, 1, 2**q) for block in rows[-1]])
    table = torch.stack([torch.stack(blocks) for blocks in rows]).view(-1, channels)  # [q, p, y, x] -> C

    def region(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        p = torch.frexp((bottom - top).double()).exponent.long() - 1  # floor(log2(side))
        q = torch.frexp((right - left).double()).exponent.long() - 1
        plane = (q * powers_down + p) * height
        low, far = bottom - 2**p, right - 2**q
        best = table[(plane + top) * width + left]
        for y, x in ((top, far), (low, left), (low, far)):
            best = torch.maximum(best, table[(plane + y) * width + x])
        return best

    return region


def _region_means(cells: Tensor, across: int, down: int) -> _Region:  # noqa: ARG001  (as _region_maxima)
    """As `_region_maxima`, for means: four look-ups in an integral image, in float64."""
    integral = F.pad(cells.double().cumsum(0).cumsum(1), (0, 0, 1, 0, 1, 0))

    def region(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        total = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
        return (total / ((bottom - top) * (right - left))[..., None]).to(cells.dtype)

    return region
