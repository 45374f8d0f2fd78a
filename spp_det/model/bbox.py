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


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        weight: float32 ``[4, D]``.
        bias: float32 ``[4]``.
        left_out: float32 ``[n, 4]``, each example as other groups alone predict it; None without groups.
    """

    weight: Tensor
    bias: Tensor
    left_out: Floats | None


def fit_ridge(
    vectors: Tensor,
    targets: Floats,
    ridge: float,
    vector_of: Ints | None = None,
    group_of: Ints | None = None,
) -> Ridge:
    """Ridge regression of whitened, centred targets: ``[m, D], [n, 4] -> weight [4, D], bias [4]``.

    Minimises ``sum |T (y - mean(y)) - X w - b|^2 + ridge |w|^2`` with T the whitening of the targets (so
    that one ``ridge`` suits all four) and an unpenalised b, and undoes T in the result.

    Example i has the vector ``vector_of[i]`` (None: its own). Examples of one vector differ by a
    constant from a single one with their mean target and their number as its weight, so the problem
    has m rows however large n is. There are mostly fewer of them than dimensions, so the m x m dual is
    solved: ``w = X' (X X' + ridge I)^-1 T y``. The vectors may be in half precision; a block of them at a
    time is then made float32.

    With the group of each vector, ``group_of [m]``, every example is also predicted by a regression that
    never saw its group. That costs one inverse for all groups: where ``A = (X X' + ridge I)^-1`` and
    ``a = A T y``, leaving out the rows g leaves them residuals of ``A_gg^-1 a_g``. Means and whitening remain
    those of all examples.
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
    sums /= root.clamp(min=1)
    left_out = None
    # Not Cholesky: in float32 products a small ridge may leave the matrix not quite positive definite.
    if group_of is None:
        dual = torch.linalg.solve(gram, sums)  # [m, 4]
    else:
        inverse = torch.linalg.inv(gram)
        dual = inverse @ sums
        fitted = (sums - _left_out_residuals(inverse, dual, group_of)) / root.clamp(min=1)
        left_out = ((fitted @ unwhiten)[row_of] + target_mean).float().cpu().numpy()
    dual = dual @ unwhiten
    weight = torch.stack([dual[rows].float().T @ centred(rows) for rows in blocks]).sum(0)  # [4, D]
    return Ridge(weight, target_mean.float() - weight @ vector_mean, left_out)


_BLOCK = 512  # rows


def _left_out_residuals(inverse: Tensor, dual: Tensor, group_of: Ints) -> Tensor:
    """``[m, m], [m, 4] -> [m, 4]``: what each row is off by where its group is not among the examples."""
    residuals = torch.empty_like(dual)
    for group in np.unique(group_of):
        rows = torch.from_numpy(np.flatnonzero(group_of == group)).to(dual.device)
        residuals[rows] = torch.linalg.solve(inverse[rows][:, rows], dual[rows])
    return residuals


def _whitening(centred: Tensor) -> tuple[Tensor, Tensor]:
    """``T`` with unit covariance of ``centred @ T``, and its inverse; directions without spread stay."""
    covariance = centred.T @ centred / max(1, len(centred))
    values, vectors = torch.linalg.eigh(covariance)
    spread = (values + 1e-3).sqrt()  # as R: keeps a constant target from being blown up
    return (vectors / spread) @ vectors.T, (vectors * spread) @ vectors.T
