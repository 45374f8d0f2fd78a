"""The vectors of an image's windows, made only when they are asked for: all at once would fill the memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Ints
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs
from spp_det.runtime.threads import on_all_cores

T = TypeVar("T")
Layers = Callable[[Tensor], Tensor]  # [n, D] -> [n, D'], every vector by itself

CHUNK_BYTES = 6 * 2**20  # of vectors that one core makes and uses at a time: they stay in its cache
GPU_CHUNK_BYTES = 2**30
FC_CHUNK = 512  # vectors that pass fc layers together: every pass reads all the weights


@dataclass(frozen=True, eq=False)
class WindowVectors(ABC):
    """M vectors of length D that N windows share: windows with the same cells have one vector.

    Attributes:
        of: int64 ``[N]``, the vector of each window.
        chunk: how many vectors `each` makes at a time.
        device: where vectors are made.
    """

    of: Ints
    chunk: int
    device: torch.device

    @abstractmethod
    def make(self, rows: Ints) -> Tensor:
        """The vectors ``[n, D]`` of the numbers ``[n]``, rounded as the calling thread's libraries do."""

    def __len__(self) -> int:
        """M, the number of distinct vectors."""
        return int(self.of.max()) + 1 if len(self.of) else 0

    def of_rows(self, rows: Ints) -> Tensor:
        """The vectors ``[n, D]`` of the numbers ``[n]``, with the same bits on any number of cores."""
        distinct, place_of = np.unique(rows, return_inverse=True)
        made = torch.cat(self.in_chunks(distinct, lambda vectors, _: vectors))
        return made if np.array_equal(distinct, rows) else made[torch.from_numpy(place_of)]

    def of_windows(self, windows: Ints) -> Tensor:
        """The vectors ``[n, D]`` of windows ``[n]``, as `of_rows` makes them."""
        return self.of_rows(self.of[windows])

    def through(self, layers: Layers | None) -> WindowVectors:
        """The outputs of fc layers for these vectors; None, where there are no layers, changes nothing."""
        if layers is None:
            return self
        return LayerOutputs(self.of, self.for_layers().chunk, self.device, self, layers)

    def for_layers(self) -> Self:
        """The same vectors in chunks that are large enough for fc layers."""
        return replace(self, chunk=max(self.chunk, FC_CHUNK))

    def scores(self, scorer: LinearSVMs | SoftmaxScorer) -> Tensor:
        """The scores ``[M, K]`` of all vectors."""
        return scorer.scores(self.linear(scorer.weight, scorer.bias))

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """``vectors @ weight.T + bias`` of all vectors: ``[R, D], [R] -> [M, R]``."""
        return self.each(lambda vectors: F.linear(vectors, weight, bias))

    def each(self, function: Layers) -> Tensor:
        """``function`` of all vectors, ``[M, D] -> [M, ...]``; it must treat every vector by itself."""
        return torch.cat(self.in_chunks(np.arange(len(self)), lambda vectors, _: function(vectors)))

    def in_chunks(self, rows: Ints, function: Callable[[Tensor, Ints], T]) -> list[T]:
        """``function(vectors [c, D], positions [c])`` of the vectors ``rows [n]``, a chunk at a time.

        The cores of a CPU share the chunks out. ``positions`` are those of the chunk's vectors in ``rows``.
        No rows are one empty chunk.
        """
        positions = np.arange(len(rows))
        starts = range(0, max(1, len(rows)), self.chunk)
        chunks = [positions[start : start + self.chunk] for start in starts]

        def one(chunk: Ints) -> T:
            with torch.inference_mode():  # a setting of each thread
                return function(self.make(rows[chunk]), chunk)

        return on_all_cores(one, chunks) if self.device.type == "cpu" else [one(chunk) for chunk in chunks]


@dataclass(frozen=True, eq=False)
class LayerOutputs(WindowVectors):
    """What fc layers make of other vectors."""

    inputs: WindowVectors
    layers: Layers

    def make(self, rows: Ints) -> Tensor:
        return self.layers(self.inputs.make(rows))


def chunk_size(dimension: int, device: torch.device) -> int:
    """How many vectors of that length to make and use at a time."""
    most = CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
    return max(1, most // (4 * dimension))
