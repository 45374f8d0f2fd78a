"""Pooling windows on a CUDA device by one kernel: every level of every window in one launch.

The kernel meets the cells in the order of `spp_det.model.pooling_cpu` and compares them as it does: maxima
are equal to the bit, NaN and the sign of zero included. Means are equal to rounding.

A program makes the bins of one window for a block of channels. Its threads read neighbouring channels of a
cell together, four cells at a time; a bin stays in registers until the coarser levels have been made of it,
which is as soon as can be, so that registers suffice for many programs at a time.
Scores are not made here: a window by itself would read the weights of all classes, which are more than its
cells. One product of all vectors follows instead.

Triton comes with torch's builds for CUDA. Beside this module only `suppression_triton` imports it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from spp_det.boxes import Ints
from spp_det.runtime.devices import uploaded

MOST_BINS = 64  # of a pyramid that the kernel takes: its program is unrolled over them
BLOCK = 128  # channels of a program, of one warp: each thread reads four neighbours, 16 bytes of float32

_Step = tuple[int, ...]  # see `_steps`


def pool_by_triton(channels_last: Tensor, windows: Ints, plan: Ints, average: bool) -> Tensor:
    """``[h, w, C], [N, 4] -> [N, bins, C]``; ``plan`` from `spp_det.model.pyramid.plan_of`."""
    height, width, channels = channels_last.shape
    map_of = np.full((len(windows), 2), [0, width])
    places = uploaded(np.column_stack([windows, map_of]), channels_last.device)
    return pool_places(channels_last.view(height * width, channels), places, plan, average)


def pool_places(cells: Tensor, places: Tensor, plan: Ints, average: bool) -> Tensor:
    """``[cells, C], [N, 6] -> [N, bins, C]`` in the dtype of the cells.

    Args:
        cells: the cells of one map or of several maps, row by row and map after map; contiguous.
        places: int64, contiguous; of each window ``(x1, y1, x2, y2)``, half-open in cells of its map, inside
            it and at least one cell large, then the number of the map's first cell, and the map's width. The
            kernel reads memory unchecked.
        plan: from `spp_det.model.pyramid.plan_of`; see `takes`.
    """
    bins, channels = int((plan[:, 0] ** 2).sum()), cells.shape[1]
    vectors = cells.new_empty((len(places), bins, channels))
    if vectors.numel():
        grid = (len(places), triton.cdiv(channels, BLOCK))
        steps = _steps(tuple(map(tuple, plan.tolist())))
        with torch.cuda.device_of(cells):
            _pool[grid](cells, places, vectors, channels, bins, steps, average, BLOCK, num_warps=1)
    return vectors


def takes(cells: Tensor, plan: Ints) -> bool:
    """Whether the kernel pools these cells by that plan: offsets inside a map are int32."""
    return int((plan[:, 0] ** 2).sum()) <= MOST_BINS and cells.numel() < 2**31


@cache
def _steps(plan: tuple[tuple[int, int, int, int], ...]) -> tuple[_Step, ...]:
    """The steps of the kernel: each makes a number, and perhaps stores it as a bin.

    A step is ``(bin, n, place, before, a, b, c, d)``. The number is of the cells of bin ``place`` of level
    ``n``; or, where ``n`` is 0, the greatest of the numbers of the steps ``a, b, c, d`` and of ``before``, if
    that is not negative. ``bin`` is where it is stored; negative: nowhere.
    """
    steps: list[_Step] = []
    step_of: dict[int, int] = {}  # of each bin that is made
    waiting: dict[int, list[list[int]]] = {}  # of each other bin, the bins it is made of, four at a time
    before: dict[int, int] = {}
    for n, first, finer, finer_first in plan:
        for place in range(n * n) if finer else ():
            side = finer // n
            top, left = place // n * side, place % n * side
            fours = waiting[first + place] = []
            for y in range(top, top + side, 2):
                for x in range(left, left + side, 2):
                    below, beside = min(y + 1, top + side - 1), min(x + 1, left + side - 1)
                    fours.append([finer_first + r * finer + c for r in (y, below) for c in (x, beside)])

    def make_what_can_be_made() -> None:
        for bin, fours in waiting.items():  # finer levels first
            while fours and all(source in step_of for source in fours[0]):
                sources = [step_of[source] for source in fours.pop(0)]
                steps.append((-1 if fours else bin, 0, 0, before.get(bin, -1), *sources))
                before[bin] = len(steps) - 1
                if not fours:
                    step_of[bin] = len(steps) - 1

    for n, first, finer, _ in plan:
        for place in range(0 if finer else n * n):
            steps.append((first + place, n, place, -1, 0, 0, 0, 0))
            step_of[first + place] = len(steps) - 1
            if place % n == n - 1:  # a row is done
                make_what_can_be_made()
    return tuple(steps)


@triton.jit
def _greatest(best, a, b, c, d):
    """Of two numbers the second, unless the first is greater: so a CPU treats NaN."""
    ab = tl.where(a > b, a, b)
    cd = tl.where(c > d, c, d)
    abcd = tl.where(ab > cd, ab, cd)
    return tl.where(best > abcd, best, abcd)


@triton.jit
def _maximum(corner, top, bottom, left, right, pitch, channels: tl.constexpr, inside, wide: tl.constexpr):
    best = tl.full(inside.shape, float("-inf"), wide)
    for y in range(top, bottom, 2):
        above, below = y * pitch, tl.minimum(y + 1, bottom - 1) * pitch
        for x in range(left, right, 2):
            beside = tl.minimum(x + 1, right - 1)
            a = tl.load(corner + (above + x) * channels, inside, 0.0)
            b = tl.load(corner + (above + beside) * channels, inside, 0.0)
            c = tl.load(corner + (below + x) * channels, inside, 0.0)
            d = tl.load(corner + (below + beside) * channels, inside, 0.0)
            best = _greatest(best, a.to(wide), b.to(wide), c.to(wide), d.to(wide))
    return best


@triton.jit
def _mean(corner, top, bottom, left, right, pitch, channels: tl.constexpr, inside, wide: tl.constexpr):
    total = tl.zeros(inside.shape, wide)
    for y in range(top, bottom):
        for x in range(left, right):
            total += tl.load(corner + (y * pitch + x) * channels, inside, 0.0).to(wide)
    return total / ((bottom - top) * (right - left)).to(wide)


@triton.jit
def _pool(
    cells,
    places,
    vectors,
    channels: tl.constexpr,
    bins: tl.constexpr,
    steps: tl.constexpr,
    average: tl.constexpr,
    block: tl.constexpr,
):
    """One window and one block of channels."""
    window = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < channels
    place = places + 6 * window
    x1, y1 = tl.load(place), tl.load(place + 1)
    width, height = (tl.load(place + 2) - x1).to(tl.int32), (tl.load(place + 3) - y1).to(tl.int32)
    pitch = tl.load(place + 5)
    corner = cells + (tl.load(place + 4) + y1 * pitch + x1) * channels + channel
    pitch = pitch.to(tl.int32)
    out = vectors + window * (bins * channels) + channel
    wide: tl.constexpr = tl.float64 if cells.dtype.element_ty == tl.float64 else tl.float32
    made = ()  # by each step, its number
    for i in tl.static_range(len(steps)):
        if steps[i][1] > 0:
            top = steps[i][2] // steps[i][1] * height // steps[i][1]
            bottom = ((steps[i][2] // steps[i][1] + 1) * height + steps[i][1] - 1) // steps[i][1]
            left = steps[i][2] % steps[i][1] * width // steps[i][1]
            right = ((steps[i][2] % steps[i][1] + 1) * width + steps[i][1] - 1) // steps[i][1]
            if average:
                number = _mean(corner, top, bottom, left, right, pitch, channels, inside, wide)
            else:
                number = _maximum(corner, top, bottom, left, right, pitch, channels, inside, wide)
        else:
            number = tl.full((block,), float("-inf"), wide)
            if steps[i][3] >= 0:
                number = made[steps[i][3]]
            a, b, c, d = made[steps[i][4]], made[steps[i][5]], made[steps[i][6]], made[steps[i][7]]
            number = _greatest(number, a, b, c, d)
        if steps[i][0] >= 0:
            tl.store(out + steps[i][0] * channels, number.to(vectors.dtype.element_ty), inside)
        made = made + (number,)  # noqa: RUF005  (Triton knows no stars)
