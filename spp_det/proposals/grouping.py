"""Hierarchical grouping of regions (Uijlings et al., IJCV 2013, section 3.1): the two most similar neighbours
merge, again and again, until a single region is left.

Regions are compared by cues, each between 0 and 1 (their section 3.2); a strategy is a set of cues, and its
similarity is their mean:

C   colour    the intersection of the colour histograms
T   texture   the intersection of the texture histograms
S   size      1 minus the part of the image that both cover: small regions merge early
F   fill      1 minus the part of the image that their common box leaves over: no holes

The pairs of neighbours lie in a heap, the most similar pair on top. When region ``b`` merges into ``a``,
lists give the pairs of both. These pairs are compared again and move in the heap. Where two of them now join
the same regions, one is dropped, so there are never more pairs than at the beginning. Among equally similar
pairs, the pair that was compared last merges first; at the beginning it is the first in `Regions.pairs`.
"""

from __future__ import annotations

import numpy as np

from spp_det.boxes import Ints
from spp_det.kernels import numba
from spp_det.proposals.regions import Regions

CUES = "CFTS"


def group(regions: Regions, cues: str, pixels: int) -> Ints:
    """The boxes of all regions that merging makes, int64 ``[R - 1, 4]`` as `Regions.boxes`.

    Args:
        regions: R regions, all connected through neighbours.
        cues: letters of `CUES`, in this order.
        pixels: size of the image.

    Similarities are rounded as in OpenCV, which weighs each of three cues by .3333.
    """
    colour, texture = (
        histograms.copy() if cue in cues else np.empty((len(histograms), 0), np.float32)
        for cue, histograms in (("C", regions.colour), ("T", regions.texture))
    )
    made = np.empty((len(regions.sizes) - 1, 4), np.int64)
    _group(
        colour, texture, "F" in cues, "S" in cues, regions.sizes.copy(), regions.boxes.copy(),
        regions.pairs, pixels, round(1 / len(cues), 4), made,
    )  # fmt: skip
    return made


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _group(  # type: ignore[no-untyped-def]
    colour, texture, by_fill, by_size, sizes, boxes, pairs, pixels, weight, made
):
    """Write ``made [R - 1, 4]``. Of two regions that merge, ``a`` becomes the merged region."""
    regions, count = len(sizes), len(pairs)
    weight = np.float32(weight)
    # Each pair p is in the lists of both its regions: as half 2 * p in the list of pairs[p, 0], and as half
    # 2 * p + 1 in the list of pairs[p, 1]. ends[half] is the region whose list holds the half.
    ends = pairs.copy().reshape(2 * count)
    following = np.empty(2 * count, np.int64)
    first = np.full(regions, -1, np.int64)
    for half in range(2 * count - 1, -1, -1):
        following[half] = first[ends[half]]
        first[ends[half]] = half
    similarity = np.empty(count, np.float32)
    heap, places = np.arange(count), np.arange(count)
    turns, turn = -np.arange(count), 0  # when a pair was compared
    around = np.empty(2 * count, np.int64)
    common, values = np.empty((2, 2 * count), np.float32)
    seen = np.full(regions, -1, np.int64)

    start = 0
    while start < count:
        stop = start
        while stop < count and pairs[stop, 0] == pairs[start, 0]:
            around[stop - start] = 2 * stop
            stop += 1
        _compare(
            pairs[start, 0], around[: stop - start], ends, colour, texture, by_fill, by_size, sizes, boxes,
            pixels, weight, common, values,
        )  # fmt: skip
        similarity[start:stop] = values[: stop - start]
        start = stop
    for place in range(count // 2 - 1, -1, -1):
        _sift_down(heap, places, similarity, turns, place, count)

    held = count
    for step in range(regions - 1):
        best = heap[0]
        a, b = ends[2 * best], ends[2 * best + 1]
        _mix(colour, a, b, sizes)
        _mix(texture, a, b, sizes)
        sizes[a] += sizes[b]
        boxes[a, 0], boxes[a, 1] = min(boxes[a, 0], boxes[b, 0]), min(boxes[a, 1], boxes[b, 1])
        boxes[a, 2], boxes[a, 3] = max(boxes[a, 2], boxes[b, 2]), max(boxes[a, 3], boxes[b, 3])
        made[step] = boxes[a]
        found = 0
        for region in (a, b):
            half = first[region]
            while half >= 0:
                pair = half >> 1
                other = ends[half ^ 1]
                if places[pair] >= 0:  # else it was dropped while another region merged
                    if other in (a, b) or seen[other] == step:
                        held = _drop(heap, places, similarity, turns, pair, held)
                    else:
                        seen[other] = step
                        ends[half] = a
                        around[found] = half
                        found += 1
                half = following[half]
        first[a] = -1
        for i in range(found):
            following[around[i]] = first[a]
            first[a] = around[i]
        _compare(
            a, around[:found], ends, colour, texture, by_fill, by_size, sizes, boxes, pixels, weight, common,
            values,
        )  # fmt: skip
        for i in range(found):
            pair, turn = around[i] >> 1, turn + 1
            similarity[pair], turns[pair] = values[i], turn
            _sift_up(heap, places, similarity, turns, places[pair])
            _sift_down(heap, places, similarity, turns, places[pair], held)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _compare(  # type: ignore[no-untyped-def]
    a, around, ends, colour, texture, by_fill, by_size, sizes, boxes, pixels, weight, common, result
):
    """Write ``result[i]``, the similarity of ``a`` to the region at the other end of ``around[i]``."""
    result[: len(around)] = 0
    total = np.float32(0)
    if colour.shape[1]:
        total += weight
        _add_common(colour, a, around, ends, weight, common, result)
    if by_fill:
        total += weight
        for i in range(len(around)):
            b = ends[around[i] ^ 1]
            width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
            height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
            hole = np.float32(width * height - sizes[a] - sizes[b])
            result[i] += weight * (np.float32(1) - hole / np.float32(pixels))
    if texture.shape[1]:
        total += weight
        _add_common(texture, a, around, ends, weight, common, result)
    if by_size:
        total += weight
        for i in range(len(around)):
            both = np.float32(sizes[a] + sizes[ends[around[i] ^ 1]])
            result[i] += weight * (np.float32(1) - both / np.float32(pixels))
    for i in range(len(around)):
        result[i] /= total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_common(histograms, a, around, ends, weight, common, result):  # type: ignore[no-untyped-def]
    """Add to ``result[i]`` the weighted intersection of the histograms of ``a`` and of the i-th neighbour.

    Every sum runs from the first bin to the last, as in OpenCV: another order would round differently. Four
    sums at a time keep the processor busy.
    """
    own = histograms[a]
    for i in range(0, len(around), 4):
        last = len(around) - 1
        p, q = histograms[ends[around[i] ^ 1]], histograms[ends[around[min(i + 1, last)] ^ 1]]
        r, s = histograms[ends[around[min(i + 2, last)] ^ 1]], histograms[ends[around[min(i + 3, last)] ^ 1]]
        w = x = y = z = np.float32(0)
        for b in range(len(own)):
            w += min(own[b], p[b])
            x += min(own[b], q[b])
            y += min(own[b], r[b])
            z += min(own[b], s[b])
        common[i], common[min(i + 1, last)], common[min(i + 2, last)], common[min(i + 3, last)] = w, x, y, z
    for i in range(len(around)):
        result[i] += weight * common[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _mix(histograms, a, b, sizes):  # type: ignore[no-untyped-def]
    """Give region ``a`` the histogram of ``a`` and ``b`` together."""
    m, n = np.float32(sizes[a]), np.float32(sizes[b])
    both = np.float32(sizes[a] + sizes[b])
    for i in range(histograms.shape[1]):
        histograms[a, i] = (histograms[a, i] * m + histograms[b, i] * n) / both


# ---------------------------------------------------------------- a heap of pairs, and each pair's place


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _before(similarity, turns, p, q):  # type: ignore[no-untyped-def]
    return similarity[p] > similarity[q] or (similarity[p] == similarity[q] and turns[p] > turns[q])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put(heap, places, pair, place):  # type: ignore[no-untyped-def]
    heap[place] = pair
    places[pair] = place


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sift_up(heap, places, similarity, turns, place):  # type: ignore[no-untyped-def]
    pair = heap[place]
    while place > 0:
        parent = (place - 1) // 2
        if not _before(similarity, turns, pair, heap[parent]):
            break
        _put(heap, places, heap[parent], place)
        place = parent
    _put(heap, places, pair, place)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sift_down(heap, places, similarity, turns, place, held):  # type: ignore[no-untyped-def]
    pair = heap[place]
    while 2 * place + 1 < held:
        child = 2 * place + 1
        if child + 1 < held and _before(similarity, turns, heap[child + 1], heap[child]):
            child += 1
        if not _before(similarity, turns, heap[child], pair):
            break
        _put(heap, places, heap[child], place)
        place = child
    _put(heap, places, pair, place)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _drop(heap, places, similarity, turns, pair, held):  # type: ignore[no-untyped-def]
    """Take a pair out of the heap; return the number of pairs that are left."""
    place, last = places[pair], heap[held - 1]
    places[pair] = -1
    if last != pair:
        _put(heap, places, last, place)
        _sift_up(heap, places, similarity, turns, place)
        _sift_down(heap, places, similarity, turns, places[last], held - 1)
    return held - 1
