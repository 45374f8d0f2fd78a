"""Products of vectors with the weights of their own class: the cost does not grow with the classes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Floats, Ints
from spp_det.kernels import numba


def of_classes(vectors: Tensor, labels: Ints, weight: Tensor, bias: Tensor) -> Floats:
    """``weight[k] @ vector + bias[k]`` of each vector's own class k: ``[n, D], [n] -> [n, R]``, all float32.

    ``weight [K, R, D]``, ``bias [K, R]``. Sorted labels are fastest: a class's weights stay in the cache. On
    a CPU the result depends on nothing but the numbers; BLAS's product with few rows also depends on where
    they lie in memory.
    """
    products = np.zeros((len(labels), weight.shape[1]), np.float32)
    if vectors.device.type == "cpu":
        rows, weights = vectors.contiguous().numpy(), weight.contiguous().numpy()
        _multiply(rows, labels, weights, bias.contiguous().numpy(), products)
        return products
    ends = np.flatnonzero(np.diff(labels, prepend=-1, append=-1))  # a run of equal labels is no copy
    for start, stop in pairwise(ends):
        label = labels[start]
        products[start:stop] = F.linear(vectors[start:stop], weight[label], bias[label]).cpu().numpy()
    return products


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _multiply(vectors, labels, weight, bias, products):  # type: ignore[no-untyped-def]
    for i in range(len(vectors)):
        vector = vectors[i]
        for r in range(products.shape[1]):
            row = weight[labels[i], r]
            total = np.float32(0)
            for d in range(len(vector)):
                total += vector[d] * row[d]
            products[i, r] = total + bias[labels[i], r]
