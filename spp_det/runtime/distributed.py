"""Several processes that share one work, as ``torchrun`` starts them; one process alone exchanges nothing.

``torchrun`` tells each process its number by RANK, WORLD_SIZE and LOCAL_RANK. Processes send each other
tensors and arrays alone: no object that would have to be unpickled. `runtime.sharing` shares work out.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from spp_det.errors import OthersLostError, UserError
from spp_det.runtime.threads import cores

Arrays = Mapping[str, npt.NDArray[Any]]

# The others notice at once when a process ends. PATIENCE is for a machine that vanishes: it must exceed the
# longest time that one process works while another waits for it.
PATIENCE = timedelta(minutes=30)
MEETING = timedelta(minutes=2)  # within which torchrun must have started all processes
PART = 2**28  # bytes that are sent at a time
_met = Event()  # whether this process has ever been one of a group


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the first process, which alone writes files and prints messages."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes for the time of the block: gloo sends tensors on the CPU, NCCL tensors on GPUs.

    Raises UserError where the processes do not meet, OthersLostError when another one ends before its time.
    """
    if world_size() == 1:
        yield
        return
    torch.set_num_threads(cores())  # torchrun sets 1, however many cores there are
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's own buffers lie on the current device
    _meet("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise OthersLostError(
                f"process {rank()} of {world_size()}: another one has ended or is out of reach"
            ) from error
        raise
    # Not after an error: it would wait for tensors that the others never send, and the process ends anyway.
    dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Connect to the other processes, which must start within `MEETING`; from then on `PATIENCE` holds."""
    try:
        store, number, count = next(rendezvous("env://", timeout=MEETING))
        store.set(f"spp_det here {number}", "")
        store.wait([f"spp_det here {i}" for i in range(count)], MEETING)
        store.set_timeout(PATIENCE)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
        _met.set()
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"process {rank()} of {world_size()} does not find the others ({reason}): torchrun starts them "
            "all, and says to each where they meet"
        ) from error


def leave(code: int | str | None) -> NoReturn:
    """End this process with an exit code, also where another process of its group is lost.

    Gloo's threads then still wait for the lost process, and would abort this one if Python ended it as usual;
    now and then they do so although none is lost.
    """
    if _met.is_set():
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
    """The sum of a tensor over all processes, in every process; in one process the tensor itself."""
    if world_size() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def from_first(arrays: Arrays | None) -> dict[str, npt.NDArray[Any]] | None:
    """The first process's argument, in every process; the arguments of the others are ignored.

    The arrays may fill a good part of the memory: they are sent without a copy.
    """
    if world_size() == 1:
        return None if arrays is None else dict(arrays)
    return _sent(arrays, 0)


def exchange(items: Sequence[Arrays]) -> list[Sequence[Arrays]]:
    """The items of all processes, in every process: a list for each, in order. An item is named arrays."""
    if world_size() == 1:
        return [items]
    flat = {f"{i} {name}": array for i, item in enumerate(items) for name, array in item.items()}
    every: list[Sequence[Arrays]] = []
    for source in range(world_size()):
        found: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for key, array in (_sent(flat, source) or {}).items():
            number, name = key.split(" ", 1)
            found.setdefault(number, {})[name] = array
        every.append(list(found.values()))
    return every


def _sent(arrays: Arrays | None, source: int) -> dict[str, npt.NDArray[Any]] | None:
    """The argument of the process ``source``, in every process."""
    whole = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    forms = [(name, array.dtype.str, array.shape) for name, array in whole.items()]
    head = torch.tensor(list(json.dumps(None if arrays is None else forms).encode()), dtype=torch.uint8)
    size = torch.tensor([len(head)])
    dist.broadcast(size, src=source)
    head = head if rank() == source else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(head, src=source)
    told = json.loads(head.numpy().tobytes())
    if told is None:
        return None
    found = {}
    for name, dtype, shape in told:
        found[name] = whole[name] if rank() == source else np.empty(shape, dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
            data = torch.from_numpy(found[name].reshape(-1).view(np.uint8))
        for part in data.split(PART) if len(data) else ():
            dist.broadcast(part, src=source)
    return found


def share_buffers(network: nn.Module) -> None:
    """Give all processes the buffers of the first: the running means of batch norm differ between them."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def parallel(network: nn.Module) -> nn.Module:
    """The network, its gradients averaged over all processes; it begins with the first process's weights."""
    if world_size() == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
