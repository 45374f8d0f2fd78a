"""Which device to compute on."""

from __future__ import annotations

import torch

from spp_det.errors import UserError


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU without one; anything else is torch's own name.

    Raises UserError for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r}: say auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device
