"""Detection on a device against the CPU's; without a GPU the device is the CPU, and Triton interprets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spp_det.boxes import decode_deltas
from spp_det.config.network import FC, Pyramid
from spp_det.config.settings import Detection
from spp_det.errors import UserError
from spp_det.model.device_detection import DeviceDetection, Places, fits_device, not_finite
from spp_det.model.features import SPPFeatures
from spp_det.model.rcnn import RCNNFeatures
from tests.model.conftest import random_detector

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:triton"
)  # of numpy, which stands in for a GPU
SIZE = (150, 110)


def windows_of(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, SIZE, (count, 2, 2)).astype(np.float32), axis=1)
    return corners.reshape(count, 4)


def on_device(detector):
    """The detector's way on a device, here on the CPU."""
    parts = detector.features, detector.head, detector.scorer, detector.regressors
    return DeviceDetection(*parts, detector.settings.detection, detector._check_finite)


def both_ways(detector, images, windows):
    with torch.inference_mode():
        maps = detector.features.maps_of(images)
        ours = on_device(detector)(maps, windows, [image.shape[1::-1] for image in images])
    return ours, detector.detect_batch(images, windows)


WAYS = {
    "one pass": {},
    "soft suppression": {"soft_nms": 0.3},
    "two passes": {"passes": 2, "score_threshold": -4.0},
    "two passes, soft, three scales": {"passes": 2, "soft_nms": 0.3, "scales": (96, 128, 160)},
    "fc7": {"fc": FC(layer="fc7", weights="random", width=32)},
    "softmax": {
        "fc": FC(layer="fc6", weights="random", width=32),
        "scorer": "softmax",
        "score_threshold": -3.0,
    },
    "no regression": {"passes": 0},
    "few are kept": {"max_per_image": 3, "max_all_classes": 5},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_finds_what_the_cpu_finds(images, way):
    detector = random_detector(levels=(2, 1), **WAYS[way])
    windows = [windows_of(count, seed) for seed, count in enumerate((16, 8))]
    ours, expected = both_ways(detector, images[:2], windows)
    assert len(expected[0]["scores"]) > 2
    for mine, cpus in zip(ours, expected, strict=True):
        assert mine["labels"].tolist() == cpus["labels"].tolist()
        np.testing.assert_allclose(mine["scores"], cpus["scores"], atol=1e-4)
        np.testing.assert_allclose(mine["boxes"], cpus["boxes"], atol=0.01)
        assert {name: array.dtype for name, array in mine.items()} == {n: a.dtype for n, a in cpus.items()}


@pytest.mark.parametrize("normalize", ["hellinger", "signed_root"])
def test_vectors_are_normalised_as_on_the_cpu(images, normalize):
    features = random_detector(scales=(96, 128)).features
    settings = random_detector(scales=(96, 128)).settings.backbone
    features = SPPFeatures(features.backbone, settings, Pyramid(levels=(2, 1), normalize=normalize))
    maps, boxes = features.maps(images[0]), windows_of(9)
    pooled = Places(features, maps).pool(torch.from_numpy(boxes))
    vectors = features.vectors(maps, boxes)
    torch.testing.assert_close(pooled, vectors.of_windows(np.arange(9)))


def test_boxes_lie_on_the_rectangles_of_the_cpu(images):
    """Windows of every size, outside the image and empty ones too, on the maps of three scales."""
    features = random_detector(scales=(64, 128, 300)).features
    maps = features.maps(images[0])
    boxes = np.concatenate(
        [windows_of(400), windows_of(400) * 2 - 60, np.float32([[5, 5, 5, 5], [9, 9, 2, 2]])]
    )
    expected = features.project(maps, boxes)
    places = Places(features, maps).of(torch.from_numpy(boxes)).numpy()
    assert (places[:, :4] == expected.rectangles[expected.of]).all()
    sizes = np.array([conv_map.cells.shape[1:] for conv_map in maps])
    first = np.cumsum([0, *sizes.prod(axis=1)])
    map_of = expected.map_of[expected.of]
    assert len(np.unique(map_of)) == 3
    assert (places[:, 4] == first[map_of]).all()
    assert (places[:, 5] == sizes[map_of, 1]).all()


def test_boxes_move_as_on_the_cpu():
    detector = random_detector(levels=(1,))
    (regressor,) = detector.regressors
    regressor = replace(regressor, weight=regressor.weight * 3000)  # some sides grow as far as they may
    vectors, labels, boxes = torch.randn(30, regressor.weight.shape[2]), np.arange(30) % 3, windows_of(30)
    moved = on_device(detector).move(regressor, vectors, torch.from_numpy(labels), torch.from_numpy(boxes))
    expected = regressor(vectors, labels, boxes)
    assert (decode_deltas(boxes, np.float32([[0, 0, 9, 9]])) < expected.max()).any()
    np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-3, atol=0.01)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("scores", {"scorer": lambda scorer: replace(scorer, bias=scorer.bias * torch.inf)}),
        (
            "boxes",
            {"regressors": lambda every: [replace(each, bias=each.bias * torch.nan) for each in every]},
        ),
    ],
)
@pytest.mark.parametrize("passes", [1, 2])
def test_numbers_that_are_not_finite_are_refused(images, what, change, passes):
    detector = random_detector(levels=(1,), passes=passes)
    ((name, function),) = change.items()
    setattr(detector, name, function(getattr(detector, name)))
    maps = detector.features.maps_of(images[:1])
    with torch.inference_mode(), pytest.raises(UserError, match=f"its {what} are not finite numbers"):
        on_device(detector)(maps, [windows_of(5)], [SIZE])
    with torch.inference_mode(), pytest.raises(ValueError, match="windows must be finite"):
        on_device(detector)(maps, [np.float32([[0, 0, np.nan, 3]])], [SIZE])
    assert float(not_finite(torch.tensor([1.0, torch.inf]))) != 0
    assert float(not_finite(torch.tensor([1.0, -3.0]))) == 0


def test_what_the_kernels_do_not_take_goes_the_other_way(monkeypatch):
    features, windows = random_detector().features, [windows_of(5)]
    assert not fits_device(features, windows)  # a CPU
    monkeypatch.setattr("spp_det.model.device_detection.compiles_kernels", lambda _: True)
    assert fits_device(features, windows)
    assert not fits_device(features, [])
    assert not fits_device(features, [*windows, np.zeros((0, 4), np.float32)])
    assert not fits_device(features, [np.zeros((2**14 + 1, 4), np.float32)])
    assert not fits_device(random_detector(levels=(9,)).features, windows)
    assert not fits_device(RCNNFeatures(features.backbone), windows)


def test_a_detector_takes_it_where_it_fits(monkeypatch, images):
    detector = random_detector(levels=(1,))
    windows = [windows_of(4)]
    expected = detector.detect_batch(images[:1], windows)
    monkeypatch.setattr("spp_det.model.detector.fits_device", lambda *_: True)
    monkeypatch.setattr(detector, "scored_boxes", None)  # the CPU's way
    (found,) = detector.detect_batch(images[:1], windows)
    np.testing.assert_allclose(found["scores"], expected[0]["scores"], atol=1e-4)
    assert detector.settings.detection == Detection()
