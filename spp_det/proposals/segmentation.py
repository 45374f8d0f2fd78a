"""Graph segmentation (Felzenszwalb and Huttenlocher, IJCV 2004): an image falls into regions of like pixels.

Pixels are the nodes of a graph. An edge joins a pixel with its right and with its lower neighbour; its weight
is the Euclidean distance of their colours after a Gaussian blur. The edges are visited from the lightest to
the heaviest. An edge between two components ``A`` and ``B`` merges them where its weight is at most

    min(Int(A) + k / |A|, Int(B) + k / |B|)                                     (their equations 3 and 4)

where ``Int`` is the heaviest edge inside a component so far and ``|A|`` its number of pixels: the larger
``k``, the larger the regions. At the end, components of fewer than ``min_size`` pixels join a neighbour.

Two things are done once for all granularities ``k``. The edges are sorted (`sort_edges`); equal weights keep
the order of the pixels, row by row, the edge to the right first. And what all granularities agree on is
merged (`agree`): most edges, because a component of few pixels merges at any ``k``. From there `segment` goes
on for one ``k``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.kernels import numba
from spp_det.proposals.presets import SIGMA
from spp_det.runtime.opencv import cv2

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Graph:
    """Components that all granularities between two limits make, and edges on which they may differ.

    Attributes:
        labels: int32 ``[H, W]``, the component of each pixel, numbered from 0 in the order of first pixels.
        sizes: int32 ``[N]``, the pixels of each component.
        inside: float32 ``[N]``, the heaviest edge inside each component.
        ends: int32 ``[E, 2]``, the two components that each edge joins, the lightest edge first.
        weights: float32 ``[E]``, the weights of these edges.
    """

    labels: Labels
    sizes: Labels
    inside: Floats
    ends: Labels
    weights: Floats


def sort_edges(image: npt.NDArray[np.uint8]) -> tuple[Labels, Floats]:
    """All edges of an image uint8 ``[H, W, C]``, the lightest first.

    Returns the edges int32 ``[E]`` and their weights float32 ``[E]``. The edge from pixel ``p = y * W + x``
    to the right has the number ``2 * p``, the edge downwards ``2 * p + 1``.
    """
    height, width, channels = image.shape
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SIGMA).reshape(height, width, channels)
    count = height * (width - 1) + (height - 1) * width
    ids, weights = np.empty((2, count), np.int32), np.empty((2, count), np.float32)
    _weigh(blurred, ids[0], weights[0])
    _radix_sort(ids, weights.view(np.uint32))
    return ids[1], weights[1]


def agree(image: npt.NDArray[np.uint8], least: float, most: float) -> Graph:
    """Segment an image uint8 ``[H, W, C]`` as far as all granularities from ``least`` to ``most`` agree.

    Needs 64 bytes a pixel for a while; the result takes at most 36.
    """
    height, width = image.shape[:2]
    ids, weights = sort_edges(image)
    labels = np.empty(height * width, np.int32)
    parents, records = np.empty(height * width, np.int32), np.empty((height * width, 2), np.int32)
    sizes, inside, ends, left = _agree(ids, weights, width, least, most, parents, records, labels)
    return Graph(labels.reshape(height, width), sizes, inside, ends, left)


def segment(graph: Graph, k: float, min_size: int) -> tuple[Labels, int]:
    """The regions at a granularity ``k`` within the graph's limits, of at least ``min_size`` pixels.

    Returns int32 ``[H, W]``, the region of each pixel, numbered from 0 by their first pixels, row by row; and
    the number of regions.
    """
    regions, count = _segment(graph.sizes, graph.inside, graph.ends, graph.weights, k, min_size)
    return regions[graph.labels], count


# ---------------------------------------------------------------- the edges, in order


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _weigh(blurred, ids, weights):  # type: ignore[no-untyped-def]
    """Write all edges of ``blurred [H, W, C]``, row by row."""
    height, width, channels = blurred.shape
    e = 0
    for y in range(height):
        for x in range(width):
            pixel = y * width + x
            for down in range(2):
                if (y if down else x) + 1 == (height if down else width):
                    continue
                other = blurred[y + down, x + 1 - down]
                square = np.float32(0)
                for c in range(channels):
                    difference = blurred[y, x, c] - other[c]
                    square += difference * difference
                ids[e], weights[e] = 2 * pixel + down, np.sqrt(square)
                e += 1


_TOP, _LOW = 12, 10  # bits of a weight's digits: 12 at the top, of which none is above 2176, and twice 10


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _radix_sort(ids, bits):  # type: ignore[no-untyped-def]
    """Sort ``ids[0]`` by ``bits[0]``, the bits of floats not below zero, into ``ids[1]`` and ``bits[1]``.

    Such floats are in the order of their bits. A first pass over all edges parts them by their top digit;
    each part then fits into a processor's own cache, where two passes sort it by its low digits.
    """
    ends, low = np.empty((1 << _TOP) + 1, np.int64), np.empty((1 << _LOW) + 1, np.int64)
    _sort_by_digit(ids[0], bits[0], ids[1], bits[1], 2 * _LOW, ends)
    first = 0
    for digit in range(1 << _TOP):
        stop = ends[digit]
        if stop - first > 1:
            part = slice(first, stop)
            _sort_by_digit(ids[1, part], bits[1, part], ids[0, part], bits[0, part], 0, low)
            _sort_by_digit(ids[0, part], bits[0, part], ids[1, part], bits[1, part], _LOW, low)
        first = stop


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sort_by_digit(from_ids, from_bits, to_ids, to_bits, shift, ends):  # type: ignore[no-untyped-def]
    """Sort by the digit that begins at bit ``shift``; edges of equal digits keep their order. Writes
    ``ends``, where the edges of each digit end. It has one place more than there are digits."""
    mask = len(ends) - 2
    ends[:] = 0
    for e in range(len(from_bits)):
        ends[(from_bits[e] >> shift & mask) + 1] += 1
    for digit in range(mask + 1):
        ends[digit + 1] += ends[digit]
    for e in range(len(from_bits)):
        digit = from_bits[e] >> shift & mask
        place = ends[digit]
        ends[digit] = place + 1
        to_ids[place], to_bits[place] = from_ids[e], from_bits[e]


# ---------------------------------------------------------------- components, each a tree

_BLOCK = 128  # edges whose ends are looked up together


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _look_up(parents, ends, roots, which):  # type: ignore[no-untyped-def]
    """Find the components that a block of edges ``ends [B, 2]`` joins, before any of them merges.

    Writes, for each edge between two components, their ``roots``, or nodes near these, and the edge's place
    to ``which``. Returns the number of such edges. Without a branch between them, a processor looks up
    several edges at once.
    """
    found = 0
    for i in range(len(ends)):
        a, b = parents[parents[ends[i, 0]]], parents[parents[ends[i, 1]]]
        parents[ends[i, 0]], parents[ends[i, 1]] = a, b  # shortens the way to the root
        roots[found, 0], roots[found, 1], which[found] = a, b, i
        found += a != b
    return found


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fetch(sizes, roots):  # type: ignore[no-untyped-def]
    """Read the sizes of a block's components, several at once, before each is needed in its turn.

    The result has no meaning. It is there because a compiler leaves out reads whose result nobody takes.
    """
    total = 0
    for i in range(len(roots)):
        total ^= sizes[roots[i, 0]] ^ sizes[roots[i, 1]]
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _root(parents, node):  # type: ignore[no-untyped-def]
    """The node that stands for a component, which is its own parent."""
    while parents[node] != node:
        node = parents[node]
    return node


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _join(parents, sizes, a, b):  # type: ignore[no-untyped-def]
    """Make one component of two, given by their roots; the root of the larger one stays and is returned."""
    larger = a if sizes[a] >= sizes[b] else b
    smaller = a + b - larger
    parents[smaller] = larger
    sizes[larger] += sizes[smaller]
    return larger


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _number(parents, labels, root_of):  # type: ignore[no-untyped-def]
    """Write ``labels``, the components of the nodes, numbered by their first node, and ``root_of`` the
    components; return their number."""
    labels[:] = -1
    count = 0
    for node in range(len(labels)):
        root = _root(parents, node)
        if labels[root] < 0:
            labels[root] = count
            root_of[count] = root
            count += 1
        labels[node] = labels[root]
    return count


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _agree(ids, weights, width, least, most, parents, records, labels):  # type: ignore[no-untyped-def]
    """Write ``labels [H * W]`` of `Graph`, return its other arrays.

    Where the least ``k`` merges two components, all do; where the greatest does not, none does. Otherwise
    granularities differ: from then on both components are open, and so is every component that an edge joins
    to an open one. Edges of open components are left for `_segment`. A component that is not open is the same
    for all granularities.

    ``parents [H * W]`` and ``records [H * W, 2]`` are room to work in. The record of a root lies in one place
    of memory, because images are larger than a processor's caches and each place costs a wait: its number of
    pixels, below zero once the component is open, and the bits of ``Int``.
    """
    least, most = np.float32(least), np.float32(most)
    pixels = len(labels)
    sizes, heaviest = records[:, 0], records.view(np.float32)[:, 1]
    for pixel in range(pixels):
        parents[pixel], sizes[pixel], heaviest[pixel] = pixel, 1, 0
    left = np.empty(len(ids), np.int32)
    kept = 0
    ends, roots = np.empty((_BLOCK, 2), np.int32), np.empty((_BLOCK + 1, 2), np.int32)
    which = np.empty(_BLOCK + 1, np.int32)
    for start in range(0, len(ids), _BLOCK):
        count = min(_BLOCK, len(ids) - start)
        for i in range(count):
            ends[i, 0] = ids[start + i] >> 1
            ends[i, 1] = ends[i, 0] + (width if ids[start + i] & 1 else 1)
        found = _look_up(parents, ends[:count], roots, which)
        which[_BLOCK] = _fetch(sizes, roots[:found])
        for i in range(found):
            a, b = _root(parents, roots[i, 0]), _root(parents, roots[i, 1])
            if a == b:
                continue
            e = start + which[i]
            weight = weights[e]
            size_a, size_b = sizes[a], sizes[b]
            opens = size_a < 0 or size_b < 0
            if not opens:
                part_a, part_b = np.float32(size_a), np.float32(size_b)
                if weight <= heaviest[a] + least / part_a and weight <= heaviest[b] + least / part_b:
                    heaviest[_join(parents, sizes, a, b)] = weight
                    continue
                opens = weight <= heaviest[a] + most / part_a and weight <= heaviest[b] + most / part_b
            if opens:
                sizes[a], sizes[b] = -abs(size_a), -abs(size_b)
            left[kept] = e
            kept += 1

    root_of = np.empty(pixels, np.int32)
    count = _number(parents, labels, root_of)
    component_sizes, inside = np.empty(count, np.int32), np.empty(count, np.float32)
    for component in range(count):
        root = root_of[component]
        component_sizes[component], inside[component] = abs(sizes[root]), heaviest[root]
    left_ends, left_weights = np.empty((kept, 2), np.int32), np.empty(kept, np.float32)
    for i in range(kept):
        e = left[i]
        pixel = ids[e] >> 1
        left_ends[i, 0] = labels[pixel]
        left_ends[i, 1] = labels[pixel + (width if ids[e] & 1 else 1)]
        left_weights[i] = weights[e]
    return component_sizes, inside, left_ends, left_weights


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _segment(sizes, inside, ends, weights, k, min_size):  # type: ignore[no-untyped-def]
    """The region of each component of a graph, int32 ``[N]``, and the number of regions."""
    k = np.float32(k)
    parents, sizes = np.arange(len(sizes)).astype(np.int32), sizes.copy()
    limits = inside + k / sizes.astype(np.float32)  # of a root: Int + k / size
    between = np.empty((len(ends), 2), np.int32)  # components that did not merge
    kept = 0
    roots, which = np.empty((_BLOCK + 1, 2), np.int32), np.empty(_BLOCK + 1, np.int32)
    for start in range(0, len(ends), _BLOCK):
        for i in range(_look_up(parents, ends[start : start + _BLOCK], roots, which)):
            a, b = _root(parents, roots[i, 0]), _root(parents, roots[i, 1])
            if a == b:
                continue
            weight = weights[start + which[i]]
            if weight <= limits[a] and weight <= limits[b]:
                root = _join(parents, sizes, a, b)
                limits[root] = weight + k / np.float32(sizes[root])
            else:
                between[kept, 0], between[kept, 1] = a, b
                kept += 1
    for i in range(kept):
        a, b = _root(parents, between[i, 0]), _root(parents, between[i, 1])
        if a != b and (sizes[a] < min_size or sizes[b] < min_size):
            _join(parents, sizes, a, b)
    labels, root_of = np.empty((2, len(sizes)), np.int32)
    return labels, _number(parents, labels, root_of)
