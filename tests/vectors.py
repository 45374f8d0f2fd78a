"""Vectors of windows that no network has made."""

from __future__ import annotations

import numpy as np
import torch

from spp_det.model.features import WindowVectors


def held(vectors: torch.Tensor, of: np.ndarray) -> WindowVectors:
    """Vectors ``[M, D]`` that there are already."""
    return WindowVectors(lambda rows: vectors[torch.from_numpy(rows)], of, 4096, vectors.device)
