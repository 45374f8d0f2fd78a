"""Several processes: in one all of it is a no-op. Two are started by tests/test_pretraining.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spp_det import distributed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_the_first_of_one():
    assert (distributed.rank(), distributed.world_size(), distributed.is_first()) == (0, 1, True)


def test_in_one_process_nothing_happens():
    network, numbers = nn.BatchNorm1d(2), torch.arange(3)
    with distributed.process_group(CPU):
        assert not torch.distributed.is_initialized()
        distributed.barrier()
        distributed.share_buffers(network)
        assert distributed.total(numbers) is numbers
        assert distributed.parallel(network) is network


def test_torchrun_says_who_one_is_and_which_gpu_is_ones_own(monkeypatch):
    cuda = torch.device("cuda")
    assert distributed.own_device(cuda) == cuda
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert (distributed.rank(), distributed.world_size(), distributed.is_first()) == (5, 8, False)
    assert distributed.own_device(cuda) == torch.device("cuda:1")
    assert distributed.own_device(torch.device("cuda:3")) == torch.device("cuda:3")
    assert distributed.own_device(CPU) == CPU
