"""R-CNN's features: the warp against crops and a linear picture, the vectors against one window at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spp_det.boxes import as_boxes
from spp_det.config.network import BackboneSettings
from spp_det.data.synthetic import scene
from spp_det.model.backbone import Backbone
from spp_det.model.detector import Detector
from spp_det.model.features import SPPFeatures
from spp_det.model.model_file import ModelSettings, features_of
from spp_det.model.rcnn import BATCH, CONTEXT, SIDE, RCNNFeatures, warp
from spp_det.model.svm import LinearSVMs
from tests.vectors import all_of

INNER = SIDE - 2 * CONTEXT  # 195
FILL = (10.0, 20.0, 30.0)


@pytest.fixture(scope="module")
def features() -> RCNNFeatures:
    return RCNNFeatures(Backbone("zf5_small"))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return scene(np.random.default_rng(3), sizes=((320, 260),)).image


def test_a_window_of_the_inner_size_is_cut_out_with_its_context(image):
    x, y = 40, 30
    warped = warp(image, as_boxes([[x, y, x + INNER, y + INNER]])[0], FILL)
    assert warped.dtype == np.uint8
    assert (warped == image[y - CONTEXT : y + INNER + CONTEXT, x - CONTEXT : x + INNER + CONTEXT]).all()


def test_what_lies_outside_the_image_has_the_colour_of_nothing(image):
    height, width = image.shape[:2]
    warped = warp(image, as_boxes([[width - INNER, height - INNER, width, height]])[0], FILL)
    edge = CONTEXT + INNER
    assert (warped[:edge, :edge] == image[-edge:, -edge:]).all()
    assert (warped[edge:] == FILL).all()
    assert (warped[:, edge:] == FILL).all()


@pytest.mark.parametrize("box", [(50, 40, 90, 160), (20, 100, 240, 130), (100.5, 80.25, 130.5, 110.0)])
def test_the_sides_of_a_window_go_to_the_sides_of_the_inner_square(box):
    """On a picture whose colours are its coordinates, by the definition: half a pixel at each centre."""
    y, x = np.mgrid[:200, :250].astype(np.float32)
    picture = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)
    warped = warp(picture, as_boxes([box])[0], FILL)[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT].astype(float)
    x1, y1, x2, y2 = box
    share = (np.arange(INNER) + 0.5) / INNER
    wanted_x, wanted_y = x1 + share * (x2 - x1) - 0.5, y1 + share * (y2 - y1) - 0.5
    np.testing.assert_allclose(warped[..., 0], np.tile(wanted_x, (INNER, 1)), atol=0.6)
    np.testing.assert_allclose(warped[..., 1], np.tile(wanted_y[:, None], INNER), atol=0.6)


def test_vectors_are_pool5_of_each_window_alone(features, image):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (BATCH + 5, 2))
    windows = as_boxes(np.concatenate([corner, corner + rng.uniform(5, 60, corner.shape)], axis=1))
    windows = np.concatenate([windows, windows[:3]])  # shared ones pass the network once
    vectors, vector_of = all_of(features.vectors(features.maps(image), windows))
    assert vectors.shape == (BATCH + 5, features.dimension)
    assert vectors.dtype == torch.float32
    fill = features.backbone.mean.flatten().tolist()
    for number in (0, 1, BATCH, BATCH + 4, BATCH + 6):
        warped = torch.from_numpy(warp(image, windows[number], fill)).permute(2, 0, 1)[None]
        conv5 = features.backbone(warped)[0]
        bins = torch.stack([F.adaptive_max_pool2d(c[None], 6)[0].flatten() for c in conv5], dim=1)  # [36, C]
        torch.testing.assert_close(vectors[vector_of[number]], bins.flatten(), rtol=1e-4, atol=1e-4)


def test_a_window_passes_the_network_when_it_is_first_asked_for_and_never_again(image, monkeypatch):
    features, passed, forward = RCNNFeatures(Backbone("zf5_small")), [], Backbone.forward

    def counted(self, images):
        passed.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 200, (2 * BATCH + 6, 2))
    windows = as_boxes(np.concatenate([corner, corner + rng.uniform(5, 60, corner.shape)], axis=1))
    vectors = features.vectors(features.maps(image), np.concatenate([windows, windows[:3]]))
    assert passed == []
    assert len(vectors) == 2 * BATCH + 6
    some = vectors.of_windows(np.array([4, 9, 4]))
    assert passed == [2]
    assert torch.equal(some[0], some[2])
    sums = vectors.each(lambda x: x.sum(1))
    assert sum(passed) == 2 * BATCH + 6
    assert max(passed) <= BATCH
    assert torch.equal(vectors.make(vectors.of[[4, 9, 4]]), some)
    whole, of = all_of(vectors)
    assert torch.equal(vectors.each(lambda x: x.sum(1)), sums)
    torch.testing.assert_close(sums, whole.sum(1))
    assert (of[:3] == of[-3:]).all()
    assert sum(passed) == 2 * BATCH + 6


def test_six_bins_of_thirteen_cells_are_alexnets_pool5():
    conv5 = torch.rand(2, 8, 13, 13)
    assert torch.equal(F.adaptive_max_pool2d(conv5, 6), F.max_pool2d(conv5, 3, stride=2))


def test_no_windows_are_no_vectors(features, image):
    vectors, vector_of = all_of(features.vectors(features.maps(image), as_boxes([])))
    assert vectors.shape == (0, features.dimension)
    assert vector_of.shape == (0,)


def test_the_cached_image_gives_the_same_vectors(features, image):
    """The cache keeps maps in half precision, which holds every colour exactly."""
    (whole,) = features.maps(image)
    half = type(whole)(whole.cells.half(), whole.enlargement)
    windows = as_boxes([[10, 10, 80, 90], [0, 0, 320, 260]])
    found, expected = (all_of(features.vectors([maps], windows)) for maps in (half, whole))
    assert torch.equal(found[0], expected[0])
    assert (found[1] == expected[1]).all()


def test_the_settings_choose_the_features():
    backbone = Backbone("zf5_small")
    settings = ModelSettings(backbone=BackboneSettings(name="zf5_small"))
    assert isinstance(features_of(backbone, settings), SPPFeatures)
    assert isinstance(features_of(backbone, settings.model_copy(update={"features": "rcnn"})), RCNNFeatures)


def test_a_detector_is_saved_and_loaded_with_its_features(features, image, tmp_path):
    settings = ModelSettings(features="rcnn", backbone=BackboneSettings(name="zf5_small", weights="random"))
    generator = torch.Generator().manual_seed(0)
    svms = LinearSVMs(0.01 * torch.randn(2, features.dimension, generator=generator), torch.zeros(2))
    detector = Detector(("a", "b"), features, None, svms, (), settings)
    detector.save(tmp_path / "model.safetensors")
    loaded = Detector.load(tmp_path / "model.safetensors", precision="float32")  # as the one in memory
    windows = as_boxes([[10, 10, 80, 90], [50, 60, 200, 180], [100, 20, 140, 200]])
    before, after = detector.detect(image, windows), loaded.detect(image, windows)
    assert isinstance(loaded.features, RCNNFeatures)
    assert len(before["boxes"])
    assert all(np.array_equal(before[key], after[key]) for key in ("boxes", "labels", "scores"))
