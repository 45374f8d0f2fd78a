"""Bounding-box regression: from a pool5 vector to a better box (P section 4.1; R-CNN appendix C)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, decode_deltas


@dataclass(frozen=True, eq=False)
class BoxRegressor:
    """One linear map a class from a vector to ``(dx/w, dy/h, log dw, log dh)``.

    Attributes:
        weight: float32 ``[K, D, 4]``.
        bias: float32 ``[K, 4]``. A class without examples has zeros: its boxes stay.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor, labels: Ints, boxes: Boxes) -> Boxes:
        """Refine ``[N, 4]`` boxes of classes ``[N]`` with their vectors ``[N, D]``."""
        deltas = np.zeros((len(boxes), 4), np.float32)
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            rows = vectors[torch.from_numpy(mine).to(vectors.device)]
            deltas[mine] = torch.addmm(self.bias[label], rows, self.weight[label]).cpu().numpy()
        return decode_deltas(boxes, deltas)

    def to(self, device: torch.device) -> BoxRegressor:
        """The same regressor on another device."""
        return BoxRegressor(self.weight.to(device), self.bias.to(device))


def fit_ridge(
    vectors: Tensor, targets: Floats, ridge: float, vector_of: Ints | None = None
) -> tuple[Tensor, Tensor]:
    """Ridge regression of whitened, centred targets: ``[m, D], [n, 4] -> weight [D, 4], bias [4]``.

    Minimises ``sum |T (y - mean(y)) - X w - b|^2 + ridge |w|^2`` with T the whitening of the targets (so
    that one ``ridge`` suits all four) and an unpenalised b, and undoes T in the result.

    Example i has the vector ``vector_of[i]`` (None: its own). Examples of one vector differ by a
    constant from a single one with their mean target and their number as its weight, so the problem
    has m rows however large n is. There are mostly fewer of them than dimensions, so the m x m dual is
    solved: ``w = X' (X X' + ridge I)^-1 T y``.
    """
    vector_of = np.arange(len(vectors)) if vector_of is None else vector_of
    row_of = torch.from_numpy(vector_of).to(vectors.device)
    y = torch.from_numpy(targets).to(vectors.device, torch.float64)
    target_mean = y.mean(0)
    whiten, unwhiten = _whitening(y - target_mean)
    number = torch.bincount(row_of, minlength=len(vectors)).double()  # examples of each vector
    root = number.sqrt()[:, None]
    vector_mean = (number.to(vectors.dtype) / len(y)) @ vectors
    centred = (vectors - vector_mean).mul_(root.to(vectors.dtype))
    sums = torch.zeros(len(vectors), 4, dtype=torch.float64, device=vectors.device)
    sums.index_add_(0, row_of, (y - target_mean) @ whiten)
    gram = (centred @ centred.T).double()  # [m, m]
    gram.diagonal().add_(ridge)
    dual = torch.linalg.solve(gram, sums / root.clamp(min=1))  # [m, 4]
    weight = centred.T @ (dual @ unwhiten).to(vectors.dtype)  # [D, 4]
    return weight, target_mean.to(vectors.dtype) - vector_mean @ weight


def _whitening(centred: Tensor) -> tuple[Tensor, Tensor]:
    """``T`` with unit covariance of ``centred @ T``, and its inverse; directions without spread stay."""
    covariance = centred.T @ centred / max(1, len(centred))
    values, vectors = torch.linalg.eigh(covariance)
    spread = (values + 1e-3).sqrt()  # as R: keeps a constant target from being blown up
    return (vectors / spread) @ vectors.T, (vectors * spread) @ vectors.T
