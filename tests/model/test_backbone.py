"""Backbones: their weights from every source, good and bad, and what the network sees of an image."""

from __future__ import annotations

import io
import logging
import pickle
import urllib.error
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from spp_det.errors import UserError
from spp_det.model.architectures import BACKBONES
from spp_det.model.backbone import Backbone
from tests.networks import shared

NAME = "zf5_small"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights as a whole network's state dict has them, its classifier included."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for key, tensor in shared(NAME).layers.state_dict().items():
        values = torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 3
        state["features." + key] = values
    return {**state, "classifier.weight": torch.rand(7, 96), "classifier.bias": torch.rand(7)}


@pytest.fixture
def image() -> Tensor:
    return torch.randint(
        0, 256, (1, 3, 70, 90), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("backbone.")
    return message


def refused(path: Path, name: str = NAME) -> str:
    """The message with which a file of weights is refused."""
    with pytest.raises(UserError) as caught:
        Backbone(name).load_weights(str(path))
    message = one_line(caught)
    assert str(path) in message
    return message


# ---------------------------------------------------------------- weights from a file


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_those_of_the_network(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = Backbone(NAME)
    assert backbone.load_weights(str(path)) is backbone
    loaded = backbone.layers.state_dict()
    assert len(loaded) == len(state) - 2  # the classifier is not asked for
    for key, tensor in loaded.items():
        assert torch.equal(tensor, state["features." + key])


def whole_network(name: str) -> nn.Module:
    """torchvision's, random to the last statistic of its batch normalisation, in evaluation mode."""
    generator = torch.Generator().manual_seed(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
                assert tensor is not None
                tensor.uniform_(0.3, 1.0, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("squeezenet1_0", "features"),
        ("squeezenet1_1", "features"),
        ("alexnet", "features.11"),
        ("resnet18", "layer3"),
        ("resnet18_layer4", "layer4"),
        ("resnet50", "layer3"),
        ("resnet50_layer4", "layer4"),
        ("mobilenet_v3_large", "features.13.block.0"),
    ],
)
def test_a_file_of_torchvisions_names_gives_torchvisions_maps(tmp_path, image, name, last):
    network = whole_network(BACKBONES[name].network)
    save_file(network.state_dict(), tmp_path / "whole.safetensors")
    backbone = Backbone(name).load_weights(str(tmp_path / "whole.safetensors"))
    expected: list[Tensor] = []
    network.get_submodule(last).register_forward_hook(lambda _module, _images, maps: expected.append(maps))
    with torch.no_grad():
        network((image.float() - backbone.mean) / backbone.std)
    torch.testing.assert_close(backbone(image), expected[0], rtol=1e-3, atol=1e-3 * float(expected[0].std()))


def test_weights_without_the_counts_of_batches_are_whole(tmp_path, image):
    """As torchvision's oldest files are; evaluation does not read the counts."""
    state = whole_network("resnet18").state_dict()
    save_file(state, tmp_path / "new.safetensors")
    torch.save({k: t for k, t in state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    new, old = (Backbone("resnet18").load_weights(str(tmp_path / f)) for f in ("new.safetensors", "old.pth"))
    assert torch.equal(new(image), old(image))


def test_a_whole_network_that_lacks_one_of_our_layers_is_refused_by_its_full_name(tmp_path):
    state = whole_network("resnet18").state_dict()
    del state["layer3.1.bn2.running_var"]
    save_file(state, tmp_path / "part.safetensors")
    assert "layer3.1.bn2.running_var" in refused(tmp_path / "part.safetensors", "resnet18")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_missing_weight_is_named(tmp_path, state, suffix):
    path = tmp_path / f"part{suffix}"
    part = {name: tensor for name, tensor in state.items() if name != "features.4.weight"}
    save_file(part, path) if suffix == ".safetensors" else torch.save(part, path)
    assert "features.4.weight" in refused(path)


def test_weights_of_another_network_are_refused(tmp_path):
    network = torchvision.models.squeezenet1_0(weights=None)
    save_file(network.state_dict(), tmp_path / "squeezenet.safetensors")
    assert "is not a zf5_small" in refused(tmp_path / "squeezenet.safetensors")


def test_a_weight_of_another_shape_is_named(tmp_path, state):
    path = tmp_path / "wide.safetensors"
    save_file({**state, "features.0.weight": torch.zeros(64, 3, 7, 7)}, path)
    message = refused(path)
    assert "0.weight" in message
    assert "[64, 3, 7, 7]" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path, state, value):
    weight = state["features.0.weight"].clone()
    weight[3, 1, 2, 2] = value
    save_file({**state, "features.0.weight": weight}, tmp_path / "nan.safetensors")
    message = refused(tmp_path / "nan.safetensors")
    assert "features.0.weight" in message
    assert "not finite" in message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_no_file_is_refused(tmp_path, suffix):
    assert "no such file" in refused(tmp_path / f"absent{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    assert "no such file" in refused(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"x", b"<html>Not found</html>" * 9, bytes(range(256)) * 8])
def test_garbage_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state, suffix, part):
    path = tmp_path / f"whole{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    refused(path)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_before_the_code_runs(tmp_path, state, form):
    trace, path = tmp_path / "it-ran", tmp_path / "evil.pth"
    content = {**state, "features.0.weight": Malicious(trace)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))  # as torch writes
    refused(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"state_dict": {}}, {"features.0.weight": 3}])
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth")


# ---------------------------------------------------------------- weights from elsewhere


def test_random_weights_follow_the_seed_and_come_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "spp_det"):
        first = Backbone(NAME).load_weights("random", seed=1).digest()
    assert "random" in caplog.text
    assert Backbone(NAME).load_weights("random", seed=1).digest() == first
    assert Backbone(NAME).load_weights("random", seed=2).digest() != first


def test_building_leaves_torchs_own_generator_alone():
    before = torch.random.get_rng_state()
    Backbone(NAME).load_weights("random", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_signal_of_random_weights_neither_dies_nor_explodes(name):
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    maps = shared(name)(pixels)
    assert 0.01 < maps.std() < 1000  # residual sums grow
    assert maps.abs().max() < 30_000  # half precision, in which maps are kept, ends at 65,504


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UserError) as caught:
        Backbone("alexnt")
    message = one_line(caught)
    assert "alexnt" in message
    for name in BACKBONES:
        assert name in message


@pytest.fixture
def no_downloads_yet(monkeypatch, tmp_path) -> Path:
    """A machine that has never downloaded any weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError(OSError(101, "Network is unreachable")),
        urllib.error.HTTPError("https://x", 403, "Forbidden", None, None),  # type: ignore[arg-type]
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError("timed out"),
    ],
)
def test_without_a_network_default_says_where_the_weights_may_come_from(monkeypatch, no_downloads_yet, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(UserError) as caught:
        Backbone("squeezenet1_0").load_weights("default")
    message = one_line(caught)
    assert "squeezenet1_0-b66bff10.pth" in message
    assert str(no_downloads_yet) in message
    assert "backbone.weights=FILE" in message


class Answer(io.BytesIO):
    """What a server sends."""

    def info(self) -> Message:
        return Message()


@pytest.mark.usefixtures("no_downloads_yet")
def test_a_download_that_is_not_the_weights_is_refused(monkeypatch):
    """As from a hotel's login page."""
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_args, **_kwargs: Answer(b"<html>Please log in</html>"))
    with pytest.raises(UserError) as caught:
        Backbone("squeezenet1_0").load_weights("default")
    assert "squeezenet1_0-b66bff10.pth" in one_line(caught)


def test_weights_downloaded_before_are_used_and_never_run_code(tmp_path, no_downloads_yet):
    no_downloads_yet.mkdir(parents=True)
    path = no_downloads_yet / "squeezenet1_0-b66bff10.pth"
    network = torchvision.models.squeezenet1_0(weights=None)
    torch.save(network.state_dict(), path)
    backbone = Backbone("squeezenet1_0").load_weights("default")
    assert torch.equal(backbone.layers.state_dict()["0.weight"], network.state_dict()["features.0.weight"])
    torch.save({"features.0.weight": Malicious(tmp_path / "it-ran")}, path)
    evil = path.read_bytes()
    for content in (evil, b"garbage", b"", evil[:300]):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            Backbone("squeezenet1_0").load_weights("default")
        assert "squeezenet1_0-b66bff10.pth" in one_line(caught)
    assert not (tmp_path / "it-ran").exists()


def test_a_network_of_our_own_has_no_default_weights():
    with pytest.raises(UserError) as caught:
        Backbone(NAME).load_weights("default")
    assert "torchvision has no weights for zf5_small" in one_line(caught)


# ---------------------------------------------------------------- what the network sees


@pytest.mark.parametrize("name", ["squeezenet1_0", "alexnet"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 90), (90, 5), (20, 20)])
def test_an_image_too_small_is_padded_with_the_mean_colour(name, height, width):
    backbone = shared(name)
    smallest = backbone.geometry.smallest_input
    assert smallest > 20
    rng = torch.Generator().manual_seed(3)
    tiny = torch.randint(0, 256, (2, 3, height, width), generator=rng, dtype=torch.uint8)
    padded = backbone.mean.expand(2, 3, max(height, smallest), max(width, smallest)).clone()
    padded[:, :, :height, :width] = tiny
    torch.testing.assert_close(backbone(tiny), backbone(padded), rtol=1e-3, atol=1e-4)


def test_images_of_a_batch_do_not_mix(image):
    backbone = shared(NAME)
    together = backbone(torch.cat([image, 255 - image]))
    # Two images may be summed in another order than one (docs/numbers.md); mixed, they differ by a spread.
    rounding = 1e-4 * float(together.std())
    torch.testing.assert_close(together[:1], backbone(image), rtol=0, atol=rounding)
    torch.testing.assert_close(together[1:], backbone(255 - image), rtol=0, atol=rounding)
    assert together.is_contiguous(memory_format=torch.channels_last)


def test_the_images_are_left_as_they_were(image):
    pixels = image.float()
    copy = pixels.clone()
    shared(NAME)(pixels)
    assert torch.equal(pixels, copy)


@pytest.mark.parametrize("name", BACKBONES)
def test_nothing_of_a_backbone_learns(name, image):
    backbone = shared(name)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(image).requires_grad


def test_loading_weights_keeps_it_frozen(tmp_path, state, image):
    save_file(state, tmp_path / "weights.safetensors")
    backbone = Backbone(NAME).load_weights(str(tmp_path / "weights.safetensors"))
    assert not backbone.training
    assert not backbone(image).requires_grad


# ---------------------------------------------------------------- the key of the weights


def test_the_digest_is_that_of_the_weights_not_of_their_file(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(dict(reversed(state.items())), tmp_path / "b.pth")
    one, other = (Backbone(NAME).load_weights(str(tmp_path / name)) for name in ("a.safetensors", "b.pth"))
    assert one.digest() == other.digest() == one.digest()
    other(torch.zeros(1, 3, 64, 64))
    assert one.digest() == other.digest()


@pytest.mark.parametrize("key", ["0.bias", "0.weight", "2.running_var", "14.weight"])
def test_any_changed_weight_changes_the_digest(key):
    backbone = Backbone(NAME)
    before = backbone.digest()
    tensor = backbone.layers.state_dict()[key]
    last = (-1,) * tensor.ndim
    tensor[last] = float(np.nextafter(np.float32(tensor[last]), np.float32(9)))
    assert backbone.digest() != before


def test_weights_of_other_names_have_another_digest():
    assert len({shared(name).digest() for name in ("zf5", "zf5_small", "alexnet")}) == 3
