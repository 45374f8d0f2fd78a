"""Window vectors against the same steps done by hand: enlarge, project, crop, pool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spp_det.boxes import as_boxes
from spp_det.config.network import BackboneSettings, Pyramid
from spp_det.config.settings import Detection, Proposals
from spp_det.data.synthetic import scene
from spp_det.errors import UserError
from spp_det.images import resize_shorter_side
from spp_det.model.backbone import Backbone
from spp_det.model.features import BATCH_PIXELS, ConvMap, SPPFeatures, batch_pixels, batches
from spp_det.model.model_file import ModelSettings
from spp_det.model.projection import project
from spp_det.model.pyramid import pool_windows
from tests.vectors import all_of, random_windows, spp_features

LEVELS = (6, 3, 2, 1)


def test_images_are_alone_in_float32_on_cuda_only():
    assert batch_pixels(torch.device("cuda"), torch.float32) == 0
    assert batches([(480, 640)] * 3, 0) == [[0], [1], [2]]
    for device, precision in (("cuda", torch.float16), ("cuda", torch.bfloat16), ("cpu", torch.float32)):
        assert batch_pixels(torch.device(device), precision) == BATCH_PIXELS


@pytest.mark.usefixtures("three_threads")
def test_images_that_are_resized_side_by_side_keep_their_places(backbone, images):
    features = spp_features(backbone, (96, 128))
    together = features.maps_of([*images, images[0]])
    for image, maps in zip([*images, images[0]], together, strict=True):
        for one, alone in zip(maps, features.maps(image), strict=True):
            assert one.enlargement == alone.enlargement
            torch.testing.assert_close(one.cells, alone.cells, atol=1e-4, rtol=1e-4)


def test_a_map_is_the_network_on_the_resized_image(backbone, image):
    (conv_map,) = spp_features(backbone, (240,)).maps(image)
    assert conv_map.enlargement == (1.6, 1.6)
    resized = resize_shorter_side(image, 240, 2400)
    assert resized.shape == (240, 320, 3)
    pixels = torch.from_numpy(resized).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = backbone.layers(((pixels - mean) / std)[None])[0]
    torch.testing.assert_close(conv_map.cells, expected, atol=1e-3, rtol=1e-4)
    assert conv_map.cells.shape == (backbone.channels, 15, 20)


def test_the_enlargement_is_that_of_each_axis_after_rounding(backbone, image):
    (conv_map,) = spp_features(backbone, (100,)).maps(image[:77])  # 77 x 200 -> 100 x 259.74
    assert conv_map.enlargement == (260 / 200, 100 / 77)


def test_images_of_one_size_pass_the_network_together(backbone, monkeypatch):
    """Each gets the map that it gets alone, to rounding, whatever stands beside it."""
    sizes = [(200, 150), (120, 150), (400, 300), (200, 150), (150, 120)]  # 0, 2 and 3 become 213 x 160
    images = [scene(np.random.default_rng(i), sizes=(size,)).image for i, size in enumerate(sizes)]
    features = spp_features(backbone, (160, 96))
    alone = [features.maps(image) for image in images]
    passed, forward = [], Backbone.forward

    def noted(self, pixels):
        passed.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(Backbone, "forward", noted)
    found = features.maps_of(images)
    assert passed == [3, 1, 1] * 2
    for maps, expected in zip(found, alone, strict=True):
        for conv_map, other in zip(maps, expected, strict=True):
            assert conv_map.enlargement == other.enlargement
            torch.testing.assert_close(conv_map.cells, other.cells, atol=1e-4, rtol=1e-4)
    assert features.maps_of([]) == []


def test_no_more_pixels_pass_together_than_there_is_memory_for():
    sizes = [(10, 10)] * 5 + [(5, 20), (10, 10), (40, 10)]
    assert batches(sizes, most_pixels=300) == [[0, 1, 2], [3, 4, 6], [5], [7]]
    assert batches(sizes, most_pixels=1) == [[0], [1], [2], [3], [4], [6], [5], [7]]
    assert batches([]) == []


@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize("levels", [LEVELS, (4, 1)])
def test_a_vector_is_the_pooled_crop_of_the_projected_window(backbone, image, mode, levels):
    features = spp_features(backbone, (240,), levels=levels, mode=mode)
    windows = random_windows(60, 200, 150)
    maps = features.maps(image)
    vectors, vector_of = all_of(features.vectors(maps, windows))
    rectangles = project(windows * np.float32(1.6), backbone.geometry, 15, 20)
    pool = nn.AdaptiveMaxPool2d if mode == "max" else nn.AdaptiveAvgPool2d
    for row, (x1, y1, x2, y2) in enumerate(rectangles.tolist()):
        crop = maps[0].cells[:, y1:y2, x1:x2][None]
        expected = torch.cat([pool(n)(crop)[0].flatten(1).T for n in levels]).flatten()  # [bins * C]
        torch.testing.assert_close(vectors[vector_of[row]], expected)
    assert vectors.shape[1] == features.dimension == sum(n * n for n in levels) * backbone.channels
    assert vectors.dtype == torch.float32
    assert vector_of.dtype == np.int64


def test_each_distinct_rectangle_has_one_vector(backbone, image):
    features = spp_features(backbone)
    windows = random_windows(300, 200, 150)
    vectors, vector_of = all_of(features.vectors(features.maps(image), windows))
    (conv_map,) = features.maps(image)
    scaled = windows * np.array(conv_map.enlargement * 2, np.float32)
    rectangles = project(scaled, backbone.geometry, *conv_map.cells.shape[1:])
    assert len(vectors) == len(np.unique(rectangles, axis=0)) < 300
    assert sorted(set(vector_of)) == list(range(len(vectors)))


def test_each_window_is_taken_at_the_scale_closest_to_224_pixels(backbone, image):
    scales = (180, 250, 400, 700)
    features = spp_features(backbone, scales)
    windows = np.concatenate([random_windows(120, 200, 150, seed=2), as_boxes([[0, 0, 200, 150]])])
    maps = features.maps(image)
    assert len(maps) == 4
    vectors, vector_of = all_of(features.vectors(maps, windows))
    counts = np.zeros(4, int)
    for row, window in enumerate(windows):
        area = (window[2] - window[0]) * (window[3] - window[1])
        factors = [np.sqrt(m.enlargement[0] * m.enlargement[1]) for m in maps]
        best = int(np.argmin([abs(area * factor**2 - 224**2) for factor in factors]))
        counts[best] += 1
        alone = spp_features(backbone, scales[best : best + 1])
        expected, _ = all_of(alone.vectors([maps[best]], window[None]))
        assert torch.equal(vectors[vector_of[row]], expected[0])
    assert (counts > 0).all()


def test_each_window_can_be_taken_at_a_given_scale(backbone, image):
    scales = (96, 160, 240)
    features, windows = spp_features(backbone, scales), random_windows(60, 200, 150, seed=3)
    maps = features.maps(image)
    scale_of = np.random.default_rng(0).integers(0, 3, 60)
    vectors, vector_of = all_of(features.vectors(maps, windows, scale_of))
    for row, (scale, window) in enumerate(zip(scale_of, windows, strict=True)):
        alone = spp_features(backbone, scales[scale : scale + 1])
        expected, _ = all_of(alone.vectors([maps[scale]], window[None]))
        assert torch.equal(vectors[vector_of[row]], expected[0])


def test_one_scale_of_many_left_without_windows_does_no_harm(backbone, image):
    windows = as_boxes([[0, 0, 200, 150]])  # every scale but the last enlarges it too little
    several = spp_features(backbone, (16, 48, 96))
    vectors, vector_of = all_of(several.vectors(several.maps(image), windows))
    expected, _ = all_of(spp_features(backbone, (96,)).vectors(several.maps(image)[2:], windows))
    assert torch.equal(vectors, expected)
    assert vector_of.tolist() == [0]


def test_each_axis_has_its_own_enlargement(backbone):
    """A thin image whose short side rounds to a pixel is enlarged unequally: here 2 across and 1/2 down."""
    cells = torch.arange(30.0).view(1, 5, 6).repeat(backbone.channels, 1, 1)
    windows = as_boxes([[8, 64, 25, 129]])  # 16 to 50 by 32 to 64.5: between the centres of cells
    maps = [ConvMap(cells, (2.0, 0.5))]
    vectors, _ = all_of(spp_features(backbone, levels=(1,)).vectors(maps, windows))
    # Columns 2 and 3 (32 and 48 lie between 16 and 49), row 3 (48 lies between 32 and 63.5).
    assert vectors.unique().tolist() == [3 * 6 + 3]


@pytest.mark.parametrize("scales", [(160,), (120, 160)])
def test_no_windows_have_no_vectors(backbone, image, scales):
    features = spp_features(backbone, scales)
    vectors, vector_of = all_of(features.vectors(features.maps(image), np.zeros((0, 4), np.float32)))
    assert vectors.shape == (0, features.dimension)
    assert vector_of.shape == (0,)
    assert vector_of.dtype == np.int64


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 300), (300, 3), (17, 15)])
def test_tiny_and_thin_images_have_vectors(backbone, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    features = spp_features(backbone, (16, 64), max_side=256)
    height, width = shape
    windows = as_boxes([[0, 0, width, height], [0, 0, 1, 1], [width - 1, height - 1, width, height]])
    maps = features.maps(pixels)
    vectors, vector_of = all_of(features.vectors(maps, windows))
    assert vectors[vector_of].shape == (3, features.dimension)
    assert vectors.isfinite().all()
    for conv_map in maps:  # the long side is capped, to the pixel that rounding costs
        assert max(np.array(conv_map.enlargement) * [width, height]) <= 256
        assert conv_map.cells.shape[1] >= 1
        assert conv_map.cells.shape[2] >= 1


def test_a_map_in_half_precision_gives_the_vectors_of_its_values(backbone, image):
    """As the cache of the training keeps it."""
    features = spp_features(backbone)
    (conv_map,) = features.maps(image)
    half = type(conv_map)(conv_map.cells.half(), conv_map.enlargement)
    vectors, vector_of = all_of(features.vectors([half], random_windows(50, 200, 150)))
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, vectors.half().float())
    exact, exact_of = all_of(features.vectors([conv_map], random_windows(50, 200, 150)))
    assert (vector_of == exact_of).all()
    torch.testing.assert_close(vectors, exact.half().float())


def test_the_vector_of_the_whole_image_is_the_pyramid_over_the_whole_map(backbone, image):
    features = spp_features(backbone, (320,))
    (conv_map,) = features.maps(image)
    height, width = conv_map.cells.shape[1:]
    vectors, _ = all_of(features.vectors([conv_map], as_boxes([[0, 0, 200, 150]])))
    # The centre of cell 0 lies on the centre of the first pixel, not strictly inside the window.
    inner = np.array([[1, 1, width, height]])
    assert torch.equal(vectors[0], pool_windows(conv_map.cells, inner, LEVELS).flatten())


@pytest.mark.parametrize("scales", [(120,), (100, 160)])
def test_hellinger_vectors_are_roots_of_one_length(backbone, image, scales):
    plain, rooted = spp_features(backbone, scales), spp_features(backbone, scales, normalize="hellinger")
    windows = random_windows(30, 200, 150)
    maps = plain.maps(image)
    expected, expected_of = all_of(plain.vectors(maps, windows))
    vectors, vector_of = all_of(rooted.vectors(maps, windows))
    roots = expected.double().sqrt()
    roots *= plain.dimension**0.5 / roots.norm(dim=1, keepdim=True)
    assert (vector_of == expected_of).all()
    torch.testing.assert_close(vectors, roots.float())
    # A kernel of roots: the product of two vectors is the Bhattacharyya coefficient of their histograms.
    shares = expected.double() / expected.double().sum(dim=1, keepdim=True)
    affinity = (shares[0] * shares[1]).sqrt().sum() * plain.dimension
    torch.testing.assert_close(vectors[0].double() @ vectors[1].double(), affinity, rtol=1e-4, atol=0)


@pytest.mark.parametrize("mode", ["max", "average"])
def test_signed_roots_keep_the_sign_and_have_one_length(image, mode):
    backbone = Backbone("mobilenet_v3_large")  # negative in places
    plain, rooted = (spp_features(backbone, mode=mode, normalize=each) for each in ("none", "signed_root"))
    windows, maps = random_windows(30, 200, 150), plain.maps(image)
    assert maps[0].cells.min() < 0
    roots = [replace(m, cells=torch.copysign(m.cells.double().abs().sqrt(), m.cells).float()) for m in maps]
    expected, _ = all_of(plain.vectors(roots, windows))
    expected *= plain.dimension**0.5 / expected.norm(dim=1, keepdim=True)
    vectors, _ = all_of(rooted.vectors(maps, windows))
    assert vectors.min() < 0
    torch.testing.assert_close(vectors, expected)


def test_signed_roots_of_a_map_that_is_never_negative_are_hellingers(backbone, image):
    windows = random_windows(30, 200, 150)
    either = [spp_features(backbone, normalize=each) for each in ("hellinger", "signed_root")]
    one, other = (all_of(features.vectors(features.maps(image), windows))[0] for features in either)
    assert torch.equal(one, other)


def test_roots_of_a_map_that_is_negative_in_places_are_refused():
    backbone = Backbone("mobilenet_v3_large")
    with pytest.raises(UserError) as caught:
        spp_features(backbone, normalize="hellinger")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("pyramid.normalize: ")
    assert "mobilenet_v3_large" in message
    assert "signed_root" in message
    assert spp_features(backbone).dimension == 50 * backbone.channels


def test_a_window_where_nothing_fires_has_a_hellinger_vector_of_zeros(backbone):
    features = spp_features(backbone, (120,), normalize="hellinger")
    maps = [ConvMap(torch.zeros(backbone.channels, 9, 9), (1.0, 1.0))]
    vectors, _ = all_of(features.vectors(maps, as_boxes([[0, 0, 100, 100]])))
    assert not vectors.any()


def test_the_arguments_are_left_as_they_were(backbone, image):
    features, windows = spp_features(backbone, (120, 160)), random_windows(20, 200, 150)
    copies = image.copy(), windows.copy()
    all_of(features.vectors(features.maps(image), windows))
    assert (image == copies[0]).all()
    assert (windows == copies[1]).all()


def test_settings_describe_the_features(backbone):
    settings = ModelSettings(
        proposals=Proposals(),
        backbone=BackboneSettings(name="zf5_small", scales=(100, 200), max_side=500),
        pyramid=Pyramid(levels=(3, 1), mode="average", normalize="hellinger"),
        detection=Detection(),
    )
    features = SPPFeatures(backbone, settings.backbone, settings.pyramid)
    assert (features.scales, features.max_side) == ((100, 200), 500)
    assert (features.levels, features.mode, features.dimension) == ((3, 1), "average", 960)
    assert features.normalize == "hellinger"
