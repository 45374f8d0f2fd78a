"""Small fc layers."""

from __future__ import annotations

import torch
from torch import Tensor

from spp_det.model.head import FCHead
from spp_det.model.pyramid import num_bins

CHANNELS, WIDTH = 4, 10


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_head(levels: tuple[int, ...] = (6, 3, 2, 1), width: int = WIDTH, layer: str = "fc7") -> FCHead:
    return FCHead(layer, num_bins(levels) * CHANNELS, width)  # type: ignore[arg-type]
