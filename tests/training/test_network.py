"""The network of a training: processes on unlike machines agree on its precision."""

from __future__ import annotations

import pytest
import torch

from spp_det.config.settings import SVM, Config
from spp_det.model.backbone import Backbone
from spp_det.runtime import distributed
from spp_det.training.network import ready, settled

TREE = {"backbone": {"name": "zf5_small", "weights": "random"}, "runtime": {"device": "cpu"}}


def made(config: Config) -> Backbone:
    return ready(Backbone(config.backbone.name), config)


@pytest.mark.parametrize("first", [True, False])
def test_all_processes_compute_at_the_precision_that_the_first_one_chooses(in_ranks, monkeypatch, first):
    def pays(_device: torch.device) -> tuple[bool, str]:
        return (distributed.rank() == 0) is first, "this is that machine"

    # The choice is made on a thread of its own, which has no rank.
    monkeypatch.setattr("spp_det.model.backbone.on_one_core", lambda function: function())
    monkeypatch.setattr("spp_det.model.backbone.bfloat16_pays", pays)
    networks = in_ranks(3, lambda _: made(Config.model_validate(TREE)))
    assert {network.precision for network in networks} == {torch.bfloat16 if first else torch.float32}
    assert len({network.digest() for network in networks}) == 1


def test_a_settled_configuration_names_precision_and_memory_and_changes_nothing_else():
    config = Config.model_validate(TREE)
    network, svm = made(config).at("bfloat16"), SVM(memory_mb=1234)
    runtime = config.runtime.model_copy(update={"precision": "bfloat16"})
    assert settled(config, network, svm) == config.model_copy(update={"runtime": runtime, "svm": svm})
