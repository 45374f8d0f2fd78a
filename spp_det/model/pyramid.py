"""Spatial pyramid pooling: a map, or any window of it, becomes a vector of fixed length (P section 2.2).

Level ``n`` lays an ``n x n`` grid over the region; each bin keeps the maximum (or the mean) of each
channel. Bin ``i`` of ``n`` over a side of ``a`` cells covers ``[floor(i*a/n), ceil((i+1)*a/n))``, so a
side shorter than the grid is legal: neighbouring bins then repeat a cell.

Three doors: `SpatialPyramidPooling` pools whole maps in a batch and carries gradients; `pool_windows` pools
thousands of windows of one map; `score_windows` multiplies their vectors by the weights of linear classifiers
before they leave a core's cache. `pool_windows` beats one `roi_pool` call a level for three reasons, and none
of them is an approximation:

1. Windows that project onto the same rectangle of cells are pooled once.
2. If ``n`` divides ``m``, bin ``i`` of ``n`` is exactly the union of bins ``i*m/n .. (i+1)*m/n - 1`` of
   ``m``: of the levels 6, 3, 2, 1 only the 6x6 reads the map, the others are maxima of its bins.
3. The map is channels-last: the innermost loop runs over neighbours in memory, one vector
   instruction for many channels, and each core takes its own share of the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.boxes import Ints
from spp_det.runtime.threads import on_all_cores

Mode = Literal["max", "average"]
DETECTION_LEVELS = (6, 3, 2, 1)  # 50 bins (P section 4.1)
CLASSIFICATION_LEVELS = (1, 2, 4)


def num_bins(levels: Sequence[int]) -> int:
    """Bins of a pyramid: the sum of ``n * n`` over its levels.

    Raises ValueError where a level is not a positive integer or there are none.

    >>> num_bins((6, 3, 2, 1))
    50
    """
    if not levels or any(int(n) != n or n < 1 for n in levels):
        raise ValueError(f"pyramid levels must be positive integers, got {tuple(levels)}")
    return sum(n * n for n in levels)


def mirrored_bins(levels: Sequence[int]) -> Ints:
    """int64 ``[bins]``: which bin takes the place of each when left and right are exchanged.

    ``vectors[:, mirrored_bins(levels)]`` of ``[N, bins, C]`` is, to the bit, what pooling the mirrored map
    gives for the mirrored rectangles: the bins' bounds are symmetric.

    >>> mirrored_bins((1, 2)).tolist()
    [0, 2, 1, 4, 3]
    """
    starts = np.cumsum([0, *(n * n for n in levels)])
    grids = [start + np.arange(n * n).reshape(n, n) for start, n in zip(starts, levels, strict=False)]
    return np.concatenate([grid[:, ::-1].ravel() for grid in grids])


class SpatialPyramidPooling(nn.Module):
    """``[B, C, H, W] -> [B, C * bins]`` for any H and W of at least 1 (P section 2.2).

    The flat order is level, channel, row, column: the concatenation of ``adaptive_pool(x, n).flatten(1)``
    over ``levels``. Differentiable.

    >>> pool = SpatialPyramidPooling(levels=(1, 2, 4))
    >>> pool(torch.zeros(2, 256, 13, 10)).shape, pool(torch.zeros(2, 256, 7, 20)).shape
    (torch.Size([2, 5376]), torch.Size([2, 5376]))
    >>> pool.out_features(256)
    5376
    """

    def __init__(self, levels: Sequence[int] = CLASSIFICATION_LEVELS, mode: Mode = "max") -> None:
        super().__init__()
        self.bins = num_bins(levels)
        self.levels = tuple(int(n) for n in levels)
        self.mode = _checked_mode(mode)

    def forward(self, x: Tensor) -> Tensor:
        pool = F.adaptive_max_pool2d if self.mode == "max" else F.adaptive_avg_pool2d
        return torch.cat([pool(x, n).flatten(1) for n in self.levels], dim=1)

    def out_features(self, channels: int) -> int:
        """Length of the vector for a map of that many channels."""
        return channels * self.bins

    def extra_repr(self) -> str:
        return f"levels={self.levels}, mode={self.mode!r}"


@torch.no_grad()
def pool_windows(
    feature_map: Tensor,
    windows: Tensor | Ints,
    levels: Sequence[int] = DETECTION_LEVELS,
    mode: Mode = "max",
) -> Tensor:
    """Pool every window of one map: ``[C, h, w], [N, 4] -> [N, bins, C]`` (P section 4.1).

    Args:
        feature_map: floating point ``[C, h, w]`` on any device. A map whose memory is channels-last
            is read in place.
        windows: int64 ``[N, 4]``, ``(x1, y1, x2, y2)`` half-open in cells, each inside the map and
            at least one cell large.
        levels: grid sizes; bins are ordered level by level as given, row-major inside a level.
        mode: ``max`` equals ``nn.AdaptiveMaxPool2d(n)`` of the crop to the bit; ``average`` equals
            ``nn.AdaptiveAvgPool2d(n)`` to rounding.

    Returns the vectors in the dtype and on the device of the map. No gradient flows: the detector's
    convolutions stay frozen (P section 4.1).

    Raises ValueError on a wrong shape, an empty window or one that leaves the map.

    >>> windows = torch.tensor([[0, 0, 20, 30], [5, 5, 6, 6]])
    >>> pool_windows(torch.rand(256, 43, 57), windows).shape
    torch.Size([2, 50, 256])
    """
    bins, mode = num_bins(levels), _checked_mode(mode)
    rectangles = _checked_rectangles(feature_map, windows)
    channels = feature_map.shape[0]
    if len(rectangles) == 0 or channels == 0:
        return feature_map.new_empty((len(rectangles), bins, channels))

    exact = feature_map if feature_map.dtype in (torch.float32, torch.float64) else feature_map.float()
    channels_last = exact.permute(1, 2, 0).contiguous()  # [h, w, C]
    pool = _pool_on_cpu if feature_map.device.type == "cpu" else _pool_on_accelerator
    return pool(channels_last, rectangles, tuple(levels), mode).to(feature_map.dtype)


@torch.no_grad()
def score_windows(
    feature_map: Tensor,
    windows: Tensor | Ints,
    weight: Tensor,
    bias: Tensor,
    levels: Sequence[int] = DETECTION_LEVELS,
    mode: Mode = "max",
    length: float | None = None,
) -> Tensor:
    """Linear scores of every window of one map: ``[C, h, w], [N, 4] -> [N, K]``.

    To rounding that is ``pool_windows(...).flatten(1) @ weight.T + bias``, in half the time, because the
    vectors are never all there. A window's scores do not depend, to the bit, on the windows beside it nor on
    the number of threads. Windows on one rectangle are each scored: leave out duplicates before.

    Args:
        feature_map, windows, levels, mode: as in `pool_windows`, but the map is float32, on the CPU.
        weight: float32 ``[K, bins * C]`` on the CPU.
        bias: float32 ``[K]`` on the CPU.
        length: the Euclidean length that each vector is scaled to first, above 0 (one of zeros stays zero);
            None: it keeps its own.

    Raises ValueError as `pool_windows` does, and where the rest is not of that form.

    >>> weight, bias = torch.rand(20, 50 * 256), torch.zeros(20)
    >>> score_windows(torch.rand(256, 43, 57), np.array([[0, 0, 20, 30], [5, 5, 6, 6]]), weight, bias).shape
    torch.Size([2, 20])
    """
    rectangles = _checked_rectangles(feature_map, windows)
    dimension, classes = num_bins(levels) * len(feature_map), bias.numel()
    shapes = {"feature_map": feature_map.shape, "weight": (classes, dimension), "bias": (classes,)}
    for (name, shape), given in zip(shapes.items(), (feature_map, weight, bias), strict=True):
        if (given.dtype, given.device.type, given.shape) != (torch.float32, "cpu", shape):
            raise ValueError(
                f"{name} must be float32 {list(shape)} on the CPU, got {given.dtype} {list(given.shape)} "
                f"on {given.device}"
            )
    if length is not None and not length > 0:
        raise ValueError(f"length must be above 0, got {length}")
    plan, average = _derivation(tuple(levels), _checked_mode(mode)), mode == "average"
    if dimension == 0:
        return bias.detach().repeat(len(rectangles), 1)
    cells = feature_map.detach().permute(1, 2, 0).contiguous().numpy()  # [h, w, C]
    weights = F.pad(weight.detach(), (0, 0, 0, -classes % _TILE)).contiguous().numpy()
    biases = bias.detach().contiguous().numpy()
    scores = np.empty((len(rectangles), classes), np.float32)

    def score_chunk(start: int) -> None:
        chunk = slice(start, start + _CHUNK)
        _score_kernel(
            cells, rectangles[chunk], plan, average, weights, biases, float(length or 0), scores[chunk]
        )

    on_all_cores(score_chunk, range(0, len(rectangles), _CHUNK))
    return torch.from_numpy(scores)


def distinct_rectangles(windows: Ints) -> tuple[Ints, Ints]:
    """The distinct rows of ``[N, 4]`` and, for each window, the row that holds it: ``[M, 4], [N]``.

    At coarse strides many windows share a rectangle of cells. Coordinates are below 2**15.
    """
    keys = ((windows[:, 0] << 15 | windows[:, 1]) << 15 | windows[:, 2]) << 15 | windows[:, 3]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return windows[first], inverse


def _checked_mode(mode: str) -> Mode:
    if mode not in ("max", "average"):
        raise ValueError(f"mode must be 'max' or 'average', got {mode!r}")
    return mode  # type: ignore[return-value]


def _checked_rectangles(feature_map: Tensor, given: Tensor | Ints) -> Ints:
    """The windows as the kernels read them, unchecked: int64 ``[N, 4]``, contiguous, inside the map."""
    windows = np.ascontiguousarray(torch.as_tensor(given).cpu().numpy(), dtype=np.int64)
    if feature_map.ndim != 3 or not feature_map.is_floating_point():
        raise ValueError(f"feature_map must be floating point [C, h, w], got {list(feature_map.shape)}")
    height, width = feature_map.shape[1:]
    if windows.ndim != 2 or windows.shape[1] != 4:
        raise ValueError(f"windows must have shape [N, 4], got {list(windows.shape)}")
    if len(windows) == 0:
        return windows
    x1, y1, x2, y2 = windows.T
    if (x2 <= x1).any() or (y2 <= y1).any():
        raise ValueError("every window must cover at least one cell: x1 < x2 and y1 < y2")
    if windows.min() < 0 or x2.max() > width or y2.max() > height:
        raise ValueError(f"a window leaves the map of {height} x {width} cells")
    return windows


def _derivation(levels: tuple[int, ...], mode: Mode) -> Ints:
    """``[L, 4]``: size, first bin, size and first bin of the level to take maxima of (0 = the map), a level.

    Ordered so that a level comes after the one that it is derived from.
    """
    start = dict(zip(levels, np.cumsum([0, *(n * n for n in levels)]).tolist(), strict=False))
    rows = []
    for i, n in sorted(enumerate(levels), key=lambda item: -item[1]):
        first = int(sum(m * m for m in levels[:i]))
        finer = [m for m in levels if m > n and m % n == 0] if mode == "max" else []
        source = min(finer, default=0)
        rows.append((n, first, source, start[source] if source else 0))
    return np.array(rows, np.int64)


_CHUNK = 32  # rectangles a task: small enough to even out large and small ones between the cores
_TILE = 4  # vectors, and classes, whose products `_multiply` sums at a time
_HELD = 2 * _TILE  # vectors that are scored together: they stay in a core's second cache


def _pool_on_cpu(channels_last: Tensor, windows: Ints, levels: tuple[int, ...], mode: Mode) -> Tensor:
    cells = channels_last.numpy()
    # numpy asks the kernel for huge pages and torch does not: for 100 MB that halves the whole call.
    vectors = np.empty((len(windows), num_bins(levels), cells.shape[2]), cells.dtype)
    plan = _derivation(levels, mode)
    distinct, inverse = distinct_rectangles(windows)
    sharers = np.argsort(inverse, kind="stable")  # windows, those of one rectangle side by side
    ends = np.cumsum(np.bincount(inverse))

    def pool_chunk(start: int) -> None:
        stop = min(start + _CHUNK, len(distinct))
        _kernel(cells, distinct, sharers, ends, start, stop, plan, mode == "average", vectors)

    on_all_cores(pool_chunk, range(0, len(distinct), _CHUNK))
    return torch.from_numpy(vectors)


# The kernels release the GIL and are compiled once an installation (cache=True). Plain threads share
# out the windows because numba's own thread pools may not be entered from two threads at once.


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _kernel(cells, distinct, sharers, ends, start, stop, plan, average, vectors):  # type: ignore[no-untyped-def]
    """Pool rectangles ``start:stop`` of ``distinct`` and hand each vector to the windows that share it.

    ``cells [h, w, C]``, ``vectors [N, bins, C]``; rectangle r belongs to the windows
    ``sharers[ends[r - 1]:ends[r]]``; ``plan`` from `_derivation`.
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
    """``scores [N, K]`` of ``windows``, a cacheful of vectors at a time.

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
    """``out [4, 4] = x [4, D] @ w [4, D].T``: sixteen sums in registers, a number read serves four.

    BLAS would first copy the vectors into an order of its own, which for few classes is most of the work.
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


def _pool_on_accelerator(channels_last: Tensor, windows: Ints, levels: tuple[int, ...], mode: Mode) -> Tensor:
    """The same numbers from whole-tensor operations, for devices where numba does not run."""
    channels = channels_last.shape[2]
    vectors = channels_last.new_empty((len(windows), num_bins(levels), channels))
    region_of = _region_maxima if mode == "max" else _region_means
    corners = torch.from_numpy(windows).to(channels_last.device)
    plan = _derivation(levels, mode).tolist()
    coarsest = min(n for n, _, finer, _ in plan if not finer)
    sides = (corners[:, 2:] - corners[:, :2]).amax(0)
    across, down = ((sides + coarsest - 1) // coarsest + 1).minimum(sides).tolist()  # of the largest bin
    region = region_of(channels_last, across, down)
    for n, first, finer, finer_first in plan:
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
    """Maxima of any rectangles of ``cells [h, w, C]`` of at most so many cells across and down.

    A rectangle is covered by four blocks of ``2^p x 2^q`` cells, one in each corner, that may overlap:
    one table of block maxima a pair (p, q), then four gathers a rectangle, however large it is.
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
    """Means of any rectangles of ``cells [h, w, C]``: four gathers from a float64 integral image."""
    integral = F.pad(cells.double().cumsum(0).cumsum(1), (0, 0, 1, 0, 1, 0))

    def region(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        total = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
        return (total / ((bottom - top) * (right - left))[..., None]).to(cells.dtype)

    return region
