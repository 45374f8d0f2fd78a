"""Several processes that train one network, as ``torchrun`` starts them; in one process all of it is a no-op.

``torchrun`` tells each process who it is by RANK, WORLD_SIZE and LOCAL_RANK. Nothing here passes objects
from one process to another but tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


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
    """Join the processes for the time of the block: gloo for tensors on the CPU, NCCL for those on GPUs."""
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's own buffers lie on the current one
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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
