"""Spatial pyramid pooling: a map, or any window of it, becomes a vector of fixed length (P section 2.2).

Level ``n`` lays an ``n x n`` grid over the region; each bin keeps the maximum (or the mean) of each
channel. Bin ``i`` of ``n`` over a side of ``a`` cells covers ``[floor(i*a/n), ceil((i+1)*a/n))``, so a
side shorter than the grid is legal: neighbouring bins then repeat a cell.

Three names are public. `SpatialPyramidPooling` pools whole maps in a batch and carries gradients;
`pool_windows` pools thousands of windows of one map; `score_windows` multiplies the windows' vectors by the
weights of linear classifiers while the vectors are in a core's cache. Kernels for the CPU are in
`spp_det.model.pooling_cpu`, tensor operations for other devices in `spp_det.model.pooling_accelerator`.

`pool_windows` is faster than one `roi_pool` call a level, for three reasons. None is an approximation:

1. Windows that project onto the same rectangle of cells are pooled once.
2. If ``n`` divides ``m``, bin ``i`` of ``n`` is exactly the union of bins ``i*m/n .. (i+1)*m/n - 1`` of
   ``m``: of the levels 6, 3, 2, 1 only the 6x6 reads the map, the others are maxima of its bins.
3. The map is channels-last: the innermost loop runs over neighbours in memory, one vector
   instruction for many channels, and each core takes its own share of the windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.boxes import Ints
from spp_det.config.values import PoolMode
from spp_det.model.pooling_accelerator import pool_on_accelerator
from spp_det.model.pooling_cpu import pool_on_cpu, score_on_cpu

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
    """The bin that takes the place of each bin when left and right are exchanged: int64 ``[bins]``.

    ``vectors[:, mirrored_bins(levels)]`` of vectors ``[N, bins, C]`` equals, to the bit, the vectors of the
    mirrored rectangles of the mirrored map: the bounds of the bins are symmetric.

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

    def __init__(self, levels: Sequence[int] = CLASSIFICATION_LEVELS, mode: PoolMode = "max") -> None:
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
    mode: PoolMode = "max",
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
    bins, plan = num_bins(levels), plan_of(levels, mode)
    rectangles = _checked_rectangles(feature_map, windows)
    channels = feature_map.shape[0]
    if len(rectangles) == 0 or channels == 0:
        return feature_map.new_empty((len(rectangles), bins, channels))

    exact = feature_map if feature_map.dtype in (torch.float32, torch.float64) else feature_map.float()
    channels_last = exact.permute(1, 2, 0).contiguous()  # [h, w, C]
    pool = pool_on_cpu if feature_map.device.type == "cpu" else pool_on_accelerator
    return pool(channels_last, rectangles, plan, mode == "average").to(feature_map.dtype)


@torch.no_grad()
def score_windows(
    feature_map: Tensor,
    windows: Tensor | Ints,
    weight: Tensor,
    bias: Tensor,
    levels: Sequence[int] = DETECTION_LEVELS,
    mode: PoolMode = "max",
    length: float | None = None,
) -> Tensor:
    """Linear scores of every window of one map: ``[C, h, w], [N, 4] -> [N, K]``.

    The result is ``pool_windows(...).flatten(1) @ weight.T + bias`` to rounding, in half the time, because
    only the vectors of a few windows exist at any moment. To the bit, a window's scores depend neither on the
    windows beside it nor on the number of threads. A rectangle that is given twice is scored twice.

    Args:
        feature_map, windows, levels, mode: as in `pool_windows`, but the map is float32, on the CPU.
        weight: float32 ``[K, bins * C]`` on the CPU.
        bias: float32 ``[K]`` on the CPU.
        length: the Euclidean length that each vector is scaled to first, above 0 (a vector of zeros stays
            as it is); None: vectors keep their own lengths.

    Raises ValueError as `pool_windows` does, and where an argument has another shape, dtype or device.

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
    plan = plan_of(levels, mode)
    if dimension == 0:
        return bias.detach().repeat(len(rectangles), 1)
    channels_last = feature_map.detach().permute(1, 2, 0).contiguous()  # [h, w, C]
    average, scale_to = mode == "average", float(length or 0)
    return score_on_cpu(channels_last, rectangles, plan, average, weight.detach(), bias.detach(), scale_to)


def plan_of(levels: Sequence[int], mode: PoolMode) -> Ints:
    """The steps in which a vector is pooled, a level each, finer levels first: int64 ``[L, 4]``.

    A row is ``(n, first bin, m, first bin of m)``: level ``n`` is made of the bins of the finer level ``m``,
    or, where ``m`` is 0, of the cells of the map. Raises ValueError for an unknown mode.

    >>> plan_of((6, 3, 2, 1), "max").tolist()
    [[6, 0, 0, 0], [3, 36, 6, 0], [2, 45, 6, 0], [1, 49, 2, 45]]
    """
    mode = _checked_mode(mode)
    start = dict(zip(levels, np.cumsum([0, *(n * n for n in levels)]).tolist(), strict=False))
    rows = []
    for i, n in sorted(enumerate(levels), key=lambda item: -item[1]):
        first = int(sum(m * m for m in levels[:i]))
        multiples = [m for m in levels if m > n and m % n == 0] if mode == "max" else []
        source = min(multiples, default=0)
        rows.append((n, first, source, start[source] if source else 0))
    return np.array(rows, np.int64)


def _checked_mode(mode: str) -> PoolMode:
    if mode not in ("max", "average"):
        raise ValueError(f"mode must be 'max' or 'average', got {mode!r}")
    return mode  # type: ignore[return-value]


def _checked_rectangles(feature_map: Tensor, given: Tensor | Ints) -> Ints:
    """The windows as the kernels need them: int64 ``[N, 4]``, contiguous, inside the map."""
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
