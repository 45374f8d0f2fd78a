"""Graph segmentation: what the paper says, done slowly, and OpenCV's own on photographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from spp_det.proposals.segmentation import SIGMA, Labels, agree, segment, sort_edges
from spp_det.runtime.opencv import cv2


def slow(image: np.ndarray, k: float, min_size: int) -> Labels:
    """Felzenszwalb and Huttenlocher's algorithm with sets, one granularity at a time."""
    height, width = image.shape[:2]
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SIGMA).reshape(height * width, -1)
    edges = []
    for pixel in range(height * width):
        for other in (pixel + 1 if (pixel + 1) % width else None, pixel + width):
            if other is not None and other < height * width:
                square = np.float32(0)
                for difference in blurred[pixel] - blurred[other]:
                    square += difference * difference
                edges.append((np.sqrt(square), pixel, other))
    edges.sort(key=lambda edge: edge[0])  # stable
    component = {pixel: {pixel} for pixel in range(height * width)}
    inside = {id(members): np.float32(0) for members in component.values()}

    def merge(a: set[int], b: set[int], weight: np.float32) -> None:
        a |= b
        inside[id(a)] = weight
        component.update(dict.fromkeys(b, a))

    for weight, pixel, other in edges:
        a, b = component[pixel], component[other]
        limits = [inside[id(c)] + np.float32(k) / np.float32(len(c)) for c in (a, b)]
        if a is not b and weight <= min(limits):
            merge(a, b, weight)
    for weight, pixel, other in edges:
        a, b = component[pixel], component[other]
        if a is not b and min(len(a), len(b)) < min_size:
            merge(a, b, weight)
    firsts = sorted({min(members) for members in component.values()})
    return np.array([firsts.index(min(component[p])) for p in range(height * width)]).reshape(height, width)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    levels=st.integers(1, 256),
    ks=st.lists(st.integers(1, 2000), min_size=1, max_size=4),
    min_size=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_granularity_gives_what_the_paper_says(shape, levels, ks, min_size, seed):
    """Few levels of gray give many equal weights."""
    image = np.random.default_rng(seed).integers(0, levels, shape).astype(np.uint8)
    graph = agree(image, min(ks), max(ks))
    for k in ks:
        labels, count = segment(graph, k, min_size)
        assert np.array_equal(labels, slow(image, k, min_size))
        assert count == labels.max() + 1


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("code", [cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2Lab, cv2.COLOR_RGB2GRAY])
def test_the_regions_of_a_photo_are_opencvs(name, code):
    photo = cv2.resize(load_sample_image(name), (320, 213), interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(photo, code)
    graph = agree(image.reshape(213, 320, -1), 50, 450)
    for k, min_size in ((50, 50), (150, 100), (450, 100)):
        create = cv2.ximgproc.segmentation.createGraphSegmentation
        labels, count = segment(graph, k, min_size)
        assert count > 10
        assert np.array_equal(labels, create(SIGMA, k, min_size).processImage(image))
        assert np.bincount(labels.ravel()).min() >= min_size


def test_edges_come_sorted_and_equal_ones_in_the_order_of_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 31, 3)).astype(np.uint8)
    image[10:30] = 7
    ids, weights = sort_edges(image)
    assert len(set(ids.tolist())) == len(ids) == 40 * 30 + 39 * 31
    assert (np.diff(weights) >= 0).all()
    assert (weights == 0).sum() > 100
    assert (np.diff(ids)[np.diff(weights) == 0] > 0).all()


def test_what_granularities_agree_on_leaves_little():
    """The reason why `segment` is quick: on a photo most pixels are in few components before it begins."""
    image = np.ascontiguousarray(load_sample_image("china.jpg"))
    graph = agree(image, 150, 450)
    assert len(graph.sizes) < 0.2 * image.shape[0] * image.shape[1]
    assert len(graph.weights) < 0.4 * 2 * image.shape[0] * image.shape[1]
    assert graph.sizes.sum() == image.shape[0] * image.shape[1]
