"""Pooling windows on the CPU: compiled kernels over a channels-last map; the cores share the windows out.

The kernels release the GIL and are compiled once an installation (``cache=True``). Plain threads share out
the windows, because numba's own thread pools may not be entered from two threads at once. The kernels read
memory unchecked: `spp_det.model.pyramid` checks what its callers give.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Ints
from spp_det.kernels import numba
from spp_det.model.projection import distinct_rectangles
from spp_det.runtime.threads import on_all_cores

_CHUNK = 32  # rectangles a task: small enough to even out large and small rectangles between the cores
_TILE = 4  # vectors, and classes, whose products `_multiply` sums at a time
_HELD = 2 * _TILE  # vectors that are scored together: they stay in a core's second-level cache


def pool_on_cpu(channels_last: Tensor, windows: Ints, plan: Ints, average: bool) -> Tensor:
    """``[h, w, C], [N, 4] -> [N, bins, C]``; ``plan`` from `spp_det.model.pyramid.plan_of`."""
    cells = channels_last.numpy()
    bins = int((plan[:, 0] ** 2).sum())
    # numpy asks the operating system for huge pages and torch does not: that halves the call for 100 MB.
    vectors = np.empty((len(windows), bins, cells.shape[2]), cells.dtype)
    distinct, inverse = distinct_rectangles(windows)
    sharers = np.argsort(inverse, kind="stable")  # windows, those of one rectangle side by side
    ends = np.cumsum(np.bincount(inverse))

    def pool_chunk(start: int) -> None:
        stop = min(start + _CHUNK, len(distinct))
        _pool_kernel(cells, distinct, sharers, ends, start, stop, plan, average, vectors)

    on_all_cores(pool_chunk, range(0, len(distinct), _CHUNK))
    return torch.from_numpy(vectors)


def score_on_cpu(
    channels_last: Tensor,
    windows: Ints,
    plan: Ints,
    average: bool,
    weight: Tensor,
    bias: Tensor,
    length: float,
) -> Tensor:
    """``[h, w, C], [N, 4] -> [N, K]``: the products with ``weight [K, bins * C]`` plus ``bias [K]``.

    Each vector is first scaled to the Euclidean ``length``; 0 leaves it as it is.
    """
    cells = channels_last.numpy()
    weights = F.pad(weight, (0, 0, 0, -len(bias) % _TILE)).contiguous().numpy()
    biases = bias.contiguous().numpy()
    scores = np.empty((len(windows), len(bias)), np.float32)

    def score_chunk(start: int) -> None:
        chunk = slice(start, start + _CHUNK)
        _score_kernel(cells, windows[chunk], plan, average, weights, biases, length, scores[chunk])

    on_all_cores(score_chunk, range(0, len(windows), _CHUNK))
    return torch.from_numpy(scores)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _pool_kernel(cells, distinct, sharers, ends, start, stop, plan, average, vectors):  # type: ignore[no-untyped-def]
    """Pool the rectangles ``start:stop`` of ``distinct``; windows of one rectangle get copies of its vector.

    ``cells [h, w, C]``, ``vectors [N, bins, C]``; rectangle r belongs to the windows
    ``sharers[ends[r - 1]:ends[r]]``; ``plan`` from `plan_of`.
    """
    for r in range(start, stop):
        first_sharer = ends[r - 1] if r > 0 else 0
        vector = vectors[sharers[first_sharer]]
        _pool(cells, distinct[r], plan, average, vector)
        for k in range(first_sharer + 1, ends[r]):  # while the vector is still in the cache
            vectors[sharers[k]] = vector


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _score_kernel(  # type: ignore[no-untyped-def]
    cells, windows, plan, average, weight, bias, length, scores
):
    """Fill in ``scores [N, K]`` of ``windows [N, 4]``; the vectors of a few windows at a time fit the cache.

    ``weight [K', D]`` has rows of zeros up to a multiple of `_TILE`; ``length`` 0 leaves vectors as they are.
    """
    channels = cells.shape[2]
    vectors = np.empty((_HELD, weight.shape[1] // channels, channels), cells.dtype)
    flat = vectors.reshape(_HELD, weight.shape[1])
    products = np.empty((_HELD, weight.shape[0]), cells.dtype)
    for start in range(0, len(windows), _HELD):
        stop = min(start + _HELD, len(windows))
        for r in range(start, stop):
            _pool(cells, windows[r], plan, average, vectors[r - start])
        for k in range(0, weight.shape[0], _TILE):  # each weight is read once for all the vectors held
            for i in range(0, stop - start, _TILE):
                _multiply(flat[i : i + _TILE], weight[k : k + _TILE], products[i : i + _TILE, k : k + _TILE])
        for r in range(start, stop):
            scale = np.float32(1)
            if length > 0:
                scale = np.float32(length / max(np.sqrt(_square(flat[r - start])), 1e-12))
            for k in range(len(bias)):
                scores[r, k] = products[r - start, k] * scale + bias[k]


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _multiply(x, w, out):  # type: ignore[no-untyped-def]
    """``out [4, 4] = x [4, D] @ w [4, D].T``: sixteen sums in registers, each number read serves four.

    BLAS would first copy the vectors into an order of its own: most of the work where classes are few.
    """
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
    for i in range(x.shape[1]):
        a, b, c, d = x0[i], x1[i], x2[i], x3[i]
        p, q, r, s = w0[i], w1[i], w2[i], w3[i]
        a0, a1, a2, a3 = a0 + a * p, a1 + a * q, a2 + a * r, a3 + a * s
        b0, b1, b2, b3 = b0 + b * p, b1 + b * q, b2 + b * r, b3 + b * s
        c0, c1, c2, c3 = c0 + c * p, c1 + c * q, c2 + c * r, c3 + c * s
        d0, d1, d2, d3 = d0 + d * p, d1 + d * q, d2 + d * r, d3 + d * s
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = a0, a1, a2, a3
    out[1, 0], out[1, 1], out[1, 2], out[1, 3] = b0, b1, b2, b3
    out[2, 0], out[2, 1], out[2, 2], out[2, 3] = c0, c1, c2, c3
    out[3, 0], out[3, 1], out[3, 2], out[3, 3] = d0, d1, d2, d3


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _square(x):  # type: ignore[no-untyped-def]
    """The sum of the squares of ``x [D]``."""
    total = np.float32(0)
    for d in range(x.shape[0]):
        total += x[d] * x[d]
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _pool(cells, rectangle, plan, average, vector):  # type: ignore[no-untyped-def]
    """``vector [bins, C]`` of one rectangle of ``cells [h, w, C]``."""
    channels = cells.shape[2]
    x1, y1 = rectangle[0], rectangle[1]
    width, height = rectangle[2] - x1, rectangle[3] - y1
    for step in range(plan.shape[0]):
        n, first, finer, finer_first = plan[step]
        finer_bins = vector[finer_first : finer_first + finer * finer].reshape(finer, finer, channels)
        group = finer // n
        for row in range(n):
            for column in range(n):
                out = vector[first + row * n + column]
                if finer > 0:
                    top, left = row * group, column * group
                    _maximum(finer_bins, top, top + group, left, left + group, out)
                    continue
                top, bottom = y1 + row * height // n, y1 + ((row + 1) * height + n - 1) // n
                left, right = x1 + column * width // n, x1 + ((column + 1) * width + n - 1) // n
                if average:
                    _mean(cells, top, bottom, left, right, out)
                else:
                    _maximum(cells, top, bottom, left, right, out)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _maximum(cells, top, bottom, left, right, out):  # type: ignore[no-untyped-def]
    """``out [C]`` = maximum of ``cells[top:bottom, left:right]``, four cells at a time."""
    channels = cells.shape[2]
    fresh = True
    for y in range(top, bottom, 2):
        below = min(y + 1, bottom - 1)
        for x in range(left, right, 2):
            beside = min(x + 1, right - 1)
            a, b, c, d = cells[y, x], cells[y, beside], cells[below, x], cells[below, beside]
            if fresh:
                for k in range(channels):
                    ab = a[k] if a[k] > b[k] else b[k]
                    cd = c[k] if c[k] > d[k] else d[k]
                    out[k] = ab if ab > cd else cd
                fresh = False
            else:
                for k in range(channels):
                    ab = a[k] if a[k] > b[k] else b[k]
                    cd = c[k] if c[k] > d[k] else d[k]
                    abcd = ab if ab > cd else cd
                    out[k] = out[k] if out[k] > abcd else abcd


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _mean(cells, top, bottom, left, right, out):  # type: ignore[no-untyped-def]
    """``out [C]`` = mean of ``cells[top:bottom, left:right]``."""
    channels = cells.shape[2]
    count = (bottom - top) * (right - left)
    for k in range(channels):
        out[k] = 0
    for y in range(top, bottom):
        for x in range(left, right):
            cell = cells[y, x]
            for k in range(channels):
                out[k] += cell[k]
    for k in range(channels):
        out[k] /= count
