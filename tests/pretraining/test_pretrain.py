"""Pre-training as one call: what it learns from, what it goes on from, and the weights that it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spp_det.config.pretrain import PretrainConfig
from spp_det.errors import UserError
from spp_det.images import encode_jpeg
from spp_det.model.backbone import Backbone
from spp_det.model.head import FCHead
from spp_det.pretraining import pretrain as module
from spp_det.pretraining.pretrain import pretrain, save_backbone, save_network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Noise, darker in one class than in the other, and a file that is no image."""
    folder, rng = tmp_path_factory.mktemp("pretrain"), np.random.default_rng(0)
    for name, grey in (("dark", 60), ("light", 190)):
        (folder / "train" / name).mkdir(parents=True)
        for index in range(6):
            noise = rng.normal(grey, 30, (36, 40, 3)).clip(0, 255).astype(np.uint8)
            (folder / "train" / name / f"{index}.jpg").write_bytes(encode_jpeg(noise))
    (folder / "train" / "light" / "broken.jpg").write_text("not a photo")
    return folder


def configure(folder: Path, output: Path, **sections: Any) -> PretrainConfig:
    tree: dict[str, Any] = {
        "output": output,
        "data": {"root": folder},
        "backbone": {"name": "zf5_small"},
        "pyramid": {"levels": (2, 1)},
        "fc": {"layers": 1, "width": 8},
        "train": {"sizes": (32,), "epochs": 3, "batch": 4, "learning_rate": 1e-3},
        "runtime": {"device": "cpu", "workers": 1},
    }
    return PretrainConfig.model_validate(tree | sections)


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    states = one.state_dict(), two.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_it_returns_a_frozen_network_and_its_figures_and_writes_the_checkpoint_alone(folder, tmp_path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    trained = pretrain(configure(folder, tmp_path / "run"), CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not trained.network.training
    assert not any(parameter.requires_grad for parameter in trained.network.parameters())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.safetensors"]
    metrics = trained.metrics
    assert metrics["classes"] == ("dark", "light")
    assert metrics["images"] == 12
    assert [Path(each["file"]).name for each in metrics["skipped"]] == ["broken.jpg"]
    assert [epoch["size"] for epoch in metrics["epochs"]] == [32] * 3


def test_the_same_configuration_ends_in_the_same_bits_another_seed_in_others(folder, tmp_path):
    one, two, other = (
        pretrain(configure(folder, tmp_path / name, seed=seed), CPU).network
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    assert same(one, two)
    assert not same(one, other)


def test_it_goes_on_from_its_checkpoint(folder, tmp_path, monkeypatch, caplog):
    whole = pretrain(configure(folder, tmp_path / "whole"), CPU)
    save = module.save_checkpoint

    def killed(*arguments: Any) -> None:
        save(*arguments)
        if len(arguments[2].epochs) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(configure(folder, tmp_path / "run"), CPU)
    with caplog.at_level("INFO"):
        again = pretrain(configure(folder, tmp_path / "run"), CPU)
    assert "going on after 2 of 3 epochs" in caplog.text
    assert same(again.network, whole.network)
    assert again.metrics == whole.metrics


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"seed": 5}, "seed: 0 -> 5"),
        ({"pyramid": {"levels": (1,)}}, r"pyramid\.levels: "),
        ({"backbone": {"name": "zf5"}}, r"backbone\.name: "),
    ],
    ids=["seed", "pyramid", "backbone"],
)
def test_a_checkpoint_of_other_settings_is_refused(folder, tmp_path, section, said):
    short = {"train": {"sizes": (32,), "epochs": 1, "batch": 4}}
    pretrain(configure(folder, tmp_path, **short), CPU)
    with pytest.raises(UserError, match=rf"checkpoint\.safetensors .*{said}"):
        pretrain(configure(folder, tmp_path, **short, **section), CPU)


def test_it_begins_with_the_weights_it_is_told(folder, tmp_path):
    """With a rate so small that they hardly move."""
    weights = str(tmp_path / "weights.safetensors")
    start = Backbone("zf5_small").load_weights("random", seed=9)
    save_backbone(start, Path(weights))
    config = configure(
        folder,
        tmp_path / "run",
        backbone={"name": "zf5_small", "weights": weights},
        train={"sizes": (32,), "epochs": 1, "batch": 12, "learning_rate": 1e-9},
    )
    found = pretrain(config, CPU).network.backbone
    for name, tensor in start.layers.named_parameters():
        torch.testing.assert_close(found.layers.get_parameter(name), tensor, atol=1e-6, rtol=1e-4)


def test_a_batch_that_processes_cannot_share_evenly_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"train\.batch = 4: must be a multiple of 3 processes"):
        pretrain(configure(folder, tmp_path), CPU)


def test_strict_makes_a_file_that_is_no_image_an_error(folder, tmp_path):
    with pytest.raises(UserError, match=r"broken\.jpg: not an image"):
        pretrain(configure(folder, tmp_path, strict=True), CPU)


def test_what_is_saved_has_the_names_that_are_loaded(folder, tmp_path):
    network = pretrain(configure(folder, tmp_path / "run"), CPU).network
    save_backbone(network.backbone, tmp_path / "a.safetensors")
    save_network(network, tmp_path / "b.safetensors")  # zf5_small's fc layers have no names
    assert load_file(tmp_path / "a.safetensors").keys() == load_file(tmp_path / "b.safetensors").keys()
    for name in ("a", "b"):
        loaded = Backbone("zf5_small").load_weights(str(tmp_path / f"{name}.safetensors"))
        assert same(loaded.layers, network.backbone.layers)


@pytest.mark.parametrize("name", ["alexnet", "zf5"])
def test_fc_layers_go_with_a_backbone_that_has_names_for_them(folder, tmp_path, name):
    """Each level of the pyramid to its own, in whatever order the detector has them."""
    config = configure(
        folder,
        tmp_path,
        backbone={"name": name},
        pyramid={"levels": (2, 3, 1)},
        fc={"layers": 2, "width": 8},
        train={"sizes": (64,), "epochs": 1, "batch": 8},
    )
    trained = pretrain(config, CPU).network
    save_network(trained, tmp_path / "backbone.safetensors")
    head = FCHead("fc7", 14 * 256, 8, seed=None)
    head.load_weights(str(tmp_path / "backbone.safetensors"), name, (3, 2, 1), 256)
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        conv_map = trained.backbone(pixels)
        levels = [torch.nn.functional.adaptive_max_pool2d(conv_map, n)[0].flatten(1).T for n in (3, 2, 1)]
        fc7 = head(torch.cat(levels).flatten()[None])
        expected = trained.fc[:-2](trained.pool(conv_map))  # up to fc7's ReLU
    torch.testing.assert_close(fc7, expected)
