"""What tests look at in training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from spp_det.model.vectors import WindowVectors
from spp_det.training.images import TrainingImages


def artefacts(cache: Path, stage: str) -> list[Path]:
    return sorted((cache / stage).rglob("*.safetensors"))


def all_of(vectors: WindowVectors) -> tuple[torch.Tensor, np.ndarray]:
    """Every distinct vector ``[M, D]``, and the row of each window."""
    return vectors.make(np.arange(len(vectors))), vectors.of


def same(a: TrainingImages, b: TrainingImages) -> bool:
    """Whether all windows and vectors are equal to the bit."""

    def equal(index: int) -> bool:
        (one, one_of), (two, two_of) = all_of(a.vectors(index)), all_of(b.vectors(index))
        boxes = np.array_equal(a.windows()[index].boxes, b.windows()[index].boxes)
        return boxes and np.array_equal(one_of, two_of) and torch.equal(one, two)

    return len(a) == len(b) and all(equal(index) for index in range(len(a)))
