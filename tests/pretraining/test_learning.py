"""The loop: it goes on from where it was, bit for bit, and its rates depend on the step alone."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from spp_det.config.pretrain import Training
from spp_det.errors import UserError
from spp_det.pretraining import learning
from spp_det.pretraining.learning import Progress, learn

STEPS = 3


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
        made(torch.zeros(1, 3, 4, 4))  # only now has the lazy layer weights
        return made


class Seen:
    """Batches of noise, the brighter half labelled 1, and the rates that the optimiser was at."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, epoch: int, size: int):
        self.sizes.append((epoch, size))
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(STEPS):
            images = torch.rand(6, 3, 4, 4, generator=generator)
            images[:3] += 1
            yield images, torch.tensor([1, 1, 1, 0, 0, 0])


def plan(**changes) -> Training:
    modern = {"optimizer": "adamw", "schedule": "one_cycle", "drops": ()}
    return Training(**{"sizes": (16, 17, 18), "epochs": 4, "learning_rate": 0.02, **modern, **changes})


def test_the_log_says_how_many_steps_a_second_there_were(caplog, monkeypatch):
    monkeypatch.setattr(learning.time, "perf_counter", iter(range(0, 100, 2)).__next__)
    with caplog.at_level(logging.INFO):
        learn(network(), Seen(), STEPS, plan(epochs=2))
    told = [message for message in caplog.messages if "steps/s" in message]
    assert [message.rpartition(", ")[2] for message in told] == ["1.5 steps/s"] * 2


SETTINGS = [
    {"optimizer": optimizer, "schedule": schedule, "drops": (1, 3)}
    for optimizer in ("sgd", "adamw")
    for schedule in ("steps", "one_cycle")
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_interrupted_training_ends_in_the_same_bits(settings):
    kept: list[tuple[Progress, dict]] = []

    def keep(one: nn.Module):
        return lambda progress: kept.append(copy.deepcopy((progress, one.state_dict())))

    whole = network()
    epochs = learn(whole, Seen(), STEPS, plan(**settings), after_epoch=keep(whole))
    assert epochs[-1].accuracy > epochs[0].accuracy or epochs[-1].loss < epochs[0].loss
    for progress, state in kept:
        rest, seen = network(), Seen()
        rest.load_state_dict(state)
        done = len(progress.epochs)
        assert learn(rest, seen, STEPS, plan(**settings), progress) == epochs
        assert [epoch for epoch, _ in seen.sizes] == list(range(done, 4))
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


def test_sizes_take_turns():
    seen = Seen()
    epochs = learn(network(), seen, STEPS, plan())
    assert seen.sizes == [(0, 16), (1, 17), (2, 18), (3, 16)]
    assert [epoch.size for epoch in epochs] == [16, 17, 18, 16]


def test_steps_divide_the_rate_by_ten_from_their_epochs_on():
    rates = []

    def note(progress: Progress) -> None:
        rates.append(progress.optimizer["param_groups"][0]["lr"])

    learn(network(), Seen(), STEPS, plan(schedule="steps", drops=(1, 3)), after_epoch=note)
    assert rates == pytest.approx([0.002, 0.002, 0.0002, 0.0002])  # of the step that comes next


def test_a_loss_that_is_no_number_names_the_rate():
    with pytest.raises(UserError, match=r"train\.learning_rate = 1e\+30"):
        learn(network(), Seen(), STEPS, plan(optimizer="sgd", learning_rate=1e30, schedule="steps"))
