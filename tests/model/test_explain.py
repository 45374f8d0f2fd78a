"""Where cells lie, against gradients and projection; what bins add up to, against the scores themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spp_det.boxes import clip
from spp_det.config.network import FC, BackboneSettings
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.detector import Detector
from spp_det.model.explain import (
    CellGrid,
    best_window,
    bin_cells,
    bin_contributions,
    energy,
    find_peaks,
    inspect_window,
    spp_features,
)
from spp_det.model.features import ConvMap
from spp_det.model.geometry import Geometry, derive_geometry
from spp_det.model.model_file import ModelSettings
from spp_det.model.projection import project
from spp_det.model.pyramid import num_bins, pool_windows
from spp_det.model.rcnn import RCNNFeatures
from spp_det.model.svm import LinearSVMs
from tests import vectors

LEVELS = (3, 1)
WINDOWS = np.float32([[0, 0, 100, 110], [30, 20, 60, 80], [5, 50, 95, 58], [70, 3, 71, 90], [-9, -9, 40, 40]])

# ---------------------------------------------------------------- where cells lie


def test_the_fields_of_squeezenet_by_hand():
    """Its first cell is centred on pixel 17 and sees 155 pixels: 17 - 77 = -60 to 17 + 77 = 94, inclusive."""
    geometry = Geometry(stride=16, offset=17, receptive_field=155, smallest_input=1)
    fields = CellGrid.of(geometry, (1.0, 1.0)).fields(np.array([[0, 0], [2, 1]]))
    np.testing.assert_array_equal(fields, [[-60, -60, 95, 95], [-28, -44, 127, 111]])
    halved = CellGrid.of(geometry, (1.0, 0.5)).fields(np.array([[2, 1]]))  # the network saw half the height
    np.testing.assert_array_equal(halved, [[-28, -88, 127, 222]])


def test_a_clipped_field_is_all_that_a_cell_depends_on():
    layers = nn.Sequential(nn.Conv2d(3, 1, 5, stride=2, padding=1), nn.Conv2d(1, 1, 4, stride=2, padding=1))
    for parameter in layers.parameters():
        nn.init.ones_(parameter)
    geometry, _ = derive_geometry(layers)
    image = torch.ones(1, 3, 25, 17, requires_grad=True)
    cells = layers(image)[0, 0]
    grid = CellGrid.of(geometry, (1.0, 1.0))
    for y in range(cells.shape[0]):
        for x in range(cells.shape[1]):
            (gradient,) = torch.autograd.grad(cells[y, x], image, retain_graph=True)
            rows, columns = (gradient[0].sum((0, axis)).nonzero().flatten() for axis in (2, 1))
            seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_array_equal(clip(grid.fields(np.array([[x, y]])), 17, 25)[0], seen)


rectangles = st.tuples(*(st.integers(0, 9) for _ in range(4))).map(
    lambda r: np.array([r[0], r[1], r[0] + 1 + r[2], r[1] + 1 + r[3]])
)


@given(rectangles, st.sampled_from([(16, 0.0), (16, 7.5), (16, 17.0), (32, 3.0)]))
def test_a_window_of_some_tiles_pools_their_cells(rectangle, places):
    geometry = Geometry(*places, receptive_field=100, smallest_input=1)
    window = CellGrid.of(geometry, (1.0, 1.0)).tiles(rectangle[None])
    np.testing.assert_array_equal(project(window, geometry, height=40, width=40)[0], rectangle)


# ---------------------------------------------------------------- activations


def maps_of(*shapes, enlargements=((2.0, 2.0), (4.0, 4.0))):
    generator = torch.Generator().manual_seed(0)
    return [
        ConvMap(torch.rand(5, *shape, generator=generator), enlargement)
        for shape, enlargement in zip(shapes, enlargements, strict=False)
    ]


def test_peaks_are_the_maxima_over_all_scales():
    maps, geometry = maps_of((5, 6), (6, 8)), Geometry(16, 1.0, 30, 1)
    peaks = find_peaks(maps, geometry, width=48, height=32)
    for channel in range(5):
        value, index, y, x = max(
            (float(m.cells[channel, y, x]), index, y, x)
            for index, m in enumerate(maps)
            for y in range(m.cells.shape[1])
            for x in range(m.cells.shape[2])
        )
        assert peaks.values[channel] == value
        assert peaks.scales[channel] == index
        field = CellGrid.of(geometry, maps[index].enlargement).fields(np.array([[x, y]]))
        np.testing.assert_array_equal(peaks.fields[channel], clip(field, 48, 32)[0])
    assert len(set(peaks.scales)) == 2  # or the test shows little


def test_of_equal_activations_the_first_counts():
    peaks = find_peaks(
        [ConvMap(torch.ones(1, 3, 3), (1.0, 1.0)), ConvMap(torch.ones(1, 3, 3), (2.0, 2.0))],
        Geometry(16, 8.0, 17, 1),
        width=48,
        height=48,
    )
    assert peaks.scales.tolist() == [0]
    np.testing.assert_array_equal(peaks.fields, [[0, 0, 17, 17]])


def test_energy_is_the_length_of_a_cell():
    np.testing.assert_allclose(energy(torch.tensor([3.0, -4.0]).view(2, 1, 1)), [[5.0]])


# ---------------------------------------------------------------- bins


@given(rectangles, st.lists(st.integers(1, 7), min_size=1, max_size=3, unique=True))
@settings(max_examples=30)
def test_a_bin_is_the_maximum_of_its_cells(rectangle, levels):
    feature_map = torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(0))
    pooled = pool_windows(feature_map, rectangle[None], levels)[0]
    bins = bin_cells(rectangle, levels)
    assert len(bins) == num_bins(levels)
    for vector, (x1, y1, x2, y2) in zip(pooled, bins.tolist(), strict=True):
        assert torch.equal(vector, feature_map[:, y1:y2, x1:x2].amax((1, 2)))


def test_a_bin_whose_weights_are_zero_contributes_nothing():
    weight = torch.zeros(2, 4, 3)
    weight[1, 2] = torch.tensor([1.0, 2.0, 3.0])
    shares = bin_contributions(LinearSVMs(weight.flatten(1), torch.zeros(2)), 1, torch.arange(12.0), 4)
    np.testing.assert_array_equal(shares, [0, 0, 6 + 2 * 7 + 3 * 8, 0])


@pytest.mark.parametrize(("length", "bins"), [(11, 4), (12, 5)])
def test_vectors_of_another_length_are_refused(length, bins):
    with pytest.raises(ValueError, match="12 features"):
        bin_contributions(LinearSVMs(torch.zeros(1, 12), torch.zeros(1)), 0, torch.zeros(length), bins)


# ---------------------------------------------------------------- a window's score


def with_features(detector: Detector, **options) -> Detector:
    scales = options.pop("scales", (96, 400))
    features = vectors.spp_features(detector.features.backbone, scales, 600, LEVELS, **options)
    return Detector(detector.classes, features, None, detector.scorer, detector.regressors, detector.settings)


@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize("normalize", ["none", "hellinger"])
def test_contributions_and_bias_are_the_score(detector, images, mode, normalize):
    """Of the vectors as the SVMs see them, at whichever scale."""
    subject = with_features(detector, mode=mode, normalize=normalize)
    image = images[0]
    maps = subject.features.maps(image)
    _, scores = subject.score(subject.features.maps(image), WINDOWS)
    used = set()
    for window, expected in zip(WINDOWS, scores, strict=True):
        for label in range(len(subject.classes)):
            seen = inspect_window(subject, maps, window, label)
            assert seen.label == label
            assert len(seen.contributions) == num_bins(LEVELS)
            assert seen.contributions.sum() + seen.bias == pytest.approx(expected[label], abs=1e-4)
            np.testing.assert_allclose(seen.scores, expected, atol=1e-4)
        used.add(seen.scale)
    assert used == {0, 1}


def test_the_cells_of_a_window_are_those_it_is_pooled_from(detector, images):
    image = images[1]
    maps = detector.features.maps(image)
    for window in WINDOWS:
        seen = inspect_window(detector, maps, window)
        vector = detector.features.vectors(maps, window[None]).of_windows(np.zeros(1, np.int64))[0]
        pooled = pool_windows(maps[seen.scale].cells, seen.rectangle[None], LEVELS)[0]
        assert torch.equal(vector, pooled.flatten())
        assert seen.label == seen.scores.argmax()


@pytest.mark.parametrize("scorer", ["svm", "softmax"])
def test_a_scorer_that_does_not_read_bins_has_no_contributions(build_detector, images, scorer):
    subject = build_detector(fc=FC(layer="fc6", weights="random", width=16), scorer=scorer)
    seen = inspect_window(subject, subject.features.maps(images[0]), np.float32([5, 5, 60, 60]), 1)
    assert seen.contributions is None
    assert seen.bias == 0
    assert seen.rectangle[2] > seen.rectangle[0]


def test_the_best_window_is_that_of_the_top_detection(build_detector, images):
    subject = build_detector(passes=0, score_threshold=-100.0)
    for image in images[:2]:
        height, width = image.shape[:2]
        windows = clip(WINDOWS, width, height)
        found, maps = subject.detect(image, windows), subject.features.maps(image)
        for label in (None, 0, 1, 2):
            top = 0 if label is None else np.flatnonzero(found["labels"] == label)[0]
            window, its_label = best_window(subject, maps, windows, label)
            np.testing.assert_array_equal(window, found["boxes"][top])
            assert its_label == found["labels"][top]


def test_features_without_a_map_are_refused(detector):
    features = RCNNFeatures(Backbone("zf5_small"))
    weight = torch.zeros(1, features.dimension)
    backbone = BackboneSettings(name="zf5_small", weights="random")
    description = ModelSettings(features="rcnn", backbone=backbone)
    rcnn = Detector(("a",), features, None, LinearSVMs(weight, torch.zeros(1)), (), description)
    with pytest.raises(UserError, match="R-CNN"):
        spp_features(rcnn)
    assert spp_features(detector) is detector.features
