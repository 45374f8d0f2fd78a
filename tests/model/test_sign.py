"""Which maps are sure to have no negative cell: what layers say, held against what they do."""

from __future__ import annotations

import operator

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.model.sign import never_negative


class Of(nn.Module):
    """A function of two maps: a ReLU's, and a convolution's or another ReLU's."""

    def __init__(self, function, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), second
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), self.second(x))


def smallest(layers: nn.Module) -> float:
    """The smallest cell of the maps of some noise."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return float(layers.eval()(torch.randn(4, 3, 12, 12)).min())


RELU = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
LINEAR = nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    "after",
    [
        *([], [nn.MaxPool2d(3, 2, 1)], [nn.AvgPool2d(2)], [nn.Dropout()], [nn.Identity()]),
        *([nn.BatchNorm2d(4), nn.ReLU6()], [nn.Hardswish(), nn.Sigmoid()]),
    ],
)
def test_what_keeps_or_restores_a_relus_sign_is_sure(after):
    layers = nn.Sequential(RELU, *after)
    assert never_negative(layers)
    assert smallest(layers) >= 0


@pytest.mark.parametrize(
    "last",
    [
        *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.LeakyReLU()),
        *(nn.ELU(), nn.Tanh(), nn.LayerNorm([12, 12])),
    ],
)
def test_what_can_be_negative_after_a_relu_is_not_sure(last):
    assert not never_negative(nn.Sequential(RELU, nn.Conv2d(4, 4, 1), last))
    assert smallest(nn.Sequential(RELU, nn.Conv2d(4, 4, 1), last)) < 0


def test_images_themselves_are_not_sure():
    assert not never_negative(nn.Sequential(nn.MaxPool2d(2)))


SUMS = [
    *(operator.add, operator.iadd, operator.mul, torch.add, lambda a, b: a.add_(b)),
    *(lambda a, b: torch.cat([a, b], dim=1), lambda a, b: torch.mul(a, b)),
]


@pytest.mark.parametrize("function", SUMS)
def test_sums_products_and_concatenations_are_as_sure_as_both_their_parts(function):
    assert never_negative(Of(function, RELU))
    assert smallest(Of(function, RELU)) >= 0
    assert not never_negative(Of(function, LINEAR))
    assert smallest(Of(function, LINEAR)) < 0


@pytest.mark.parametrize(
    "function",
    [
        *(operator.sub, torch.minimum, lambda a, b: torch.add(a, b, alpha=-1), lambda a, b: (a + b) * -1),
        *(lambda a, b: -(a + b), lambda a, b: a + b - 1, lambda a, b: a.sub(b, alpha=2)),
    ],
)
def test_differences_are_not_sure_even_of_maps_that_are(function):
    assert not never_negative(Of(function, RELU))


@pytest.mark.parametrize(
    "function",
    [
        *(lambda a, b: F.relu(a - b), lambda a, b: (a - b).relu(), lambda a, b: torch.sigmoid(b) * a),
        *(lambda a, b: 2 * (a + F.relu(b)), lambda a, b: F.max_pool2d(a + torch.abs(b), 2)),
    ],
)
def test_functions_count_as_modules_do(function):
    layers = Of(function, LINEAR)
    assert never_negative(layers)
    assert smallest(layers) >= 0


class Parameter(nn.Module):
    """A sum with a weight, of which only the name is known; the name is that of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.add = nn.Parameter(-torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + self.add


def test_a_sum_with_a_weight_is_not_sure():
    assert not never_negative(Parameter())


@pytest.mark.parametrize(
    ("name", "expected"), [("mobilenet_v2", True), ("efficientnet_b0", False), ("densenet121", False)]
)
def test_networks_of_torchvision(name, expected):
    """ReLU6, SiLU, and DenseNet, whose last ReLU is in the code that follows its ``features``."""
    with torch.device("meta"):
        features = torchvision.models.get_model(name, weights=None).features
    assert never_negative(features) == expected
    assert never_negative(features.append(nn.ReLU()))
