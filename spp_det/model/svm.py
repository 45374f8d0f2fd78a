"""Linear SVMs, one a class, over shared vectors (P section 4.1).

All classes are trained at once on one pool of examples. An example is positive for one class and
negative for most others, so its vector is read once and serves them all; where it counts for
neither side of a class its sign is 0.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Floats

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

        1/2 |w|^2 + 1/2 b^2 + sum_i C_i max(0, 1 - y_i (w . x_i + bias * b)),   C_i = C * positive_weight if y_i > 0 else C

    which is ``sklearn.svm.LinearSVC(loss="hinge", C=C, intercept_scaling=bias, class_weight={1: positive_weight})``
    on ``x * scale``.
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


_BLOCK = 128  # examples solved together
_INNER_SWEEPS = 4  # over the examples of a block
_SWEEPS = 6  # over the active examples between two looks at all of them
_ROUNDS = 200


def fit_svms(
    vectors: Tensor,
    signs: npt.NDArray[np.int8],
    objective: Hinge,
    tolerance: float = 1e-4,
    alpha: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Fit:
    """Minimise the `Hinge` objective of every class by block coordinate ascent on its dual.

    A round scores all examples, which gives the duality gap: done once that is below ``tolerance`` of
    the objective for every class. Examples that are optimal at a bound for all classes rest for the
    round. The others are shuffled into blocks (in a fixed order the ascent crawls, because vectors
    that are never negative all lean the same way) and swept a few times: a block's Gram matrix is
    computed once and serves every class, each of which is then solved without touching a vector.

    Args:
        vectors: ``[n, D]`` in float32, or in half precision to save memory.
        signs: int8 ``[n, K]``: 1 positive, -1 negative, 0 not an example of the class.
        alpha: where to start; zeros if None.
        seed: of the shuffling.
    """
    n, classes = signs.shape
    # Solved for unscaled vectors: w x = (w / scale)(x scale), so C grows by scale^2 and the bias shrinks.
    C = objective.C * objective.scale**2 * np.where(signs > 0, objective.positive_weight, 1.0) * (signs != 0)
    bias = objective.bias / objective.scale
    alpha = np.zeros((n, classes)) if alpha is None else np.clip(alpha, 0, C)
    shuffle = np.random.default_rng(seed)
    weight = torch.zeros(vectors.shape[1], classes)
    for start in range(0, n, _CHUNK):
        signed = torch.from_numpy((alpha * signs)[start : start + _CHUNK]).float()
        if signed.any():
            weight += vectors[start : start + _CHUNK].float().T @ signed

    for _ in range(_ROUNDS):
        scores = torch.cat([chunk.float() @ weight for chunk in vectors.split(_CHUNK)]).double().numpy()
        bias_weight = bias * (alpha * signs).sum(0)  # [K]
        slack = 1 - signs * (scores + bias * bias_weight)  # [n, K]
        squared = (weight.double() ** 2).sum(0).numpy() + bias_weight**2
        primal = squared / 2 + (C * np.maximum(slack, 0)).sum(0)
        gap = 1 - (alpha.sum(0) - squared / 2) / np.maximum(primal, 1e-300)
        if (gap <= tolerance).all():
            break
        at_rest = np.where(alpha <= 0, slack <= 0, (alpha >= C) & (slack >= 0)) | (C == 0) | (gap <= tolerance)
        active = shuffle.permutation(np.flatnonzero(~at_rest.all(axis=1)))
        blocks = [active[start : start + _BLOCK] for start in range(0, len(active), _BLOCK)]
        grams: list[npt.NDArray[np.float32] | None] = [None] * len(blocks)
        for _ in range(_SWEEPS):
            for i in shuffle.permutation(len(blocks)):
                block = blocks[i]
                rows = vectors[torch.from_numpy(block)].float()  # [m, D]
                gram = grams[i] = (rows @ rows.T).numpy() + np.float32(bias**2) if grams[i] is None else grams[i]
                scores = (rows @ weight).double().numpy() + bias * bias_weight
                solved = _solve_block(gram, signs[block], C[block], scores, alpha[block])
                step = (solved - alpha[block]) * signs[block]
                alpha[block] = solved
                weight += rows.T @ torch.from_numpy(step).float()
                bias_weight += bias * step.sum(0)
    else:
        logger.warning("SVM: the duality gap is still %.1e after %d rounds", gap.max(), _ROUNDS)
    svms = LinearSVMs(weight, torch.from_numpy(bias * bias_weight).float())
    return Fit(svms, alpha, gap, primal / objective.scale**2)


_CHUNK = 2048  # examples converted to float32 at a time


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _solve_block(gram, signs, C, scores, alpha):  # type: ignore[no-untyped-def]
    """Solve each class on a block, given the other blocks: ``alpha [m, K] -> alpha [m, K]``.

    ``gram [m, m]``, ``signs``, ``C`` and ``scores`` ``[m, K]``. One step is exact for one example.
    """
    m, classes = alpha.shape
    solved = alpha.copy()
    for k in range(classes):
        score = scores[:, k].copy()
        for _ in range(_INNER_SWEEPS):
            for i in range(m):
                if C[i, k] == 0:
                    continue
                slack = 1 - signs[i, k] * score[i]
                new = min(max(solved[i, k] + slack / gram[i, i], 0.0), C[i, k])
                step = (new - solved[i, k]) * signs[i, k]
                if step != 0:
                    solved[i, k] = new
                    row = gram[i]
                    for j in range(m):
                        score[j] += step * row[j]
    return solved
