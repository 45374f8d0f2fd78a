"""Bounding-box regression: from a pool5 vector to a better box (P section 4.1; R-CNN appendix C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Floats, Ints, decode_deltas
from spp_det.model.own_class import of_classes
from spp_det.model.vectors import WindowVectors
from spp_det.runtime.threads import on_all_cores, on_one_core


@dataclass(frozen=True, eq=False)
class BoxRegressor:
    """One linear map a class from a vector to ``(dx/w, dy/h, log dw, log dh)``.

    Attributes:
        weight: float32 ``[K, 4, D]``.
        bias: float32 ``[K, 4]``. A class without examples has zeros: its boxes stay where they are.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor, labels: Ints, boxes: Boxes) -> Boxes:
        """Boxes ``[N, 4]`` of classes ``[N]``, moved by what their vectors ``[N, D]`` say: ``[N, 4]``."""
        return decode_deltas(boxes, of_classes(vectors, labels, self.weight, self.bias))

    def move(self, vectors: WindowVectors, windows: Ints, labels: Ints, boxes: Boxes) -> Boxes:
        """The same for boxes ``[n, 4]`` that are the windows ``[n]`` of the vectors."""
        parts = vectors.in_chunks(vectors.of[windows], lambda v, at: self(v, labels[at], boxes[at]))
        return np.concatenate(parts)

    def to(self, device: torch.device) -> BoxRegressor:
        """The same regressor on another device."""
        return BoxRegressor(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        weight: float32 ``[4, D]``.
        bias: float32 ``[4]``.
        left_out: float32 ``[n, 4]``, the predictions by regressions without the example's group; None where
            there were no groups.
        fold_weight, fold_bias: float32 ``[F, 4, D]`` and ``[F, 4]``, the regressions without each of F folds.
    """

    weight: Tensor
    bias: Tensor
    left_out: Floats | None
    fold_weight: Tensor
    fold_bias: Tensor


def fit_ridge(
    vectors: Tensor,
    targets: Floats,
    ridge: float,
    vector_of: Ints | None = None,
    group_of: Ints | None = None,
    fold_of: Ints | None = None,
    folds: int = 0,
    gram: Tensor | None = None,
) -> Ridge:
    """Ridge regression of whitened, centred targets: ``[m, D], [n, 4] -> weight [4, D], bias [4]``.

    Minimises ``sum |T (y - mean(y)) - X w - b|^2 + ridge |w|^2``, where T whitens the targets (so that one
    ``ridge`` suits all four) and b is not penalised; T is undone in the result.

    Example i has the vector ``vector_of[i]`` (None: vector i). Up to a constant, examples with one vector
    cost what a single example costs that has their mean target and their number as its weight. So the
    problem has m rows however large n is. As m is mostly less than D, the m x m dual is solved: ``w = X' (X
    X' + ridge I)^-1 T y``. Vectors in half precision become float32 a block at a time.

    The result has the same bits on any number of cores, which share out blocks of rows.

    With the group of each vector, ``group_of [m]``, every example is also predicted by a regression without
    its group. All groups need one factorisation: with ``A = (X X' + ridge I)^-1`` and ``a = A T y``, the
    residuals of the rows g are ``A_gg^-1 a_g`` where these rows are left out. Means and whitening remain
    those of all examples.

    With the fold of each vector, ``fold_of [m]`` below ``folds``, the regression without each fold is solved
    from the same products. ``gram``, which is left as it is: see `centred_products`; None makes it.
    """
    vector_of = np.arange(len(vectors)) if vector_of is None else vector_of
    row_of = torch.from_numpy(vector_of).to(vectors.device)
    y = torch.from_numpy(targets).to(vectors.device, torch.float64)
    rows = _CentredRows(vectors, row_of)
    gram = rows.products() if gram is None else gram.clone()
    duals, target_mean, left_out = solve_dual(gram, y, row_of, ridge, group_of, fold_of, folds)
    every = duals.transpose(0, 1).flatten(1)  # [m, 4 (1 + F)]
    weight = _total(on_all_cores(lambda block: every[block].float().T @ rows(block), rows.blocks))
    bias = target_mean.float().repeat(1 + folds) - on_one_core(lambda: weight @ rows.mean)
    weights, biases = weight.reshape(1 + folds, 4, -1), bias.reshape(1 + folds, 4)
    return Ridge(weights[0], biases[0], left_out, weights[1:], biases[1:])


def centred_products(vectors: Tensor, vector_of: Ints) -> Tensor:
    """The ``gram [m, m]`` of `fit_ridge` for ``vectors [m, D]``, which regressions of any ridge share.

    It has the products of the centred vectors, each times the root of the number of its examples.
    """
    return _CentredRows(vectors, torch.from_numpy(vector_of).to(vectors.device)).products()


class _CentredRows:
    """The vectors ``[m, D]`` of a regression, made float32 a block of rows at a time.

    Each is less the mean of all, times the root of the number of examples (by ``row_of [n]``) it stands for.

    Attributes:
        blocks: the rows that are made at a time.
        mean: float32 ``[D]``, of the vectors of all examples.
    """

    def __init__(self, vectors: Tensor, row_of: Tensor) -> None:
        number = torch.bincount(row_of, minlength=len(vectors)).double()  # examples of each vector
        share = (number / len(row_of)).float()
        self.blocks = [slice(start, start + _BLOCK) for start in range(0, len(vectors), _BLOCK)]
        self.mean = _total(on_all_cores(lambda rows: share[rows] @ vectors[rows].float(), self.blocks))
        self._vectors, self._root = vectors, number.sqrt()[:, None].float()

    def __call__(self, block: slice) -> Tensor:
        """``[block, D]``, made in place and in one dtype: else it takes longer than the products."""
        rows = self._vectors[block].to(torch.float32, copy=True)
        return rows.sub_(self.mean).mul_(self._root[block])

    def products(self) -> Tensor:
        """Of all pairs of rows: float64 ``[m, m]``."""
        size = len(self._vectors)
        gram = torch.empty(size, size, dtype=torch.float64, device=self._vectors.device)
        for index, rows in enumerate(self.blocks):
            left = self(rows)

            def fill(columns: slice, rows: slice = rows, left: Tensor = left) -> None:
                product = left @ (left if columns == rows else self(columns)).T
                gram[rows, columns], gram[columns, rows] = product, product.T

            on_all_cores(fill, self.blocks[: index + 1])  # the rest is symmetric
        return gram


def solve_dual(
    gram: Tensor,
    y: Tensor,
    row_of: Tensor,
    ridge: float,
    group_of: Ints | None = None,
    fold_of: Ints | None = None,
    folds: int = 0,
) -> tuple[Tensor, Tensor, Floats | None]:
    """The dual variables of `fit_ridge`, ``[1 + folds, m, 4]``: of all vectors, then without each fold; the
    mean target ``[4]``; and the predictions ``[n, 4]`` without each example's group.

    Args:
        gram: float64 ``[m, m]``, changed in place: products of the centred vectors, each vector times the
            root of the number of its examples.
        y: float64 ``[n, 4]``, the targets.
        row_of: int64 ``[n]``, the vector of each example.
        ridge, group_of, fold_of, folds: see `fit_ridge`.
    """
    target_mean = on_one_core(lambda: y.mean(0))
    centred_targets = y - target_mean
    whiten, unwhiten = on_one_core(partial(_whitening, centred_targets))
    whitened = on_one_core(lambda: centred_targets @ whiten)
    root = torch.bincount(row_of, minlength=len(gram)).double().sqrt()[:, None]
    gram.diagonal().add_(ridge)
    sums = torch.zeros(len(gram), 4, dtype=torch.float64, device=gram.device)
    sums.index_add_(0, row_of, whitened)
    sums /= root.clamp(min=1)

    def without(fold: int) -> Tensor:
        rows = torch.from_numpy(np.flatnonzero(fold_of != fold)).to(gram.device)
        part = torch.zeros_like(sums)
        part[rows] = torch.cholesky_solve(sums[rows], _cholesky(gram[rows[:, None], rows]))
        return part

    duals = on_all_cores(without, range(folds))
    factor = on_one_core(partial(_cholesky, gram))
    dual = on_one_core(lambda: torch.cholesky_solve(sums, factor))  # [m, 4]
    left_out = None
    if group_of is not None:
        fitted = (sums - _left_out_residuals(factor, dual, group_of)) / root.clamp(min=1)
        moves = on_one_core(lambda: fitted @ unwhiten)
        left_out = (moves[row_of] + target_mean).float().cpu().numpy()
    every = torch.stack([dual, *duals])  # [1 + F, m, 4]
    return on_one_core(lambda: every @ unwhiten), target_mean, left_out


_BLOCK = 512  # rows


def _total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape, always in the order given."""
    return sum(parts[1:], parts[0].clone())


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower factor of a symmetric matrix ``[m, m]``, which may be changed.

    Where a small ridge is lost among the rounding errors of float32 products, the matrix may be not quite
    positive definite. Its diagonal then grows by as little of these errors as makes it so. Raises ValueError
    where the diagonal is not finite, as of vectors that are not.
    """
    more = torch.finfo(torch.float32).eps * float(matrix.trace()) / max(1, len(matrix))  # it may be empty
    if not math.isfinite(more):
        raise ValueError("the products of the vectors are not finite")
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    while failed:
        matrix.diagonal().add_(more)
        more *= 2
        factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor


def _left_out_residuals(factor: Tensor, dual: Tensor, group_of: Ints) -> Tensor:
    """``[m, m], [m, 4] -> [m, 4]``: the residual of each row where its group is left out.

    A group's block of the inverse is ``H' H``, where H are the group's columns of the factor's inverse, here
    made for many groups at a time. Above the first row of these groups, H is zero.
    """
    residuals = torch.empty_like(dual)
    order = np.argsort(group_of, kind="stable")  # the rows, group by group
    ends = np.flatnonzero(np.diff(group_of[order], append=-1)) + 1
    starts = np.concatenate([[0], ends[:-1]])

    def leave_out(groups: Ints) -> None:
        begin = starts[groups[0]]
        rows = torch.from_numpy(order[begin : ends[groups[-1]]]).to(dual.device)
        first = int(rows.min())
        unit = torch.zeros(len(dual) - first, len(rows), dtype=dual.dtype, device=dual.device)
        unit[rows - first, torch.arange(len(rows), device=dual.device)] = 1
        columns = torch.linalg.solve_triangular(factor[first:, first:], unit, upper=False)
        for start, end in zip(starts[groups] - begin, ends[groups] - begin, strict=True):
            own, half = rows[start:end], columns[:, start:end]
            residuals[own] = torch.linalg.solve(half.T @ half, dual[own])

    every = np.arange(len(ends))
    on_all_cores(leave_out, np.split(every, np.flatnonzero(np.diff(ends // _BLOCK)) + 1))
    return residuals


def _whitening(centred: Tensor) -> tuple[Tensor, Tensor]:
    """``T`` that gives ``centred @ T`` unit covariance, and its inverse; directions without spread stay."""
    covariance = centred.T @ centred / max(1, len(centred))
    values, vectors = torch.linalg.eigh(covariance)
    spread = (values + 1e-3).sqrt()  # as R: keeps a constant target from being blown up
    return (vectors / spread) @ vectors.T, (vectors * spread) @ vectors.T
