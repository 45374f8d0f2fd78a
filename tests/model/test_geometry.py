"""The derived geometry against the support of a gradient: the pixels that one cell really depends on."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spp_det.model.architectures import BACKBONES
from spp_det.model.geometry import Geometry, derive_geometry
from tests.networks import shared


def linearised(layers: nn.Module) -> nn.Module:
    """A copy whose every cell depends, with a positive slope, on every pixel that it sees.

    Weights are positive and maxima are averages: nothing is hidden behind a ReLU or a larger neighbour.
    """
    layers = copy.deepcopy(layers).eval().requires_grad_(False)
    for name, layer in list(layers.named_modules()):
        if isinstance(layer, nn.Conv2d):
            layer.weight.fill_(1 / layer.weight[0].numel())
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.MaxPool2d):
            assert not isinstance(layer.padding, tuple)
            average = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            layers.set_submodule(name, average)
        elif isinstance(layer, nn.ReLU6):  # residual sums exceed 6
            layers.set_submodule(name, nn.ReLU())
        elif isinstance(layer, nn.LocalResponseNorm):
            layers.set_submodule(name, nn.Identity())
        elif isinstance(layer, nn.AdaptiveAvgPool2d):  # gates stand still
            layers.set_submodule(name, Ones())
    return layers


class Ones(nn.Module):
    """In place of the average of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(*x.shape[:2], 1, 1)


def span(gradient: Tensor) -> tuple[int, int]:
    """First and last index that is not zero."""
    where = gradient.nonzero().flatten()
    return int(where[0]), int(where[-1])


def support(maps: Tensor, image: Tensor, cell: tuple[int, int]) -> list[tuple[int, int]]:
    """The (first, last) pixel, in y and in x, that the output cell (y, x) depends on."""
    (gradient,) = torch.autograd.grad(maps[0, :, cell[0], cell[1]].sum(), image, retain_graph=True)
    return [span(gradient[0].sum((0, 2))), span(gradient[0].sum((0, 1)))]


def interior_cells(geometry: Geometry, side: int) -> list[int]:
    """The cells whose receptive field, if the geometry is right, lies inside an image of that side."""
    half = (geometry.receptive_field - 1) / 2
    cells = range(-(-side // geometry.stride))
    centres = [geometry.stride * j + geometry.offset for j in cells]
    return [j for j in cells if centres[j] - half >= 0 and centres[j] + half <= side - 1]


def check_against_the_gradient(layers: nn.Module, cells: int = 3) -> tuple[Geometry, int]:
    """The geometry, after comparing it with the support of several interior cells in both axes."""
    geometry, channels = derive_geometry(layers)
    side = geometry.receptive_field + cells * geometry.stride
    image = torch.ones(1, 3, side, side, requires_grad=True)
    maps, interior = linearised(layers)(image), interior_cells(geometry, side)
    assert len(interior) >= cells
    assert maps.shape[1] == channels
    for y, x in zip(interior, reversed(interior), strict=True):
        for j, (first, last) in zip((y, x), support(maps, image, (y, x)), strict=True):
            assert (first + last) / 2 == geometry.stride * j + geometry.offset
            assert last - first + 1 == geometry.receptive_field
    return geometry, channels


# ---------------------------------------------------------------- the backbones


@pytest.mark.parametrize("name", BACKBONES)
def test_the_geometry_of_every_backbone_is_that_of_its_gradient(name):
    backbone = shared(name)
    geometry, channels = check_against_the_gradient(backbone.layers, cells=1 if name == "vgg16" else 2)
    assert (backbone.geometry, backbone.channels) == (geometry, channels)


@pytest.mark.parametrize(
    ("name", "offset", "receptive_field", "channels", "stride"),
    [
        # AlexNet: conv1 of 11 is padded by 2 and the pools not at all: 3 + 4 + 8.
        ("alexnet", 15, 163, 256, 16),
        # SqueezeNet: neither conv1 of 7 nor the pools are padded: 3 + 2 + 4 + 8.
        ("squeezenet1_0", 17, 155, 512, 16),
        # SqueezeNet 1.1: the same with conv1 of 3, and two pools earlier: 1 + 2 + 4 + 8.
        ("squeezenet1_1", 15, 207, 512, 16),
        # VGG16: only the four pools of 2 shift, each by half its stride: 0.5 + 1 + 2 + 4.
        ("vgg16", 7.5, 196, 512, 16),
        # ZF-5, residual networks, MobileNet: every filter is padded by half.
        ("zf5", 0, 139, 256, 16),
        ("zf5_small", 0, 139, 96, 16),
        # Their stems see 11 pixels at stride 4. ResNet-18: then 4 filters of 3 a stage, the first of a
        # stage at the stride before it: 11 + 4*8 + (8 + 3*16) + (16 + 3*32) = 211, + 32 + 3*64 = 435.
        ("resnet18", 0, 211, 256, 16),
        ("resnet18_layer4", 0, 435, 512, 32),
        ("resnet18_dilated", 0, 435, 512, 16),
        # ResNet-50: 3, 4, 6 and 3 filters of 3, one a block.
        ("resnet50", 0, 267, 1024, 16),
        ("resnet50_layer4", 0, 427, 2048, 32),
        ("resnet50_dilated", 0, 427, 2048, 16),
        ("mobilenet_v3_large", 0, 275, 672, 16),
        # The stem sees 3. Then, a stage, its filters of size k, the first at the stride before the stage:
        # 3, 3 3, 5 5, 3 3 3 and 5 5 5 in Lite0: 3 + 4 + (4 + 8) + (16 + 32) + (16 + 2*32) + 3*64 = 339.
        ("efficientnet_lite0", 0, 339, 672, 16),
        # Four filters of 5 more, the last three of which see every second cell: 339 + 4*16 + 3*4*32 = 787.
        ("efficientnet_lite0_dilated", 0, 787, 192, 16),
        # One filter more in each stage but the first: 339 + 8 + 32 + 32 + 64 = 475.
        ("efficientnet_lite2", 0, 475, 720, 16),
        # Five of them: 475 + 4*16 + 4*4*32.
        ("efficientnet_lite2_dilated", 0, 1051, 208, 16),
    ],
)
def test_known_geometries(name, offset, receptive_field, channels, stride):
    backbone = shared(name)
    geometry = backbone.geometry
    assert (geometry.stride, geometry.offset) == (stride, offset)
    assert geometry.receptive_field == receptive_field
    assert backbone.channels == channels


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_a_cell_for_its_smallest_input_and_for_anything_smaller(name):
    backbone = shared(name)
    side = backbone.geometry.smallest_input
    exact = backbone.layers(torch.zeros(1, 3, side, side))
    assert min(exact.shape[2:]) >= 1
    for height, width in ((1, 1), (1, 3 * side), (side, side - 1)):
        assert min(backbone(torch.zeros(1, 3, height, width)).shape[1:]) >= 1


# ---------------------------------------------------------------- any stack of layers


@st.composite
def stacks(draw: st.DrawFn) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        padding, dilation = draw(st.integers(0, kernel // 2)), draw(st.integers(1, 3))
        kind = draw(st.sampled_from(["conv", "max", "average", "relu"]))
        if kind == "conv":
            layers.append(nn.Conv2d(3, 3, kernel, stride, padding, dilation))
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, padding))
        elif kind == "average":
            layers.append(nn.AvgPool2d(kernel, stride, padding))
        else:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@settings(max_examples=30)
@given(stacks())
def test_any_stack_has_the_geometry_of_its_gradient(layers):
    geometry, channels = derive_geometry(layers)
    assume(geometry.receptive_field + geometry.stride < 90)
    assume(-geometry.receptive_field < geometry.offset < geometry.receptive_field)
    assert check_against_the_gradient(layers) == (geometry, channels)


@settings(max_examples=40)
@given(stacks())
def test_the_smallest_input_of_any_stack_gives_a_cell_and_one_pixel_less_gives_none(layers):
    side = derive_geometry(layers)[0].smallest_input
    assert min(layers(torch.zeros(1, 3, side, side)).shape[2:]) >= 1
    if side > 1:
        with pytest.raises(RuntimeError, match="size"):
            layers(torch.zeros(1, 3, side - 1, side - 1))


def test_a_dilated_filter_sees_as_far_as_its_holes_reach():
    geometry, channels = check_against_the_gradient(nn.Sequential(nn.Conv2d(3, 7, 3, 2, 4, dilation=4)))
    assert geometry == Geometry(stride=2, offset=0.0, receptive_field=9, smallest_input=1)
    assert channels == 7


def test_an_even_filter_is_centred_between_pixels():
    geometry, _ = check_against_the_gradient(nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.MaxPool2d(2)))
    assert geometry == Geometry(stride=4, offset=1.5, receptive_field=4, smallest_input=4)


def test_a_dilated_max_pool_is_derived_too():
    geometry, _ = derive_geometry(nn.Sequential(nn.MaxPool2d(3, 2, padding=1, dilation=2)))
    assert (geometry.stride, geometry.offset, geometry.receptive_field) == (2, 1.0, 5)


# ---------------------------------------------------------------- branches


class Branches(nn.Module):
    """Two ways from one map to another, joined by addition or concatenation."""

    def __init__(self, left: nn.Module, right: nn.Module, concatenate: bool) -> None:
        super().__init__()
        self.left, self.right, self.concatenate = left, right, concatenate

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return torch.cat([left, right], dim=1) if self.concatenate else left + right


@pytest.mark.parametrize("concatenate", [True, False])
def test_branches_that_agree_are_as_wide_as_the_wider(concatenate):
    layers = Branches(nn.Conv2d(3, 4, 5, 2, 2), nn.Conv2d(3, 4, 1, 2), concatenate)
    geometry, channels = check_against_the_gradient(layers)
    assert geometry == Geometry(stride=2, offset=0.0, receptive_field=5, smallest_input=1)
    assert channels == (8 if concatenate else 4)


@pytest.mark.parametrize("concatenate", [True, False])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        # Both halve an even side, so nothing would fail at run time; half a pixel apart all the same.
        (nn.Conv2d(3, 3, 3, 2, 1), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 3, 2, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)),
        (nn.Conv2d(3, 3, 1, 2), nn.Conv2d(3, 3, 1, 1)),
    ],
)
def test_branches_that_lie_over_different_pixels_are_refused(left, right, concatenate):
    with pytest.raises(ValueError, match="branches that meet"):
        derive_geometry(Branches(left, right, concatenate))


def test_residual_branches_agree():
    resnet = torchvision.models.resnet18(weights=None)
    stem = (resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    geometry, channels = check_against_the_gradient(nn.Sequential(*stem, resnet.layer1, resnet.layer2))
    assert (geometry.stride, geometry.offset, channels) == (8, 0, 128)


def test_dense_concatenation_is_counted():
    """DenseNet's hundred concatenations."""
    with torch.device("meta"):
        layers = torchvision.models.densenet121(weights=None).features
        geometry, channels = derive_geometry(layers)
        size = geometry.smallest_input + 2 * geometry.stride
        assert layers(torch.zeros(1, 3, size, size)).shape[1] == channels
    # conv1 and pool1 are padded by half; three pools of 2 follow at strides 4, 8 and 16.
    assert (geometry.stride, geometry.offset, channels) == (32, (4 + 8 + 16) / 2, 1024)


def test_squeeze_and_excitation_has_no_position_of_its_own():
    with torch.device("meta"):
        layers = torchvision.models.mobilenet_v3_small(weights=None).features
        geometry, channels = derive_geometry(layers)
        assert layers(torch.zeros(1, 3, 96, 96)).shape[1] == channels
    assert (geometry.stride, geometry.offset) == (32, 0)


class Gated(nn.Module):
    """A map whose channels are scaled by what the whole image makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.fc(self.pool(x)))


def test_through_a_gate_a_cell_sees_everything_but_its_receptive_field_most():
    """What the docstring says of squeeze-and-excitation, and why the gates stand still in `linearised`."""
    layers = Gated().eval()
    geometry, _ = check_against_the_gradient(layers)
    assert geometry == Geometry(stride=2, offset=0.0, receptive_field=3, smallest_input=1)
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 41, 41, generator=rng).requires_grad_()
    (gradient,) = torch.autograd.grad(layers(image)[0, :, 10, 10].abs().sum(), image)
    slopes = gradient[0].abs().sum(0)
    assert (slopes[:40, :40] > 0).all()  # nothing is hidden from it
    inside = slopes[19:22, 19:22].clone()
    slopes[19:22, 19:22] = 0
    assert inside.min() > 2 * slopes.max()


class Shuffled(nn.Module):
    """Half of the channels pass a filter, as in ShuffleNet: how many there are is not told by the filter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        return torch.cat((left, self.conv(right)), dim=1)


def test_channels_are_counted_through_any_split():
    geometry, channels = check_against_the_gradient(Shuffled())
    assert geometry == Geometry(stride=2, offset=0.0, receptive_field=7, smallest_input=1)
    assert channels == 10


# ---------------------------------------------------------------- what cannot be derived


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 3, (3, 5)),
        nn.Conv2d(3, 3, 3, stride=(1, 2)),
        nn.MaxPool2d(3, padding=(0, 1)),
        nn.Conv2d(3, 3, 3, dilation=(2, 1)),
    ],
)
def test_a_layer_that_treats_the_axes_differently_is_refused(layer):
    with pytest.raises(ValueError, match="height and width"):
        derive_geometry(nn.Sequential(layer))


def test_a_network_that_ends_in_global_pooling_is_refused():
    with pytest.raises(ValueError, match="global pooling"):
        derive_geometry(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)))


class Functional(nn.Module):
    """What a trace sees as a function, with its arguments in many places."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 3, stride=2)


class Mean(nn.Module):
    """Over the axes that are named, which it multiplies the map by."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(self.axes, keepdim=True)


class Attention(nn.Module):
    """Of each column of a map to the others."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(torch.matmul(x, x.transpose(2, 3)), x)


def test_a_mean_over_the_image_is_a_gate():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Mean(2, 3), nn.Conv2d(4, 4, 3))
    assert derive_geometry(layers)[0] == derive_geometry(nn.Sequential(layers[0], layers[2]))[0]


@pytest.mark.parametrize(
    "layer",
    [
        *(Functional(), nn.ConvTranspose2d(3, 3, 2, 2), nn.Upsample(scale_factor=2), nn.LPPool2d(2, 2)),
        *(nn.ZeroPad2d(1), nn.PixelUnshuffle(2), nn.Flatten(), Mean(2), Mean(1), Attention()),
    ],
)
def test_a_layer_that_moves_cells_in_a_way_that_is_not_known_is_refused(layer):
    with pytest.raises(ValueError, match=r"geometry of .* is not known"):
        derive_geometry(nn.Sequential(nn.Conv2d(3, 3, 3), layer))


def test_deriving_changes_nothing():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    derive_geometry(layers)
    assert layers.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())
