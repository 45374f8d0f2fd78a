"""Weights of fc6 and fc7: where pre-trained columns go, and what is refused."""

from __future__ import annotations

import logging
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.errors import UserError
from spp_det.model.head import FCHead
from spp_det.model.head_weights import CLASSIFIERS, LEVELS_KEY, NEW_BINS
from spp_det.model.pyramid import pool_windows
from tests.heads import CHANNELS, WIDTH, normal, random_head

GRID = {"alexnet": 6, "vgg16": 7}


LEVELS = {"alexnet": (6, 3, 2, 1), "vgg16": (7, 3, 2, 1)}


def network(
    name: str, channels: int = CHANNELS, width: int = WIDTH, grid: int | None = None
) -> dict[str, Tensor]:
    """The fc layers of a state dict in torchvision's names, far narrower than the real one."""
    fc6, fc7 = CLASSIFIERS[name].values()
    columns = channels * (grid or GRID[name]) ** 2
    return {
        f"{fc6}.weight": normal(width, columns, seed=1),
        f"{fc6}.bias": normal(width, seed=2),
        f"{fc7}.weight": normal(width, width, seed=3),
        f"{fc7}.bias": normal(width, seed=4),
        "classifier.6.weight": normal(3, width, seed=5),
    }


def torchvisions(state: dict[str, Tensor], name: str, grids: Tensor) -> Tensor:
    """fc7 as torchvision computes it, from ``[N, C, n, n]``."""
    x = grids.flatten(1)
    for layer in CLASSIFIERS[name].values():
        x = F.relu(F.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"]))
    return x


def without_new_bins(head: FCHead, levels: tuple[int, ...], grid: int, channels: int = CHANNELS) -> FCHead:
    """The same head with zeros for the bins that were not pre-trained."""
    weight = head.layers["fc6"].weight.view(head.dimension, -1, channels)  # type: ignore[operator, union-attr]
    first = sum(n * n for n in levels[: levels.index(grid)])
    weight.data[:, :first] = 0
    weight.data[:, first + grid * grid :] = 0
    return head


@pytest.fixture(params=["alexnet", "vgg16"])
def name(request) -> str:
    return request.param


@pytest.fixture
def file(tmp_path, name) -> Path:
    path = tmp_path / "network.safetensors"
    save_file(network(name), path)
    return path


def refused(path: Path | str, name: str = "alexnet", levels: tuple[int, ...] = (6, 3, 2, 1), **kwargs) -> str:
    """The message, one line, with which weights are refused."""
    with pytest.raises(UserError) as caught:
        random_head(levels, **kwargs).load_weights(str(path), name, levels, CHANNELS)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_columns_go_from_channel_row_column_to_bin_channel(tmp_path):
    """Two channels on a 2 x 2 grid that is the second level of (1, 2), by hand."""
    state = network("alexnet", channels=2, width=1, grid=2)
    state["classifier.1.weight"] = torch.tensor([[1.0, 2, 3, 4, 10, 20, 30, 40]])
    save_file(state, tmp_path / "x.safetensors")
    head = FCHead("fc6", 10, 1).load_weights(str(tmp_path / "x.safetensors"), "alexnet", (1, 2), 2)
    weight = head.layers["fc6"].weight.flatten().tolist()
    assert weight[2:] == [1, 10, 2, 20, 3, 30, 4, 40]
    assert weight[0] != weight[1] != 0


@pytest.mark.parametrize("levels", [(0, 3, 2, 1), (3, 0, 1), (1, 2, 3, 0), (0,)])  # 0: the network's grid
def test_on_a_map_of_exactly_the_grid_it_is_torchvisions_classifier(name, file, levels):
    levels = tuple(n or GRID[name] for n in levels)
    cells = normal(5, CHANNELS, GRID[name], GRID[name]).relu()
    whole = torch.tensor([[0, 0, GRID[name], GRID[name]]])
    vectors = torch.cat([pool_windows(c, whole, levels).flatten(1) for c in cells])
    head = random_head(levels).load_weights(str(file), name, levels, CHANNELS)
    expected = torchvisions(network(name), name, cells)
    assert expected.count_nonzero() > 5
    torch.testing.assert_close(without_new_bins(head, levels, GRID[name])(vectors), expected)


@pytest.mark.parametrize(("name", "side", "pool5"), [("alexnet", 13, (3, 2)), ("vgg16", 14, (2, 2))])
def test_on_the_map_of_an_imagenet_crop_it_is_torchvisions_with_its_own_pool5(file, name, side, pool5):
    cells = normal(CHANNELS, side, side).relu()
    head = random_head(LEVELS[name]).load_weights(str(file), name, LEVELS[name], CHANNELS)
    vectors = pool_windows(cells, torch.tensor([[0, 0, side, side]]), LEVELS[name]).flatten(1)
    expected = torchvisions(network(name), name, F.max_pool2d(cells[None], *pool5))
    torch.testing.assert_close(without_new_bins(head, LEVELS[name], GRID[name])(vectors), expected)


def test_the_names_and_the_grid_are_those_of_torchvisions_networks(name):
    with torch.device("meta"):
        whole = torchvision.models.get_model(name, weights=None)
    linear = [key for key, module in whole.named_modules() if isinstance(module, nn.Linear)]
    assert list(CLASSIFIERS[name].values()) == linear[:2]
    channels = {"alexnet": 256, "vgg16": 512}[name]
    assert whole.get_submodule(linear[0]).weight.shape == (4096, channels * GRID[name] ** 2)


def test_the_weights_of_new_bins_are_a_tenth_as_large_and_follow_the_seed(name, file):
    levels = LEVELS[name]

    def load(seed: int) -> Tensor:
        head = random_head(levels).load_weights(str(file), name, levels, CHANNELS, seed)
        return head.layers["fc6"].weight.view(WIDTH, -1, CHANNELS)

    weight, pretrained = load(1), GRID[name] ** 2
    spread = float(weight[:, :pretrained].square().mean().sqrt())
    assert float(weight[:, pretrained:].std()) == pytest.approx(NEW_BINS * spread, rel=0.1)
    assert abs(weight[:, pretrained:].mean()) < 0.03 * spread
    assert torch.equal(weight, load(1))
    assert torch.equal(weight[:, :pretrained], load(2)[:, :pretrained])
    assert not torch.equal(weight[:, pretrained:], load(2)[:, pretrained:])


def test_a_file_of_several_levels_fills_them_in_any_order(tmp_path):
    """What `spp-det pretrain` writes: each level in torchvision's order, one after the other."""
    state = network("alexnet", grid=1) | {"classifier.1.weight": normal(WIDTH, CHANNELS * 14, seed=6)}
    save_file(state | {LEVELS_KEY: torch.tensor([2, 3, 1])}, tmp_path / "x.safetensors")
    head = random_head((3, 6, 1, 2)).load_weights(
        str(tmp_path / "x.safetensors"), "alexnet", (3, 6, 1, 2), CHANNELS
    )
    maps = {n: normal(CHANNELS, n, n, seed=n) for n in (1, 2, 3, 6)}
    by_bin = [maps[n].flatten(1).T.flatten() for n in (3, 6, 1, 2)]
    by_bin[1] = torch.zeros_like(by_bin[1])  # its weights are new
    trained = torch.cat([maps[n].flatten() for n in (2, 3, 1)])
    fc6 = head.layers["fc6"]
    expected = F.linear(trained, state["classifier.1.weight"], state["classifier.1.bias"])
    torch.testing.assert_close(fc6(torch.cat(by_bin)), expected)
    assert refused(tmp_path / "x.safetensors", levels=(6, 3, 1)).startswith("pyramid.levels = [6, 3, 1]: ")
    save_file(state | {LEVELS_KEY: torch.tensor([2, 3])}, tmp_path / "x.safetensors")
    assert "classifier.1.weight is" in refused(tmp_path / "x.safetensors", levels=(3, 2, 1))
    save_file(state | {LEVELS_KEY: torch.tensor([2, 2])}, tmp_path / "x.safetensors")
    assert LEVELS_KEY in refused(tmp_path / "x.safetensors", levels=(3, 2, 1))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_fc6_alone_asks_for_no_fc7_and_half_precision_is_read(tmp_path, suffix):
    state = {k: t.half() for k, t in network("alexnet").items() if k.startswith("classifier.1.")}
    path = tmp_path / f"x{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    head = random_head(layer="fc6").load_weights(str(path), "alexnet", (6, 3, 2, 1), CHANNELS)
    assert list(head.layers) == ["fc6"]
    assert head.layers["fc6"].weight.dtype == torch.float32
    assert torch.equal(head.layers["fc6"].bias, state["classifier.1.bias"].float())


def test_loading_leaves_it_frozen_and_torchs_own_generator_alone(name, file):
    before = torch.random.get_rng_state()
    head = random_head(LEVELS[name])
    assert head.load_weights(str(file), name, LEVELS[name], CHANNELS) is head
    assert not head.training
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_downloaded_before_are_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    state = network("alexnet")
    torch.save(state, tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth")
    head = random_head().load_weights("default", "alexnet", (6, 3, 2, 1), CHANNELS)
    assert torch.equal(head.layers["fc7"].weight, state["classifier.4.weight"])


def test_a_pyramid_without_the_networks_grid_is_told_which_level_it_lacks(name, file):
    message = refused(file, name, levels=(4, 2, 1))
    assert message.startswith("pyramid.levels = [4, 2, 1]: ")
    assert f"put {GRID[name]} among them" in message
    assert "fc.weights=random" in message


def test_another_width_is_told_the_networks(name, file):
    message = refused(file, name, LEVELS[name], width=12)
    assert message.startswith("fc.width = 12: ")
    assert "set fc.width=10" in message


@pytest.mark.parametrize("key", [f"classifier.{i}.{kind}" for i in (1, 4) for kind in ("weight", "bias")])
def test_a_missing_weight_is_named(tmp_path, key):
    state = {k: t for k, t in network("alexnet").items() if k != key}
    save_file(state, tmp_path / "x.safetensors")
    message = refused(tmp_path / "x.safetensors")
    assert message.startswith("fc.weights: ")
    assert str(tmp_path) in message
    assert f"no {key}" in message


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("classifier.1.weight", torch.zeros(WIDTH, CHANNELS * 36 + 1)),
        ("classifier.1.weight", torch.zeros(WIDTH, CHANNELS * 35)),
        ("classifier.1.weight", torch.zeros(WIDTH, 0)),
        ("classifier.1.weight", torch.zeros(WIDTH, CHANNELS, 6, 6)),
        ("classifier.1.weight", torch.zeros(WIDTH, CHANNELS * 36, dtype=torch.int64)),
        ("classifier.1.weight", 3),
        ("classifier.1.bias", torch.zeros(WIDTH + 1)),
        ("classifier.1.bias", torch.zeros(())),
        ("classifier.4.weight", torch.zeros(WIDTH, WIDTH + 1)),
        ("classifier.4.weight", torch.zeros(WIDTH + 1, WIDTH)),
        ("classifier.4.bias", torch.zeros(WIDTH, 1)),
    ],
)
def test_a_weight_of_another_shape_is_named(tmp_path, key, content):
    torch.save({**network("alexnet"), key: content}, tmp_path / "x.pth")
    message = refused(tmp_path / "x.pth")
    assert message.startswith("fc.weights: ")
    assert "does not fit alexnet" in message
    assert key in message


def test_weights_of_the_convolutions_alone_are_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    assert "no classifier.1.weight" in refused(tmp_path / "x.safetensors")


def test_what_cannot_be_read_speaks_of_fc_weights(tmp_path):
    (tmp_path / "garbage.pth").write_bytes(b"<html>")
    for path in (tmp_path / "absent.pth", tmp_path / "garbage.pth"):
        message = refused(path)
        assert message.startswith("fc.weights: ")
        assert str(path) in message


def test_without_a_network_default_names_the_key_to_set(monkeypatch, tmp_path):
    def fail(*_args, **_kwargs):
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    message = refused("default")
    assert message.startswith("fc.weights: could not download")
    assert "fc.weights=FILE" in message
    assert "backbone.weights" not in message


def test_a_file_for_a_backbone_of_unknown_names_is_refused(tmp_path):
    message = refused(tmp_path / "x.pth", "resnet18")
    assert message.startswith("fc.weights: ")
    assert "resnet18" in message
    assert "'random'" in message


def test_levels_and_channels_must_make_the_input():
    with pytest.raises(ValueError, match="do not make"):
        random_head((3, 1)).load_weights("random", "alexnet", (3, 2), CHANNELS)


def test_default_is_random_with_a_warning_where_there_are_no_fc_layers(caplog):
    with caplog.at_level(logging.WARNING, "spp_det"):
        head = random_head().load_weights("default", "squeezenet1_0", (6, 3, 2, 1), CHANNELS, seed=3)
    assert len(caplog.records) == 1
    assert "fc.weights: random" in caplog.text
    assert "squeezenet1_0" in caplog.text
    same = FCHead("fc7", 50 * CHANNELS, WIDTH, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_random_weights_follow_the_seed(layer):
    def weights(seed: int) -> list[Tensor]:
        head = FCHead(layer, 200, WIDTH).load_weights("random", "alexnet", (6, 3, 2, 1), CHANNELS, seed)
        return list(head.layers.state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not torch.equal(weights(1)[0], weights(2)[0])


def test_the_signal_of_random_weights_neither_dies_nor_explodes():
    head, vectors = FCHead("fc7", 500, 400), normal(20, 500).relu()
    mean_square = vectors.square().mean()
    assert 0.3 < head(vectors).square().mean() / mean_square < 3  # He: the same in expectation


@pytest.mark.parametrize("stated", [torch.tensor([float("nan")]), torch.tensor([2.0])])
def test_levels_that_are_no_integers_are_refused(tmp_path, stated):
    save_file({LEVELS_KEY: stated}, tmp_path / "a.safetensors")
    head = FCHead("fc6", 4 * 256, 6, seed=None)
    with pytest.raises(UserError, match="not of integers"):
        head.load_weights(str(tmp_path / "a.safetensors"), "alexnet", (2,), 256)
