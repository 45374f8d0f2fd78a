"""Several processes that do one work, as ``torchrun`` starts them; in one process all of it is a no-op.

``torchrun`` tells each process who it is by RANK, WORLD_SIZE and LOCAL_RANK. Nothing passes from one
process to another but tensors and arrays: no object that would have to be unpickled.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from spp_det.errors import OthersLostError, UserError
from spp_det.runtime.threads import cores

Arrays = Mapping[str, npt.NDArray[Any]]

# The end of a process is noticed at once. This is for a machine that vanishes, and must be more than the
# processes' shares of work ever differ by.
PATIENCE = timedelta(minutes=30)
MEETING = timedelta(minutes=2)  # for all to have started, which torchrun sees to
# Of each process's results so many are exchanged at a time: few for the memory, many to even out their work.
BLOCK = 16
PART = 2**28  # bytes that are sent at a time


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process where ``cuda`` alone was asked for; any other device as it is."""
    if device == torch.device("cuda") and world_size() > 1:  # without a number
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes for the time of the block: gloo for tensors on the CPU, NCCL for those on GPUs.

    Raises UserError where they do not meet, and OthersLostError when one of them ends before its time.
    """
    if world_size() == 1:
        yield
        return
    torch.set_num_threads(cores())  # torchrun says 1, however many there are
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's own buffers lie on the current one
    _meet("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise OthersLostError(
                f"process {rank()} of {world_size()}: another one has ended or is out of reach"
            ) from error
        raise
    # After an error this would wait for what the others never send; the process is about to end anyway.
    dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Join the others, who are to be there within `MEETING`; they may then keep each other waiting."""
    try:
        store, number, count = next(rendezvous("env://", timeout=MEETING))
        store.set(f"spp_det here {number}", "")
        store.wait([f"spp_det here {i}" for i in range(count)], MEETING)
        store.set_timeout(PATIENCE)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"process {rank()} of {world_size()} does not find the others ({reason}): torchrun starts them "
            "all, and says to each where they meet"
        ) from error


def leave(code: int | str | None) -> NoReturn:
    """End this process with an exit code, also where a group that it has joined is broken.

    Gloo's threads then still wait for the lost one, and would abort a process that unwinds.
    """
    if dist.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        total(torch.zeros(1))  # dist.barrier() would have to guess a device


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in each of them; in one process the tensor itself."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def from_first(arrays: Arrays | None) -> dict[str, npt.NDArray[Any]] | None:
    """The first process's named arrays, or its None, in each of them; what the others give is not looked at.

    They may be a good part of the memory: they are sent as they lie there.
    """
    if world_size() == 1:
        return None if arrays is None else dict(arrays)
    whole = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    forms = [(name, array.dtype.str, array.shape) for name, array in whole.items()]
    head = torch.tensor(list(json.dumps(None if arrays is None else forms).encode()), dtype=torch.uint8)
    size = torch.tensor([len(head)])
    dist.broadcast(size, src=0)
    head = head if is_first() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(head, src=0)
    told = json.loads(head.numpy().tobytes())
    if told is None:
        return None
    found = {}
    for name, dtype, shape in told:
        found[name] = whole[name] if is_first() else np.empty(shape, dtype)
        data = torch.from_numpy(found[name].reshape(-1).view(np.uint8))
        for part in data.split(PART) if len(data) else ():
            dist.broadcast(part, src=0)
    return found


def exchange(items: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """The items of every process, by rank, in each of them. An item is one named array or more."""
    if world_size() == 1:
        return [items]
    flat = {
        f"{i} {name}": np.asarray(a, order="C") for i, item in enumerate(items) for name, a in item.items()
    }
    mine = torch.frombuffer(bytearray(save(flat)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)]))
    every: list[Sequence[Arrays]] = []
    for source, size in enumerate(sizes):
        sent = mine if source == rank() else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(sent, src=source)
        every.append(items if source == rank() else _items(load(sent.numpy().tobytes())))
    return every


def _items(flat: Arrays) -> list[Arrays]:
    found: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for key, array in flat.items():
        number, name = key.split(" ", 1)
        found.setdefault(int(number), {})[name] = array
    return [found[number] for number in sorted(found)]


def in_order(mine: Iterable[Arrays], owners: Iterable[int]) -> Iterator[Arrays]:
    """What all processes find, one item after another, in each of them; in one process ``mine`` itself.

    Args:
        mine: what this process finds, in the order of those of ``owners`` that are its rank.
        owners: the rank of the process that finds each item; the same everywhere. One process needs none.
    """
    if world_size() == 1:
        yield from mine
        return
    own, every = iter(mine), iter(owners)
    while block := list(islice(every, BLOCK * world_size())):
        found = [iter(items) for items in exchange(list(islice(own, block.count(rank()))))]
        for owner in block:
            yield next(found[owner])


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's buffers: the running means of batch norm differ after a step."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def parallel(network: nn.Module) -> nn.Module:
    """The network, its gradients averaged over all processes; weights begin as the first process's."""
    if world_size() == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
