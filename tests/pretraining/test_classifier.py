"""The classification network: any size of image, whole or window by window, the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.model.backbone import Backbone
from spp_det.pretraining.classifier import PyramidClassifier, rank_of, views

LEVELS = (3, 1, 2)
NAN = float("nan")


@pytest.fixture(scope="module")
def network() -> PyramidClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone("zf5_small")
        return PyramidClassifier(backbone, 4, (16, 8), (0.0, 0.5, 0.5), LEVELS).eval()


def picture(height: int, width: int):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_classifier_takes_images_of_any_size_and_is_learned_whole():
    network = PyramidClassifier(Backbone("zf5_small"), 4, (8,), (0.2, 0.2)).train()
    for height, width in ((48, 80), (97, 64)):
        scores = network(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
        assert scores.shape == (2, 4)
    scores.sum().backward()
    first = next(network.backbone.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_the_layers_are_those_that_were_asked_for(network):
    shapes = [tuple(layer.weight.shape) for layer in network.linear]
    assert shapes == [(16, 14 * 96), (8, 16), (4, 8)]
    assert [layer.p for layer in network.fc if isinstance(layer, torch.nn.Dropout)] == [0.0, 0.5, 0.5]
    with pytest.raises(ValueError, match="argument"):
        PyramidClassifier(Backbone("zf5_small"), 4, (16, 8), (0.5,))


def test_the_full_image_is_resized_to_its_shorter_side(network):
    image = picture(64, 100)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = network(pixels).softmax(1)[0]
    torch.testing.assert_close(network.full_image(image, 64, 500), expected)
    assert network.full_image(image, 48, 500).sum() == pytest.approx(1)
    assert not torch.allclose(network.full_image(image, 48, 500), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 400), (70, 64)])
def test_any_image_has_probabilities_in_both_ways(network, height, width):
    image = picture(height, width)
    for probabilities in (network.full_image(image, 64, 200), network.multi_view(image, 64, 200)):
        assert probabilities.shape == (4,)
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_views_lie_in_the_middle_the_corners_and_at_the_sides():
    boxes = views(300, 256, 224)
    assert len({tuple(box) for box in boxes.tolist()}) == 9
    assert {(0, 0, 224, 224), (38, 16, 262, 240), (76, 32, 300, 256)} <= {tuple(b) for b in boxes.tolist()}
    assert (boxes[:, 2:] - boxes[:, :2] == 224).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [300, 256]).all()


def test_views_of_an_image_that_is_smaller_are_the_image():
    assert {tuple(box) for box in views(20, 10, 32).tolist()} == {(0, 0, 20, 10)}


def test_a_view_of_the_whole_map_is_the_forward_pass(network, monkeypatch):
    """So the order of the windows' vectors is that of training."""
    everything = np.array([[-99, -99, 999, 999]], np.float32)
    monkeypatch.setattr("spp_det.pretraining.classifier.views", lambda *_: everything)
    image = picture(64, 100)
    both = torch.from_numpy(np.stack([image, image[:, ::-1]])).permute(0, 3, 1, 2)
    expected = network(both).softmax(1).mean(0)
    torch.testing.assert_close(network.multi_view(image, 56, 500), expected)


def test_a_mirror_image_has_the_same_views(network):
    image = picture(80, 90)
    torch.testing.assert_close(
        network.multi_view(image, 64, 500), network.multi_view(np.ascontiguousarray(image[:, ::-1]), 64, 500)
    )


# ---------------------------------------------------------------- top-k accuracy


@pytest.mark.parametrize(
    ("scores", "label", "rank"),
    [
        ([0.1, 0.7, 0.2], 1, 0),
        ([0.1, 0.7, 0.2], 2, 1),
        ([0.1, 0.7, 0.2], 0, 2),
        ([0.5, 0.5, 0.0], 0, 1),
        ([0.3, 0.3, 0.3], 1, 2),
        ([NAN, NAN, NAN], 0, 2),
        ([0.9, NAN, 0.1], 0, 1),
        ([1.0], 0, 0),
    ],
)
def test_rank(scores, label, rank):
    assert rank_of(torch.tensor(scores), label) == rank
