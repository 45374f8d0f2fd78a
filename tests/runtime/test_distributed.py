"""Several processes: in one all of it is a no-op, two exchange arrays and end together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spp_det
from spp_det.runtime import distributed

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

    items = [{"a": np.arange(3)}]
    assert distributed.exchange(items)[0] is items
    assert distributed.from_first(items[0]) == items[0]
    assert distributed.from_first(None) is None


TWO = """
import sys
import numpy as np, torch
from spp_det.runtime import distributed
from spp_det.errors import UserError

item = {"half": np.ones((2, 3), np.float16)[:, ::2], "none": np.zeros((0, 4), np.float32)}
single = {"flag": np.array(True), "signs": np.array([[-1, 127]], np.int8)}
try:
    with distributed.process_group(torch.device("cpu")):
        rank = distributed.rank()
        first, second = distributed.exchange([item] * 11 if rank == 0 else [item | single])
        assert len(first) == 11 and len(second) == 1
        for found, sent in ((first[10], item), (second[0], item | single)):
            assert found.keys() == sent.keys()
            for name in sent:
                assert found[name].dtype == sent[name].dtype and np.array_equal(found[name], sent[name])
        assert distributed.exchange([]) == [[], []]
        distributed.PART = 5  # bytes at a time
        found = distributed.from_first((item | single) if rank == 0 else None)
        assert found.keys() == (item | single).keys()
        for name, sent in (item | single).items():
            assert found[name].dtype == sent.dtype and np.array_equal(found[name], sent)
        assert distributed.from_first({} if rank == 0 else item) == {}
        assert distributed.from_first(None if rank == 0 else item) is None
        assert distributed.total(torch.tensor([rank + 1])).item() == 3
        if rank == 1:
            raise UserError("only this one knows")
        distributed.barrier()
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    distributed.leave(1)
"""


def test_two_processes_exchange_arrays_and_one_s_failure_ends_the_other():
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(spp_det.__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO],
            env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], said
    assert "error: process 0 of 2: another one has ended or is out of reach" in said[0]
    assert "error: only this one knows" in said[1]
    assert "Traceback" not in said[0] + said[1]


def test_torchrun_says_who_one_is(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert (distributed.rank(), distributed.world_size(), distributed.is_first()) == (5, 8, False)


LATE = """
import os, signal, sys
from datetime import timedelta
from spp_det.runtime import distributed
from spp_det.commands import process

distributed.MEETING = timedelta(seconds=float(os.environ["MEETING"]))

def work(**_):
    with distributed.process_group(distributed.torch.device("cpu")):
        os.kill(os.getpid(), signal.SIGTERM)
        distributed.barrier()

process.run_app(work)
"""


def joining(**shared: str) -> subprocess.Popen[str]:
    path = str(Path(spp_det.__file__).parents[1])
    env = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "MEETING": "60", **shared}
    return subprocess.Popen([sys.executable, "-c", LATE], env=env, stderr=subprocess.PIPE, text=True)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("shared", [{}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "?"}])
def test_who_does_not_find_the_others_says_so_in_one_line(shared):
    """Nobody has said where, or nobody comes."""
    shared = {name: free_port() if value == "?" else value for name, value in shared.items()}
    process = joining(WORLD_SIZE="2", RANK="0", MEETING="1", **shared)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2, said
    last = said.splitlines()[-1]
    assert last.startswith("error: process 0 of 2 does not find the others (")
    assert "torchrun" in last
    assert "Traceback" not in said


def test_a_signalled_process_leaves_the_group_with_its_own_code():
    """Gloo's threads would abort one that unwinds."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [joining(RANK=str(rank), **where) for rank in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    assert "Traceback" not in said[0] + said[1]
