"""A processor that splits sums by the number of threads, as oneDNN and MKL do on some: simulated.

Every result that such a library could round otherwise is made a little larger for each further thread that
torch may use where it is computed. Where `SWITCH` is in the environment, tests/conftest.py has all tests run
so.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

SWITCH = "SPP_DET_SPLIT_SUMS"
PART = 2.0**-20  # eight units in the last place


def split_where_asked() -> None:
    """In this process, where `SWITCH` is in the environment; programs that tests start call it too."""
    if SWITCH in os.environ:
        split_sums(pytest.MonkeyPatch())


def split_sums(patch: pytest.MonkeyPatch, part: float = PART) -> None:
    """Let convolutions, products, solvers, norms and means grow by that part of themselves a thread."""
    from spp_det.model.backbone import Backbone

    for owner, name in (
        *((Backbone, "forward"), (F, "linear"), (torch.ops.mkldnn, "_linear_pointwise")),
        *((Tensor, "__matmul__"), (Tensor, "norm"), (Tensor, "mean")),
        *((torch.linalg, name) for name in ("solve", "lu_factor", "lu_solve", "eigh", "vector_norm")),
    ):
        patch.setattr(owner, name, _split(getattr(owner, name), part))


def _split(function: Callable[..., Any], part: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def split(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        factor = 1 + part * (torch.get_num_threads() - 1)
        if factor == 1:
            return found
        if isinstance(found, Tensor):
            return found * factor if found.is_floating_point() else found
        return type(found)([each * factor if each.is_floating_point() else each for each in found])

    return split
