"""A dilated network has every cell of the network as it was, at the same place and with the same value."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from spp_det.model.architectures import BACKBONES
from spp_det.model.dilation import dilated
from spp_det.model.efficientnet_lite import efficientnet_lite
from spp_det.model.geometry import derive_geometry
from spp_det.model.weights import randomise
from tests.networks import shared

COARSE = {  # of each dilated backbone: the same layers at stride 32
    "resnet18_dilated": BACKBONES["resnet18_layer4"].build,
    "resnet50_dilated": BACKBONES["resnet50_layer4"].build,
    "efficientnet_lite0_dilated": lambda: efficientnet_lite(1.0, 1.0),
    "efficientnet_lite2_dilated": lambda: efficientnet_lite(1.1, 1.2),
}


def test_each_dilated_backbone_is_compared():
    assert set(COARSE) == {name for name in BACKBONES if name.endswith("_dilated")}


@pytest.mark.parametrize("sides", [(96, 160), (97, 143), (15, 33)])  # the border's cells too, of odd maps too
@pytest.mark.parametrize("name", COARSE)
def test_every_second_cell_is_one_of_the_network_with_its_last_stride(name, sides):
    fine = shared(name)
    coarse = COARSE[name]().eval()
    coarse.load_state_dict(fine.layers.state_dict())
    image = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = coarse(image), fine.layers(image)
    assert fine.geometry.stride == 16
    assert float(expected.std()) > 0
    exact = {"rtol": 1e-4, "atol": 1e-4 * float(expected.std())}
    torch.testing.assert_close(found[:, :, ::2, ::2], expected, **exact)
    geometry, channels = derive_geometry(coarse)
    assert (geometry.stride, geometry.offset, channels) == (32, fine.geometry.offset, fine.channels)
    assert geometry.receptive_field == fine.geometry.receptive_field


def network(*layers: nn.Module) -> nn.Module:
    whole = nn.Sequential(*layers).eval()
    randomise(whole, 3)
    return whole


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_any_stride_up_to_the_networks_own(stride):
    """Two filters of stride 4 between plain ones: strides of 2 and 8 end inside one of them."""
    coarse = network(
        nn.Conv2d(3, 4, 3, padding=1),
        *(nn.Conv2d(4, 4, 5, stride=4, padding=2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(4, 4, 5, stride=4, padding=2), nn.Conv2d(4, 4, 3, padding=1)),
    )
    fine = dilated(copy.deepcopy(coarse), stride)
    assert derive_geometry(fine)[0].stride == stride
    image = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, step = coarse(image), 16 // stride
        torch.testing.assert_close(fine(image)[:, :, ::step, ::step], expected, rtol=1e-4, atol=1e-5)


def test_a_network_of_no_larger_stride_stays_as_it_is():
    layers = network(nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    before = str(layers)
    assert dilated(layers, 4) is layers
    assert str(layers) == before


def test_a_filter_that_is_dilated_already_is_dilated_further():
    coarse = network(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Conv2d(4, 4, 3, dilation=2, padding=2))
    fine, image = (
        dilated(copy.deepcopy(coarse), 2),
        torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        torch.testing.assert_close(fine(image)[:, :, ::2, ::2], coarse(image), rtol=1e-4, atol=1e-5)


_TWICE = nn.Conv2d(4, 4, 3, padding=1)


@pytest.mark.parametrize(
    ("beyond", "message"),
    [
        ([nn.MaxPool2d(2)], r"^the pooling layer 1 lies beyond a stride of 4 pixels$"),
        ([nn.MaxPool2d(3, stride=1)], r"^the pooling layer 1 lies beyond a stride of 4 pixels$"),
        ([nn.AvgPool2d(3, stride=2)], r"^the pooling layer 1 lies beyond a stride of 4 pixels$"),
        ([_TWICE, nn.ReLU(), _TWICE], r"^the layer 1 is called more than once: it cannot be dilated$"),
        ([nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")], r"pads with other values than zeros"),
        ([nn.Conv2d(4, 4, 3, padding="same")], r"has a padding without a number of cells$"),
        ([nn.Conv2d(4, 4, 3, stride=(2, 1))], r"treats height and width differently$"),
    ],
)
def test_a_layer_that_cannot_be_dilated_is_refused(beyond, message):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), *beyond)
    with pytest.raises(ValueError, match=message):
        dilated(layers, 4)


@pytest.mark.parametrize("steps", [(3, 3), (9,), (2, 3)])
def test_a_stride_that_does_not_divide_the_networks_is_refused(steps):
    layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=step) for step in steps))
    with pytest.raises(ValueError, match=r"4 does not divide them$"):
        dilated(layers, 4)
