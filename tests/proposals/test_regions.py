"""What describes regions: tables by hand, and OpenCV's own similarities, which show its histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from spp_det.proposals import regions as module
from spp_det.proposals.regions import Regions, describe, diagonal_derivatives, texture_of
from spp_det.runtime.opencv import cv2


def described(image: np.ndarray, labels: np.ndarray) -> Regions:
    return describe(image, labels.astype(np.int32), int(labels.max()) + 1, texture_of(image))


def blocks(height: int, width: int, side: int) -> np.ndarray:
    """A map of squares, numbered by row."""
    across = -(-width // side)
    return np.arange(height)[:, None] // side * across + np.arange(width) // side


def test_sizes_boxes_and_neighbours_of_a_small_map():
    labels = np.array([[0, 0, 1], [2, 0, 1], [2, 3, 3]])
    found = described(np.zeros((3, 3, 3), np.uint8), labels)
    assert found.sizes.tolist() == [3, 2, 2, 2]
    assert found.boxes.tolist() == [[0, 0, 2, 2], [2, 0, 3, 2], [0, 1, 1, 3], [1, 2, 3, 3]]
    assert found.pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_neighbours_are_those_that_opencv_looks_at(height, width, count, seed):
    """Left, above, and above to the left, but not along the first row and the first column, where a strip of
    one pixel has all its neighbours."""
    labels = np.random.default_rng(seed).integers(0, count, (height, width))
    labels = np.unique(labels, return_inverse=True)[1].reshape(height, width)
    expected = set()
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1)):
                if y >= dy and x >= dx and ((y and x) or 1 in (height, width)):
                    expected.add(tuple(sorted((int(labels[y, x]), int(labels[y - dy, x - dx])))))
    found = described(np.zeros((height, width, 1), np.uint8), labels)
    assert [tuple(pair) for pair in found.pairs.tolist()] == sorted(p for p in expected if p[0] != p[1])


@pytest.mark.parametrize(
    "shape",
    [(96, 128), (97, 127), (128, 33), (20, 200), (200, 21), (3, 90), (90, 4), (1, 80), (80, 1), (5, 5)],
)
@pytest.mark.parametrize("kind", ["colour", "gray", "uniform channel"])
def test_similarities_are_opencvs(shape, kind):
    """Narrow images too, whose rotated derivatives begin elsewhere."""
    height, width = shape
    photo = load_sample_image("flower.jpg")[150 : 150 + height, 200 : 200 + width].copy()
    if kind == "gray":
        photo = photo[:, :, 1:2].copy()
    if kind == "uniform channel":
        photo[:, :, 2] = 9
    labels = blocks(height, width, 9).astype(np.int32)
    found = described(photo, labels)
    strategies = {
        "colour": cv2.ximgproc.segmentation.createSelectiveSearchSegmentationStrategyColor(),
        "texture": cv2.ximgproc.segmentation.createSelectiveSearchSegmentationStrategyTexture(),
    }
    for name, strategy in strategies.items():
        histograms = getattr(found, name)
        assert np.allclose(histograms.sum(1), 1, atol=1e-5)
        strategy.setImage(photo, labels, found.sizes.astype(np.int32), -1)
        for a, b in found.pairs.tolist():
            ours = np.minimum(histograms[a], histograms[b]).sum()
            assert strategy.get(a, b) == pytest.approx(ours, abs=2e-6), (name, a, b)


@pytest.mark.parametrize("upright", [False, True])
def test_a_long_image_is_described_in_pieces_as_in_one(monkeypatch, upright):
    """But for rounding: OpenCV rotates in steps of a 32nd of a pixel, and these depend on where it begins."""
    image = load_sample_image("china.jpg")[200:212].copy()  # 12 x 640
    if upright:
        image = np.ascontiguousarray(image.swapaxes(0, 1))
    whole = module._rotated_derivatives(image, cut=False)
    monkeypatch.setattr(module, "SHORTEST_PIECE", 200)
    for piecewise, one in zip(diagonal_derivatives(image), whole, strict=True):
        assert piecewise.shape == one.shape == image.shape
        assert np.corrcoef(piecewise.ravel(), one.ravel())[0, 1] > 0.98
