"""Hierarchical grouping: against the paper's algorithm with a plain list of similarities."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.proposals.grouping import group
from spp_det.proposals.regions import Regions

PIXELS = 10_000_000
STRATEGIES = ("CFTS", "FTS", "C", "F", "T", "S", "CS", "CFT")


def some_regions(count: int, seed: int) -> Regions:
    """Regions of random looks; their neighbours are a tree and a few pairs more."""
    generator = np.random.default_rng(seed)
    low = generator.integers(0, 80, (count, 2))
    boxes = np.concatenate([low, low + generator.integers(5, 20, (count, 2))], axis=1)
    pairs = {(int(generator.integers(0, b)), b) for b in range(1, count)}
    pairs |= {tuple(sorted(pair)) for pair in generator.integers(0, count, (2 * count, 2)).tolist()}
    histograms = [generator.random((count, bins)).astype(np.float32) for bins in (75, 240)]
    colour, texture = (h / h.sum(1, keepdims=True) for h in histograms)
    sizes = generator.integers(1, PIXELS // count, count)  # so large that hardly two pairs are alike
    return Regions(sizes, boxes, np.array(sorted(p for p in pairs if p[0] != p[1])), colour, texture)


def slow(regions: Regions, cues: str) -> list[list[int]]:
    """Algorithm 1 of the paper."""
    sizes, boxes = regions.sizes.astype(float).tolist(), regions.boxes.tolist()
    colour, texture = list(regions.colour.astype(float)), list(regions.texture.astype(float))

    def similarity(a: int, b: int) -> float:
        both = box(a, b)
        area = (both[2] - both[0]) * (both[3] - both[1])
        values = {
            "C": np.minimum(colour[a], colour[b]).sum(),
            "T": np.minimum(texture[a], texture[b]).sum(),
            "S": 1 - (sizes[a] + sizes[b]) / PIXELS,
            "F": 1 - (area - sizes[a] - sizes[b]) / PIXELS,
        }
        return sum(values[cue] for cue in cues) / len(cues)

    def box(a: int, b: int) -> list[int]:
        return np.r_[np.minimum(boxes[a][:2], boxes[b][:2]), np.maximum(boxes[a][2:], boxes[b][2:])].tolist()

    similarities = {(a, b): similarity(a, b) for a, b in regions.pairs.tolist()}
    while similarities:
        a, b = max(similarities, key=lambda pair: similarities[pair])
        merged = len(sizes)
        boxes.append(box(a, b))
        for histograms in (colour, texture):
            histograms.append((histograms[a] * sizes[a] + histograms[b] * sizes[b]) / (sizes[a] + sizes[b]))
        sizes.append(sizes[a] + sizes[b])
        around = {r for pair in similarities for r in pair if {a, b} & set(pair)} - {a, b}
        similarities = {pair: s for pair, s in similarities.items() if not {a, b} & set(pair)}
        similarities |= {(other, merged): similarity(other, merged) for other in around}
    return boxes[len(regions.sizes) :]


@pytest.mark.parametrize("cues", STRATEGIES)
@pytest.mark.parametrize("count", [2, 3, 7, 60])
def test_regions_merge_as_by_a_list_of_all_similarities(cues, count):
    for seed in range(3):
        regions = some_regions(count, seed)
        assert group(regions, cues, PIXELS).tolist() == slow(regions, cues)


def test_one_region_has_nothing_to_merge_with():
    one = some_regions(2, 0)
    alone = Regions(one.sizes[:1], one.boxes[:1], np.empty((0, 2), np.int64), one.colour[:1], one.texture[:1])
    for cues in STRATEGIES:
        assert group(alone, cues, PIXELS).shape == (0, 4)


def test_the_regions_given_are_left_as_they_were():
    regions, same = some_regions(20, 1), some_regions(20, 1)
    group(regions, "CFTS", PIXELS)
    for name in ("sizes", "boxes", "pairs", "colour", "texture"):
        assert np.array_equal(getattr(regions, name), getattr(same, name))


def test_of_equally_similar_pairs_the_first_and_then_the_last_compared_merges():
    """Four like regions in a row: 0 and 1 merge first, and then what was compared since."""
    boxes = np.array([[x, 0, x + 1, 1] for x in range(4)])
    like = np.full((4, 75), 1 / 75, np.float32)
    regions = Regions(np.ones(4, np.int64), boxes, np.array([[0, 1], [1, 2], [2, 3]]), like, like)
    equal = Regions(regions.sizes, boxes, regions.pairs, np.eye(4, 75, dtype=np.float32), like)
    assert group(equal, "C", 4).tolist() == [[0, 0, 2, 1], [0, 0, 3, 1], [0, 0, 4, 1]]


def test_a_star_of_regions_keeps_no_pair_twice():
    """One region beside all others, which touch in a row: at every merge two pairs become one."""
    count = 400
    ring = [[i, i + 1] for i in range(1, count - 1)]
    pairs = np.array(sorted([[0, i] for i in range(1, count)] + ring))
    regions = some_regions(count, 0)
    wheel = Regions(regions.sizes, regions.boxes, pairs, regions.colour, regions.texture)
    assert group(wheel, "CFTS", PIXELS).tolist() == slow(wheel, "CFTS")
