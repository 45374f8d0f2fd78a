"""The device to compute on, what it can do, and the memory of this process."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.errors import UserError


def choose_device(name: str) -> torch.device:
    """``auto`` is a GPU, or the CPU without one; ``cpu``, ``cuda`` and ``cuda:N`` are torch's own names.

    ``cuda`` without a number is the first GPU; of several processes (``torchrun``) each gets its own. Raises
    UserError for a device that is not there, and for any other kind of device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    say = "say auto, cpu, cuda or cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r}: {say}") from error
    if name == "cuda" and os.environ.get("WORLD_SIZE", "1") != "1":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda" and 0 < torch.cuda.device_count() <= (device.index or 0):
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; {say}")
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.device_count()):
        raise UserError(f"device {name!r}: this machine has none; {say}")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device) if device.index else nullcontext():
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(_processor() & {"amx_bf16", "avx512_bf16"})


def bfloat16_pays(device: torch.device) -> tuple[bool, str]:
    """Whether a network is faster in bfloat16 than in float32 on the device, and why.

    The answer rests on what the device is, not on a measurement: it is the same in every run. AVX-512 BF16
    made conv5 nearly twice as fast on AMD's processors, and 1.2 to 1.9 times slower on an Intel Xeon that had
    no AMX.
    """
    if not has_bfloat16(device):
        return False, f"the {_NAMES.get(device.type, device.type)} has no bfloat16 that we know of"
    if device.type == "cuda":
        return True, "the GPU has 16-bit floats in hardware"
    if "amx_bf16" in _processor():
        return True, "the processor has AMX"
    if "AuthenticAMD" in _processor():
        return True, "AMD's AVX-512 BF16 is faster than float32"
    return False, "AVX-512 BF16 without AMX is slower than float32"


def fast_floats(device: torch.device) -> Literal["float16", "bfloat16"]:
    """The floats that a frozen network is to compute with where `bfloat16_pays`.

    A GPU multiplies both kinds at one speed. float16 has 11 bits for the digits of a number where bfloat16
    has 8: in it no figure of zoo6 moved, while bfloat16 moves AP75 by half a point and more
    (docs/figures.md). Few processors are fast in float16.
    """
    return "float16" if device.type == "cuda" else "bfloat16"


def uploaded(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device. A GPU's copy is queued behind its other work, and the caller goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


_NAMES = {"cpu": "processor", "cuda": "GPU"}


@cache
def _processor() -> frozenset[str]:
    """The maker and the features of the processor, in Linux's names; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return frozenset()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    told = {name.strip(): value.split() for name, value in fields.items()}
    return frozenset(told.get("vendor_id", []) + told.get("flags", []))


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes are free on the device; of a CPU it is taken for granted."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)  # torch's own cache, which could be emptied, does not count
    return size < free


def give_back_memory() -> None:
    """Return freed memory to the operating system. glibc keeps what each thread has freed: after selective
    search on two cores half a gigabyte, which no other thread or process could use."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def peak_memory() -> int | None:
    """The largest resident size of this process so far in MiB; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")  # rusage's also counts the parent's
        return int(status.split("VmHWM:")[1].split()[0]) // 1024
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20
