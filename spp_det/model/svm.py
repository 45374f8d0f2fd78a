"""Linear SVMs, one a class, over shared vectors (P section 4.1).

All classes are trained at once on one pool of examples. An example is positive for one class and
negative for most others, so its vector is read once and serves them all; where it counts for
neither side of a class its sign is 0.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LinearSVMs:
    """``scores = vectors @ weight + bias``.

    Attributes:
        weight: float32 ``[D, K]``.
        bias: float32 ``[K]``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[N, D] -> [N, K]`` signed distances in units of the margin."""
        return torch.addmm(self.bias, vectors, self.weight)


@dataclass(frozen=True)
class Hinge:
    """The objective of one class, for examples ``x_i`` with signs ``y_i`` (0: not an example)::

        1/2 |w|^2 + 1/2 b^2 + sum_i C_i max(0, 1 - y_i (w . x_i + bias * b))

    with ``C_i`` being ``C * positive_weight`` where ``y_i > 0``, else ``C``. On ``x * scale`` that is
    ``LinearSVC(loss="hinge", C=C, intercept_scaling=bias, class_weight={1: positive_weight})``
    of scikit-learn.
    """

    C: float
    bias: float
    positive_weight: float
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Fit:
    """Trained SVMs, their dual variables (to start the next fit from) and how exact they are.

    Attributes:
        svms: in float32, for unscaled vectors.
        alpha: float64 ``[n, K]``.
        gap: float64 ``[K]`` relative duality gap: 1 - dual / primal.
        primal: float64 ``[K]`` objective of each class.
    """

    svms: LinearSVMs
    alpha: npt.NDArray[np.float64]
    gap: npt.NDArray[np.float64]
    primal: npt.NDArray[np.float64]


_BLOCK = 1024  # vectors converted to float32 at a time
_WORKING_SET = 4096  # examples solved together where no Gram matrix is at hand
_ROUNDS = 100


def gram_matrix(vectors: Tensor, others: Tensor) -> npt.NDArray[np.float32]:
    """``[n, D], [m, D] -> [n, m]`` inner products in float32, of vectors in any floating point."""
    products = np.empty((len(vectors), len(others)), np.float32)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK].float().T
        for row in range(0, len(vectors), _BLOCK):
            rows = vectors[row : row + _BLOCK].float()
            products[row : row + _BLOCK, start : start + _BLOCK] = (rows @ block).numpy()
    return products


def fit_svms(
    vectors: Tensor,
    signs: npt.NDArray[np.int8],
    objective: Hinge,
    tolerance: float = 1e-4,
    alpha: npt.NDArray[np.float64] | None = None,
    gram: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
) -> Fit:
    """Minimise the `Hinge` objective of every class by coordinate ascent on its dual.

    In terms of the examples' inner products a step costs one row of their Gram matrix, however long the
    vectors, and all classes share the matrix. A round scores all examples with the vectors themselves,
    which gives the true duality gap, and solves every class whose gap exceeds ``tolerance`` of its
    objective. One round does it, unless there are too many examples for a Gram matrix: then a
    round solves for some of them, drawn at random, given the others.

    Args:
        vectors: ``[n, D]`` in float32, or in half precision to save memory.
        signs: int8 ``[n, K]``: 1 positive, -1 negative, 0 not an example of the class.
        alpha: where to start; zeros if None.
        gram: ``gram_matrix(vectors, vectors)`` where it is at hand.
        seed: of the order of steps: in a fixed one the ascent crawls, because vectors that are never
            negative all lean the same way.
    """
    n, classes = signs.shape
    # Solved for unscaled vectors: w x = (w / scale)(x scale), so C grows by scale^2 and the bias shrinks.
    C = objective.C * objective.scale**2 * np.where(signs > 0, objective.positive_weight, 1.0) * (signs != 0)
    bias = objective.bias / objective.scale
    alpha = np.zeros((n, classes)) if alpha is None else np.clip(alpha, 0, C)
    random = np.random.default_rng(seed)
    for _ in range(_ROUNDS):
        weight = _weighted_sum(vectors, alpha * signs)  # [D, K]
        bias_weight = bias * (alpha * signs).sum(0)  # [K]
        scores = _scores(vectors, weight) + bias * bias_weight  # [n, K]
        regulariser = ((weight.double() ** 2).sum(0).numpy() + bias_weight**2) / 2
        primal = regulariser + (C * np.maximum(1 - signs * scores, 0)).sum(0)
        gap = (primal - (alpha.sum(0) - regulariser)) / np.maximum(primal, 1e-300)
        logger.debug("SVM: %d examples, duality gaps %s", n, gap)
        unfinished = np.flatnonzero(gap > tolerance)
        if not len(unfinished):
            break
        working, products = np.arange(n), gram
        if products is None:
            working = random.permutation(n)[:_WORKING_SET]
            rows = vectors[torch.from_numpy(working)]
            products = gram_matrix(rows, rows)
        solve = partial(
            _solve_class, products, bias**2, signs[working], C[working], scores[working], alpha[working],
            0.3 * tolerance * primal, int(random.integers(2**31)),
        )  # fmt: skip
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for k, solved in zip(unfinished, threads.map(solve, unfinished.tolist()), strict=True):
                alpha[working, k] = solved
    else:
        logger.warning("SVM: the duality gap is still %.1e after %d rounds", gap.max(), _ROUNDS)
    svms = LinearSVMs(weight, torch.from_numpy(bias * bias_weight).float())
    return Fit(svms, alpha, gap, primal / objective.scale**2)


def _solve_class(
    gram: npt.NDArray[np.float32],
    bias_square: float,
    signs: npt.NDArray[np.int8],
    C: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    alpha: npt.NDArray[np.float64],
    enough: npt.NDArray[np.float64],
    seed: int,
    k: int,
) -> npt.NDArray[np.float64]:
    y, c, score, a = (values[:, k].astype(np.float64) for values in (signs, C, scores, alpha))
    solved: npt.NDArray[np.float64] = _coordinate_ascent(gram, bias_square, y, c, score, a, enough[k], seed)
    return solved


def _scores(vectors: Tensor, weight: Tensor) -> npt.NDArray[np.float64]:
    """``[n, D] x [D, K] -> [n, K]``."""
    starts = range(0, len(vectors), _BLOCK)
    blocks = [vectors[start : start + _BLOCK].float() @ weight for start in starts]
    return torch.cat(blocks).double().numpy()


def _weighted_sum(vectors: Tensor, factors: npt.NDArray[np.float64]) -> Tensor:
    """``[n, D], [n, K] -> [D, K]``: the sum over examples of factor times vector."""
    total = torch.zeros(vectors.shape[1], factors.shape[1])
    used = np.flatnonzero(factors.any(axis=1))
    for start in range(0, len(used), _BLOCK):
        rows = torch.from_numpy(used[start : start + _BLOCK])
        total += vectors[rows].float().T @ torch.from_numpy(factors)[rows].float()
    return total


_MOST_SWEEPS = 2000


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _coordinate_ascent(gram, bias_square, signs, C, scores, alpha, enough, seed):  # type: ignore[no-untyped-def]
    """Solve one class on ``m`` examples, given the rest: ``alpha [m] -> alpha [m]``.

    ``gram [m, m]`` without the bias feature, ``scores [m]`` at the start. A step is exact for one example
    and moves all scores along. The duality gap is a sum over examples of what complementary slackness
    lacks; sweeps, each in a new order, end when these m examples contribute less than ``enough``.
    """
    np.random.seed(seed)  # noqa: NPY002  (numba's own generator, one a thread)
    m = len(alpha)
    alpha, scores = alpha.copy(), scores.copy()
    examples = np.flatnonzero(C)
    for _ in range(_MOST_SWEEPS):
        np.random.shuffle(examples)  # noqa: NPY002
        for i in examples:
            slack = 1 - signs[i] * scores[i]
            if (alpha[i] == 0 and slack <= 0) or (alpha[i] == C[i] and slack >= 0):
                continue
            new = min(max(alpha[i] + slack / (gram[i, i] + bias_square), 0.0), C[i])
            signed = (new - alpha[i]) * signs[i]
            alpha[i] = new
            row = gram[i]
            for j in range(m):
                scores[j] += signed * (row[j] + bias_square)
        gap = 0.0
        for i in examples:
            slack = 1 - signs[i] * scores[i]
            gap += C[i] * max(slack, 0.0) - alpha[i] * slack
        if gap < enough:
            break
    return alpha
