"""Windows, and the vectors of windows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from spp_det.boxes import as_boxes
from spp_det.config.network import BackboneSettings, Pyramid
from spp_det.model.features import SPPFeatures
from spp_det.model.vectors import WindowVectors


@dataclass(frozen=True, eq=False)
class HeldVectors(WindowVectors):
    """Vectors that there are already, and the rows that were asked for."""

    held: torch.Tensor
    made: list[int] = field(default_factory=list)

    def make(self, rows: np.ndarray) -> torch.Tensor:
        self.made.extend(rows.tolist())
        return self.held[torch.from_numpy(rows)]


def held(vectors: torch.Tensor, of: np.ndarray) -> WindowVectors:
    """Vectors ``[M, D]`` that there are already."""
    return HeldVectors(of, 4096, vectors.device, vectors)


def random_windows(count: int, width: int, height: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.integers(0, width, (count, 2))), np.sort(rng.integers(0, height, (count, 2)))
    return as_boxes(np.stack([x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], axis=1))


def spp_features(backbone, scales=(160,), max_side=2400, levels=(6, 3, 2, 1), mode="max", normalize="none"):
    sizes = BackboneSettings.model_construct(scales=scales, max_side=max_side)  # unchecked: in any order
    return SPPFeatures(backbone, sizes, Pyramid(levels=levels, mode=mode, normalize=normalize))


def all_of(vectors: WindowVectors):
    """Every distinct vector ``[M, D]``, and the row of each window."""
    return vectors.make(np.arange(len(vectors))), vectors.of


def rows(numbers, dimension: int = 40) -> torch.Tensor:
    """Vectors that tell their number: it is their first component, which half precision keeps."""
    generator = torch.Generator().manual_seed(int(np.sum(numbers)) + len(numbers))
    vectors = torch.randn(len(numbers), dimension, generator=generator).half().float()
    vectors[:, 0] = torch.as_tensor(np.array(numbers, np.float32))
    return vectors
