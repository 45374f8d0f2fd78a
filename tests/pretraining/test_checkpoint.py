"""Checkpoints of a pre-training: what is written is read, and anything else is refused in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spp_det.errors import UserError
from spp_det.pretraining.checkpoint import load_checkpoint, save_checkpoint
from spp_det.pretraining.learning import Epoch, Progress

SETTINGS = {"train.epochs": 4, "train.sizes": (32, 48), "classes": ["a", "b"]}


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimiser = torch.optim.AdamW(network.parameters(), 0.1)
    network(torch.rand(2, 3, 5, 5)).sum().backward()
    optimiser.step()
    return network, optimiser


@pytest.fixture
def saved(tmp_path):
    network, optimiser = trained()
    path = tmp_path / "folder" / "checkpoint.safetensors"
    save_checkpoint(path, network, Progress([Epoch(32, 1.5, 0.25)], optimiser.state_dict()), SETTINGS)
    return path, network, optimiser


def test_what_is_written_is_read(saved):
    path, network, optimiser = saved
    other, second = trained()
    progress = load_checkpoint(path, other, dict(SETTINGS))
    assert progress.epochs == [Epoch(32, 1.5, 0.25)]
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in network.state_dict().items())
    second.load_state_dict(progress.optimizer)
    before, after = optimiser.state_dict(), second.state_dict()
    assert [*before["state"]] == [*after["state"]]
    for index, values in before["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in values.items())
    groups = (before["param_groups"][0], after["param_groups"][0])
    assert groups[0]["lr"] == groups[1]["lr"]
    assert list(groups[0]["betas"]) == list(groups[1]["betas"])


def test_no_file_is_the_beginning(tmp_path):
    assert load_checkpoint(tmp_path / "none", nn.Linear(1, 1), SETTINGS) == Progress([])


def test_other_settings_are_refused_with_every_difference(saved):
    path, network, _ = saved
    now = {"train.epochs": 6, "train.sizes": (32, 48), "classes": ["a", "c"], "seed": 1}
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, network, now)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for part in ("train.epochs: 4 -> 6", "classes: ['a', 'b'] -> ['a', 'c']", "seed: None -> 1"):
        assert part in message
    assert "train.sizes" not in message


@pytest.mark.parametrize("damage", ["half", "flipped", "text", "empty", "pickled"])
def test_a_damaged_file_is_the_beginning_and_is_named(saved, damage, caplog):
    path, network, _ = saved
    data = path.read_bytes()
    if damage == "pickled":
        torch.save(network.state_dict(), path)
    else:
        flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        broken = {"half": data[: len(data) // 2], "flipped": flipped, "text": b"hello there", "empty": b""}
        path.write_bytes(broken[damage])
    begun_anew(path, network, caplog)


def test_a_file_that_does_not_fit_together_leaves_the_network_as_it_was(saved, caplog):
    """Half of it may have been filled in when that is noticed."""
    path, network, _ = saved
    save_checkpoint(path, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)), Progress([], EMPTY), SETTINGS)
    begun_anew(path, network, caplog)


EMPTY = {"state": {}, "param_groups": []}


def test_an_error_of_the_device_is_not_taken_for_damage(saved, caplog, monkeypatch):
    path, network, _ = saved

    def fail(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(network, "load_state_dict", fail)
    with pytest.raises(RuntimeError, match="device-side"):
        load_checkpoint(path, network, SETTINGS)
    assert not caplog.messages


def begun_anew(path, network: nn.Module, caplog) -> None:
    before = {name: t.clone() for name, t in network.state_dict().items()}
    assert load_checkpoint(path, network, SETTINGS) == Progress([])
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "beginning anew" in record.getMessage()


def test_a_file_that_may_not_be_read_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint.safetensors").mkdir()
    with pytest.raises((OSError, UserError), match=r"checkpoint\.safetensors"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", nn.Linear(1, 1), SETTINGS)
