"""Linear SVMs, one a class, over shared vectors (P section 4.1).

All classes are trained on one pool of examples. An example is positive for one class and negative for most
others, so that one copy of its vector serves all classes. Where it is neither a positive nor a negative of a
class, its sign is 0.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Floats, Ints
from spp_det.model.coordinate_ascent import ascend
from spp_det.model.own_class import of_classes


@dataclass(frozen=True, eq=False)
class LinearSVMs:
    """``scores = vectors @ weight.T + bias``.

    Attributes:
        weight: float32 ``[K, D]``; the weights of one class lie side by side in memory.
        bias: float32 ``[K]``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[N, D] -> [N, K]`` signed distances in units of the margin."""
        return self.scores(F.linear(vectors, self.weight, self.bias))

    def scores(self, products: Tensor) -> Tensor:
        """The scores ``[N, K]`` from ``vectors @ weight.T + bias``: here the same numbers."""
        return products

    def of_classes(self, vectors: Tensor, labels: Ints) -> Floats:
        """``[n, D], [n] -> [n]``: of each vector the score of its own class alone."""
        return of_classes(vectors, labels, self.weight[:, None], self.bias[:, None])[:, 0]

    def to(self, device: torch.device) -> LinearSVMs:
        """The same SVMs on another device."""
        return LinearSVMs(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class Hinge:
    """The objective of one class, for examples ``x_i`` with signs ``y_i``::

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
    """Trained SVMs, their dual variables (from which the next fit starts) and their accuracy.

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


def fit_svms(
    vectors: Tensor,
    signs: npt.NDArray[np.int8],
    objective: Hinge,
    tolerance: float = 1e-4,
    alpha: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Fit:
    """Minimise the `Hinge` objective of every class by dual coordinate ascent (Hsieh et al., ICML 2008).

    This is liblinear's algorithm, on half-precision vectors that all classes share without copying them. A
    class is done when its duality gap is below ``tolerance`` times its objective, or after
    `coordinate_ascent.ROUNDS` rounds; the gap in the result tells which. All cores solve classes.

    Args:
        vectors: float16 ``[n, D]``, finite, on the CPU.
        signs: int8 ``[n, K]``: positive, negative, or 0 for a row that is no example of the class. The
            absolute value is the number of equal examples that the row stands for.
        alpha: the dual variables to start from; zeros if None.
        seed: of the order of the steps. In a fixed order the ascent is slow, because vectors without negative
            numbers have similar directions.

    Raises ValueError where the vectors are not float16 or not as many as the signs.
    """
    n, classes = signs.shape
    if vectors.dtype != torch.float16 or len(vectors) != n:  # the compiled code reads memory unchecked
        raise ValueError(f"vectors must be float16 [{n}, D], got {vectors.dtype} {list(vectors.shape)}")
    # Solved for unscaled vectors: w x = (w / scale)(x scale), so C grows by scale^2 and the bias shrinks.
    weight_of = np.where(signs > 0, objective.positive_weight, 1.0) * np.abs(signs.astype(np.float64))
    C = objective.C * objective.scale**2 * weight_of
    bias = objective.bias / objective.scale
    alpha = np.zeros((n, classes)) if alpha is None else np.clip(alpha, 0, C)
    bits = vectors.contiguous().view(torch.int16).numpy().view(np.uint16)

    def solve(k: int) -> tuple[npt.NDArray[np.float32], float, float, float]:
        rows = np.flatnonzero(signs[:, k])
        solved = alpha[rows, k]
        weight = np.zeros(vectors.shape[1], np.float32)
        y = np.sign(signs[rows, k]).astype(np.float64)
        bias_weight, primal, gap = ascend(bits, rows, y, C[rows, k], bias, solved, weight, tolerance, seed)
        alpha[rows, k] = solved
        return weight, bias * bias_weight, primal / objective.scale**2, gap

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        solved = list(threads.map(solve, range(classes)))
    weights = np.array([weight for weight, *_ in solved], np.float32).reshape(classes, vectors.shape[1])
    biases, primals, gaps = np.array([rest for _, *rest in solved], np.float64).reshape(classes, 3).T
    svms = LinearSVMs(torch.from_numpy(weights), torch.from_numpy(biases.astype(np.float32)))
    return Fit(svms, alpha, gaps, primals)
