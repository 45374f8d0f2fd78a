"""Bounding-box regression: from a pool5 vector to a better box (P section 4.1; R-CNN appendix C)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Boxes, Floats, Ints, decode_deltas


@dataclass(frozen=True, eq=False)
class BoxRegressor:
    """One linear map a class from a vector to ``(dx/w, dy/h, log dw, log dh)``.

    Attributes:
        weight: float32 ``[K, 4, D]``: like the SVMs', each row is read in order.
        bias: float32 ``[K, 4]``. A class without examples has zeros: its boxes stay.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor, labels: Ints, boxes: Boxes) -> Boxes:
        """Refine ``[N, 4]`` boxes of classes ``[N]`` with their vectors ``[N, D]``."""
        deltas = np.zeros((len(boxes), 4), np.float32)
        # Runs of one class: views, not copies, of vectors. No labels have no run.
        ends = np.flatnonzero(np.diff(labels, prepend=-1, append=-1))
        for start, stop in pairwise(ends):
            label = labels[start]
            moves = F.linear(vectors[start:stop], self.weight[label], self.bias[label])
            deltas[start:stop] = moves.cpu().numpy()
        return decode_deltas(boxes, deltas)

    def to(self, device: torch.device) -> BoxRegressor:
        """The same regressor on another device."""
        return BoxRegressor(self.weight.to(device), self.bias.to(device))


def fit_ridge(
    vectors: Tensor, targets: Floats, ridge: float, vector_of: Ints | None = None
) -> tuple[Tensor, Tensor]:
    """Ridge regression of whitened, centred targets: ``[m, D], [n, 4] -> weight [4, D], bias [4]``.

    Minimises ``sum |T (y - mean(y)) - X w - b|^2 + ridge |w|^2`` with T the whitening of the targets (so
    that one ``ridge`` suits all four) and an unpenalised b, and undoes T in the result.

    Example i has the vector ``vector_of[i]`` (None: its own). Examples of one vector differ by a
    constant from a single one with their mean target and their number as its weight, so the problem
    has m rows however large n is. There are mostly fewer of them than dimensions, so the m x m dual is
    solved: ``w = X' (X X' + ridge I)^-1 T y``. The vectors may be in half precision; a block of them at a
    time is then made float32.
    """
    vector_of = np.arange(len(vectors)) if vector_of is None else vector_of
    row_of = torch.from_numpy(vector_of).to(vectors.device)
    y = torch.from_numpy(targets).to(vectors.device, torch.float64)
    target_mean = y.mean(0)
    whiten, unwhiten = _whitening(y - target_mean)
    number = torch.bincount(row_of, minlength=len(vectors)).double()  # examples of each vector
    root = number.sqrt()[:, None]
    share = (number / len(y)).float()
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(vectors), _BLOCK)]
    vector_mean = torch.stack([share[rows] @ vectors[rows].float() for rows in blocks]).sum(0)

    def centred(rows: slice) -> Tensor:
        return (vectors[rows].float() - vector_mean).mul_(root[rows])  # [block, D]

    gram = torch.empty(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for index, rows in enumerate(blocks):
        left = centred(rows)
        for columns in blocks[: index + 1]:  # the rest is symmetric
            product = left @ (left if columns == rows else centred(columns)).T
            gram[rows, columns], gram[columns, rows] = product, product.T
    gram.diagonal().add_(ridge)
    sums = torch.zeros(len(vectors), 4, dtype=torch.float64, device=vectors.device)
    sums.index_add_(0, row_of, (y - target_mean) @ whiten)
    # Not Cholesky: in float32 products a small ridge may leave the matrix not quite positive definite.
    dual = torch.linalg.solve(gram, sums / root.clamp(min=1)) @ unwhiten  # [m, 4]
    weight = torch.stack([dual[rows].float().T @ centred(rows) for rows in blocks]).sum(0)  # [4, D]
    return weight, target_mean.float() - weight @ vector_mean


_BLOCK = 512  # rows


def _whitening(centred: Tensor) -> tuple[Tensor, Tensor]:
    """``T`` with unit covariance of ``centred @ T``, and its inverse; directions without spread stay."""
    covariance = centred.T @ centred / max(1, len(centred))
    values, vectors = torch.linalg.eigh(covariance)
    spread = (values + 1e-3).sqrt()  # as R: keeps a constant target from being blown up
    return (vectors / spread) @ vectors.T, (vectors * spread) @ vectors.T
