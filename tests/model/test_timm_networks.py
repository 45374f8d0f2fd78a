"""Networks of timm: where they are cut, what their maps see, and every way in which that can fail."""

from __future__ import annotations

import operator
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.nn import functional as F

from spp_det.errors import MissingPackageError, UserError
from spp_det.model.backbone import Backbone
from spp_det.model.geometry import derive_geometry
from spp_det.model.graph import trace
from spp_det.model.timm_networks import cut
from tests.model.test_geometry import interior_cells, linearised, support
from tests.networks import shared

timm = pytest.importorskip("timm", reason="networks of timm: timm is not installed")

# Stride, offset, channels, whether a cell can be negative.
NETWORKS = {
    # A stem of 4 x 4 and halvings of 2 x 2, none padded: (4-1)/2, then half a cell of strides 4 and 8.
    "convnext_atto": (16, 1.5 + 2 + 4, 160, False),
    "convnextv2_atto": (16, 1.5 + 2 + 4, 160, False),
    "resnet18.a1_in1k": (16, 0, 256, True),
    "resnet50.a1_in1k": (16, 0, 1024, True),
    "mobilenetv4_conv_small": (16, 0, 576, True),
    "efficientnet_b0": (16, 0, 672, False),
    "tf_efficientnet_lite0": (16, 0, 672, True),
    "vgg11": (16, 0.5 + 1 + 2 + 4, 512, True),
}


def straightened(layers: fx.GraphModule) -> nn.Module:
    """`linearised`, without the functions that tie the channels or the cells of a map to one another."""
    layers = linearised(layers)
    for name, tensor in layers.named_parameters():
        if name.endswith("gamma"):  # by which ConvNeXt scales its branches, a millionth at first
            tensor.fill_(1)
        elif tensor.ndim == 2:
            tensor.fill_(1 / tensor.shape[1])
    for node in list(layers.graph.nodes):
        module = layers.get_submodule(str(node.target)) if node.op == "call_module" else None
        norms = isinstance(module, nn.BatchNorm2d | nn.LayerNorm) or node.target in (
            F.layer_norm,
            F.batch_norm,
        )
        if norms or node.target in (F.gelu, torch.addcmul) or isinstance(module, nn.ReLU | nn.SiLU | nn.GELU):
            # ConvNeXt V2 adds a gate's product to its map: bias + weight * (map * gate), then the map.
            node.replace_all_uses_with(node.args[2 if node.target is torch.addcmul else 0])
            layers.graph.erase_node(node)
        elif node.target in (operator.truediv, torch.norm, "norm") or "mean" in str(node.target):
            ones = layers.graph.create_node("call_function", torch.ones_like, (node.args[0],))
            node.prepend(ones)
            node.replace_all_uses_with(ones)
            layers.graph.erase_node(node)
    layers.graph.eliminate_dead_code()
    layers.recompile()
    return layers


@pytest.mark.parametrize("name", NETWORKS)
def test_the_geometry_is_that_of_the_gradient(name):
    """Of one interior cell at least, on both axes."""
    backbone = shared(f"timm:{name}")
    geometry = backbone.geometry
    side = geometry.receptive_field + 2 * geometry.stride
    image = torch.ones(1, 3, side, side, requires_grad=True)
    maps, interior = straightened(backbone.layers)(image), interior_cells(geometry, side)
    assert maps.shape[1] == backbone.channels
    cell = (interior[0], interior[-1])
    for j, (first, last) in zip(cell, support(maps, image, cell), strict=True):
        assert (first + last) / 2 == geometry.stride * j + geometry.offset
        assert last - first + 1 == geometry.receptive_field


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks(name):
    backbone = shared(f"timm:{name}")
    found = (backbone.geometry.stride, backbone.geometry.offset, backbone.channels, backbone.non_negative)
    assert found == NETWORKS[name]
    side = backbone.geometry.smallest_input
    assert min(backbone(torch.zeros(1, 3, side, side)).shape[2:]) >= 1
    assert min(backbone(torch.zeros(1, 3, 1, 70)).shape[2:]) >= 1


WHOLE = {  # the layer of the whole network whose output is the map
    "convnext_atto": "stages.3.downsample.0",
    "resnet50.a1_in1k": "layer3",
    "mobilenetv4_conv_small": "blocks.3.0.pw_exp",
    "vgg11": "features.19",
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_map_is_that_of_the_whole_network_with_the_weights_of_a_file(name, tmp_path):
    """Its pixels are scaled by timm's own mean and deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = timm.create_model(name, num_classes=0).eval()
    if hasattr(whole, "pre_logits"):  # VGG's fc6 and fc7: behind the map, and most of its numbers
        whole.pre_logits = nn.Identity()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    backbone = Backbone(f"timm:{name}").load_weights(str(tmp_path / "whole.safetensors"))
    image = torch.randint(
        0, 256, (1, 3, 96, 128), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )
    config = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    expected: list[Tensor] = []
    whole.get_submodule(WHOLE[name]).register_forward_hook(
        lambda _module, _images, maps: expected.append(maps)
    )
    with torch.no_grad():
        whole.forward_features((image.float() / 255 - mean) / std)
    torch.testing.assert_close(backbone(image), expected[0], rtol=1e-3, atol=1e-3 * float(expected[0].std()))


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "convnext_atto", "mobilenetv4_conv_small"])
def test_any_stride_that_the_network_has_can_be_asked_for(name, stride):
    backbone = shared(f"timm:{name}", stride)
    assert backbone.geometry.stride == stride
    assert backbone(torch.zeros(1, 3, 128, 96)).shape == (1, backbone.channels, 128 // stride, 96 // stride)


def test_networks_cut_elsewhere_have_other_digests():
    """Even with the same weights: the last pool of VGG has none."""
    one, other = shared("timm:vgg11"), Backbone("timm:vgg11", 32)
    assert one.geometry.stride == 16
    assert one.layers.state_dict().keys() == other.layers.state_dict().keys()
    assert one.digest() != other.digest()


def test_random_weights_follow_the_seed_and_leave_torchs_generator_alone():
    before = torch.random.get_rng_state()
    first = Backbone("timm:convnext_atto").load_weights("random", seed=1).digest()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    assert Backbone("timm:convnext_atto").load_weights("random", seed=1).digest() == first
    assert Backbone("timm:convnext_atto").load_weights("random", seed=2).digest() != first


def test_batch_normalisation_learns_in_pre_training():
    layers = Backbone("timm:mobilenetv4_conv_small").layers.train()
    before = layers.state_dict()["conv_stem.weight"].clone()
    statistics = layers.state_dict()["bn1.running_mean"].clone()
    layers.requires_grad_(True)(torch.rand(2, 3, 64, 64)).sum().backward()
    assert torch.equal(layers.state_dict()["conv_stem.weight"], before)
    assert not torch.equal(layers.state_dict()["bn1.running_mean"], statistics)
    assert all(parameter.grad is not None for parameter in layers.parameters())


# ---------------------------------------------------------------- default weights


def test_default_weights_are_timms_own(monkeypatch):
    made, create = [], timm.create_model

    def create_model(name, pretrained=False):
        made.append((name, pretrained))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return create(name)

    monkeypatch.setattr(timm, "create_model", create_model)
    backbone = Backbone("timm:resnet18.a1_in1k").load_weights("default")
    assert made == [("resnet18.a1_in1k", False), ("resnet18.a1_in1k", True)]
    expected = create_model("resnet18.a1_in1k").state_dict()["layer3.1.conv2.weight"]
    assert torch.equal(backbone.layers.state_dict()["layer3.1.conv2.weight"], expected)


@pytest.mark.parametrize(
    "error", [OSError("no route to host"), RuntimeError("no weights\nat all"), ValueError()]
)
def test_weights_that_timm_cannot_load_are_one_line(monkeypatch, error):
    backbone = Backbone("timm:resnet18.a1_in1k")

    def create_model(*_arguments, **_options):
        raise error

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(UserError) as caught:
        backbone.load_weights("default")
    message = str(caught.value)
    assert message.startswith("backbone.weights: timm cannot load resnet18.a1_in1k")
    assert "backbone.weights=FILE" in message
    assert "\n" not in message


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet81", "resnet18"),  # the nearest names
        ("resnet50.moon", "moon"),
        ("hf-hub:timm/resnet18.a1_in1k", "has no"),  # timm would ask a server
        ("local-dir:.", "has no"),
        ("", "has no"),
        ("vit_tiny_patch16_224", "flatten"),
        ("resnet50d", "do not lie over the same pixels"),
    ],
)
def test_a_network_that_is_not_there_or_has_no_such_map_is_refused_in_one_line(name, says):
    with pytest.raises(UserError) as caught:
        Backbone(f"timm:{name}")
    message = str(caught.value)
    assert message.startswith("backbone.name: ")
    assert says in message
    assert "\n" not in message


def test_a_stride_that_the_network_has_not_lists_those_that_it_has():
    with torch.device("meta"):
        whole = timm.create_model("resnet18").eval()
    with pytest.raises(ValueError, match=r"no map of stride 64; there are maps of .*4, 8, 16, 32"):
        cut(whole, 64)


def test_a_network_that_cannot_be_traced_is_refused():
    class Undecided(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot be traced"):
        cut(Undecided(), 16)


class Late(nn.Module):
    """What moves cells in an unknown way stands behind a map of stride 16, or in its last part."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.last = nn.Conv2d(3, 4, 16, 16), nn.ReLU(), last

    def forward_features(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.stem(x)))


def test_what_follows_a_map_need_not_be_known():
    layers = cut(Late(nn.Sequential(nn.Conv2d(4, 4, 2, 2), nn.PixelShuffle(2))), 16)
    assert [name for name, _ in layers.named_children()] == ["stem", "body"]
    assert derive_geometry(layers)[0].stride == 16
    with pytest.raises(ValueError, match="not known"):  # a later map of stride 16 may be there
        cut(Late(nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2))), 16)


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as Python marks what it must not import
    with pytest.raises(MissingPackageError) as caught:
        Backbone("timm:resnet18")
    assert "pip install 'spp_det[timm]'" in str(caught.value)
    assert "\n" not in str(caught.value)
    Backbone("zf5_small")  # which has no need of it


def test_traces_are_of_the_maps_alone():
    """No classifier, and nothing of the stages that were cut off, takes memory."""
    layers = shared("timm:resnet18.a1_in1k").layers
    assert not [key for key in layers.state_dict() if key.startswith(("layer4", "fc"))]
    assert [node.op for node in trace(layers).graph.nodes].count("output") == 1
    assert np.isfinite(layers(torch.zeros(1, 3, 64, 64)).numpy()).all()
