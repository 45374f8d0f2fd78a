"""Compression of a fully connected layer by truncated SVD (Fast R-CNN section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from spp_det.runtime.threads import on_all_cores, on_one_core


@torch.no_grad()
def truncated(layer: nn.Linear, rank: int) -> Mapping[str, Tensor]:
    """The state dict of two linear layers, ``rank`` numbers between them, that come closest to a layer.

    It is the layer's own state dict where two layers would not save multiplications. The result has the same
    bits on any number of cores.
    """
    outputs, inputs = layer.weight.shape
    if rank * (inputs + outputs) >= inputs * outputs:
        state: dict[str, Tensor] = layer.state_dict()
        return state
    # The singular vectors of the shorter side are the eigenvectors of its Gram matrix, a much smaller problem
    # for 4096 x 12,800 weights. In float64, because squaring halves the number of exact digits.
    tall = outputs > inputs
    short = layer.weight.T if tall else layer.weight
    gram = torch.zeros((len(short), len(short)), dtype=torch.float64, device=short.device)
    for columns in short.split(4096, dim=1):  # the whole weight in float64 would take twice its memory
        double = columns.double()
        on_all_cores(partial(_add_product, gram, double), range(0, len(gram), _ROWS))
    # [short side, t], the strongest first
    basis = on_one_core(lambda: torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1))
    basis = basis.to(layer.weight.dtype)
    first, second = on_one_core(
        lambda: (basis.T, layer.weight @ basis) if tall else (basis.T @ layer.weight, basis)
    )
    return {"0.weight": first.contiguous(), "1.weight": second.contiguous(), "1.bias": layer.bias.detach()}


_ROWS = 512  # of the Gram matrix, a core's share


def _add_product(gram: Tensor, double: Tensor, start: int) -> None:
    """Add a block of rows of ``double @ double.T`` to the Gram matrix."""
    rows = slice(start, start + _ROWS)
    gram[rows].addmm_(double[rows], double.T)
