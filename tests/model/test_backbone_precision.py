"""The precision that a backbone computes in: which one `auto` is, and what it does to the map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spp_det.model import backbone as backbone_module
from spp_det.model.architectures import BACKBONES
from spp_det.model.backbone import Backbone
from tests.networks import shared

NAME = "zf5_small"


@pytest.fixture
def image() -> Tensor:
    return torch.randint(
        0, 256, (1, 3, 70, 90), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def bfloat16_that_pays(monkeypatch, there: bool) -> None:
    monkeypatch.setattr(backbone_module, "bfloat16_pays", lambda _device: (there, "it says so"))


def test_a_backbone_computes_in_float32_until_it_is_told(image):
    backbone = Backbone(NAME)
    assert backbone.precision == torch.float32
    exact = backbone(image)
    assert backbone.at("float32") is backbone
    assert backbone.precision == torch.float32
    assert torch.equal(backbone(image), exact)


@pytest.mark.parametrize("name", BACKBONES)
def test_bfloat16_gives_nearly_the_same_map_in_float32_so_auto_settles_on_it(monkeypatch, name, image):
    bfloat16_that_pays(monkeypatch, True)
    backbone = Backbone(name)
    exact = backbone(image)
    before = {key: tensor.clone() for key, tensor in backbone.layers.state_dict().items()}
    # Random weights let the residual sums of a deep EfficientNet-Lite grow until ReLU6 cuts them off: .06 to
    # .13. ImageNet's weights: .024 to .032.
    grows = name in ("efficientnet_lite2", "efficientnet_lite0_dilated", "efficientnet_lite2_dilated")
    most, precision = (0.15, "bfloat16") if grows else (0.05, "auto")
    assert backbone.at(precision) is backbone
    assert backbone.precision == torch.bfloat16
    found = backbone(image)
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    assert 0 < error(found, exact) < most
    assert not found.requires_grad
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert backbone.layers.state_dict().keys() == before.keys()
    for key, tensor in backbone.layers.state_dict().items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key])
    assert torch.equal(backbone.at("float32")(image), exact)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["zf5_small", "squeezenet1_0", "efficientnet_lite0_dilated"])
def test_a_map_of_a_single_column_has_the_values_of_float32(name, turned):
    """AMX's bfloat16 took what lay in freed memory where a strided filter's output is one column wide."""
    whole, short = shared(name), Backbone(name).at("bfloat16")
    two_cells = whole.geometry.smallest_input + whole.geometry.stride
    for width in sorted({1, 2, 7, two_cells - 1, two_cells}):
        pixels = torch.randint(0, 256, (1, 3, 96, width), dtype=torch.uint8)
        pixels = pixels.transpose(2, 3) if turned else pixels
        for count in (1000, 20_000, 300_000):
            torch.full((count,), torch.nan)  # and freed
        found = short(pixels)
        assert torch.equal(found, whole(pixels)) == (width < two_cells)
        assert found.isfinite().all()


def test_auto_is_bfloat16_where_it_pays_and_does_no_harm(monkeypatch, image):
    bfloat16_that_pays(monkeypatch, True)
    backbone = Backbone(NAME).at("auto")
    assert backbone.precision == torch.bfloat16
    assert torch.equal(backbone(image), Backbone(NAME).at("bfloat16")(image))


def test_auto_is_float16_where_a_gpus_floats_pay_and_rounds_less(monkeypatch, image):
    bfloat16_that_pays(monkeypatch, True)
    monkeypatch.setattr(backbone_module, "fast_floats", lambda _device: "float16")
    exact, backbone = Backbone(NAME)(image), Backbone(NAME).at("auto")
    assert (backbone.precision, backbone.precision_name) == (torch.float16, "float16")
    found = backbone(image)
    assert found.dtype == torch.float32
    assert 0 < error(found, exact) < error(Backbone(NAME).at("bfloat16")(image), exact) / 4


@pytest.mark.parametrize("short", ["float16", "bfloat16"])
def test_auto_is_float32_where_numbers_are_too_large_for_float16(monkeypatch, short):
    bfloat16_that_pays(monkeypatch, True)
    monkeypatch.setattr(backbone_module, "fast_floats", lambda _device: short)
    backbone = Backbone(NAME)
    backbone.layers[0].weight.mul_(1e6)
    assert backbone.at("auto").precision_name == {"float16": "float32", "bfloat16": "bfloat16"}[short]


def test_auto_is_float32_where_bfloat16_does_not_pay(monkeypatch, image):
    bfloat16_that_pays(monkeypatch, False)
    backbone = Backbone(NAME).at("auto")
    assert backbone.precision == torch.float32
    assert torch.equal(backbone(image), Backbone(NAME)(image))
    assert backbone.at("bfloat16").precision == torch.bfloat16  # whoever insists gets it
    assert backbone.at("auto").precision == torch.float32


def test_auto_is_float32_where_bfloat16_would_do_harm(monkeypatch, image):
    bfloat16_that_pays(monkeypatch, True)
    monkeypatch.setattr(backbone_module, "HARMLESS", 0)
    backbone = Backbone(NAME).at("auto")
    assert backbone.precision == torch.float32
    assert backbone.reason.startswith("bfloat16 would move conv5 by")
    assert torch.equal(backbone(image), Backbone(NAME)(image))
    assert backbone.at("bfloat16").precision == torch.bfloat16


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_auto_is_float32_where_the_harm_cannot_be_told(monkeypatch, value):
    """A network whose map is zero, or no number, everywhere: the error is not a number."""
    bfloat16_that_pays(monkeypatch, True)
    backbone = Backbone(NAME)
    backbone.layers.state_dict()["14.weight"].fill_(value)
    assert backbone.at("auto").precision == torch.float32


def test_the_precision_that_auto_finds_is_the_same_every_time(monkeypatch):
    """Of one network, whatever torch's own generator and the precision before were; it leaves both alone."""
    bfloat16_that_pays(monkeypatch, True)
    errors, measure = [], Backbone._error_in
    monkeypatch.setattr(Backbone, "_error_in", lambda *given: errors.append(measure(*given)) or errors[-1])
    backbone, before = Backbone(NAME), torch.random.get_rng_state()
    for precision in ("auto", "bfloat16", "auto"):
        backbone.at(precision)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert errors[0] == errors[1]
    assert 0 < errors[0] < backbone_module.HARMLESS


def test_images_of_a_batch_do_not_mix_in_bfloat16_either(image):
    backbone = Backbone(NAME).at("bfloat16")
    together = backbone(torch.cat([image, 255 - image]))
    assert error(together[:1], backbone(image)) < 0.02
    assert error(together[1:], backbone(255 - image)) < 0.02


def test_each_precision_has_its_own_digest_that_of_its_maps(monkeypatch):
    backbone = Backbone(NAME)
    exact, rounded = backbone.digest(), backbone.at("bfloat16").digest()
    assert exact != rounded
    assert backbone.at("float32").digest() == exact
    for there, expected in ((True, rounded), (False, exact)):  # auto is not a third one
        bfloat16_that_pays(monkeypatch, there)
        assert backbone.at("auto").digest() == expected
