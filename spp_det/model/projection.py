"""Which cells of the conv5 map a window pools: P, appendix A, for any convolutional network.

Cell ``j`` of a map of stride ``S`` and offset ``o`` is centred on pixel ``S * j + o`` of the network's input.
A window pools the cells whose centres lie strictly between the centres of its first and last pixels, or
the nearest cell where no centre lies there. With ``o = 0`` (padding of floor(p/2) before every filter of
size p, as in ZF-5) the first and last cells are the paper's ``left = floor(x / S) + 1`` and
``right = ceil(x / S) - 1``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spp_det.boxes import Boxes, Ints
from spp_det.model.geometry import Geometry

REFERENCE_AREA = 224.0 * 224.0  # pixels: the images of the pre-training (P section 4.1)


def project(windows: Boxes, geometry: Geometry, height: int, width: int) -> Ints:
    """Windows in pixels of the network's input to half-open rectangles of its ``height x width`` cells.

    ``[N, 4] -> int64 [N, 4]``. Each rectangle lies inside the map and has at least one cell: an empty window,
    or a window outside the image, takes the cell nearest to its centre.

    >>> zf5 = Geometry(stride=16, offset=0, receptive_field=139, smallest_input=1)
    >>> project(np.float32([[10, 20, 101, 81]]), zf5, height=30, width=40).tolist()
    [[1, 2, 7, 5]]
    """
    windows = windows.astype(np.float64)
    cells = np.array([width, height])
    # The pixel at index i covers [i, i + 1): the first and last pixels of a window are x1 and x2 - 1.
    first_pixel, last_pixel = windows[:, :2], windows[:, 2:] - 1  # [N, 2]: x, y
    start = np.floor((first_pixel - geometry.offset) / geometry.stride) + 1
    stop = np.ceil((last_pixel - geometry.offset) / geometry.stride)
    start, stop = np.maximum(start, 0), np.minimum(stop, cells)
    middle = ((first_pixel + last_pixel) / 2 - geometry.offset) / geometry.stride
    nearest = np.clip(np.floor(middle + 0.5), 0, cells - 1)
    none = start >= stop
    start, stop = np.where(none, nearest, start), np.where(none, nearest + 1, stop)
    return np.concatenate([start, stop], axis=1).astype(np.int64)


def distinct_rectangles(rectangles: Ints) -> tuple[Ints, Ints]:
    """The distinct rows ``[M, 4]`` of ``[N, 4]``, and for each row its place ``[N]`` among them.

    At coarse strides many windows share a rectangle of cells. Coordinates are below 2**15.
    """
    keys = ((rectangles[:, 0] << 15 | rectangles[:, 1]) << 15 | rectangles[:, 2]) << 15 | rectangles[:, 3]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rectangles[first], inverse


def closest_scale(windows: Boxes, factors: Sequence[float]) -> Ints:
    """For each window the scale at which its area is closest to 224 x 224 pixels (P section 4.1).

    ``[N, 4]`` windows in pixels of the original image and S enlargement factors ``-> [N]`` indices into
    ``factors``. Ties go to the first.

    >>> closest_scale(np.float32([[0, 0, 500, 400], [0, 0, 90, 110]]), factors=(1.0, 2.0)).tolist()
    [0, 1]
    """
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.float64)
    scaled_areas = (sides[:, 0] * sides[:, 1])[:, None] * np.square(np.asarray(factors, np.float64))  # [N, S]
    closest: Ints = np.abs(scaled_areas - REFERENCE_AREA).argmin(axis=1)
    return closest
