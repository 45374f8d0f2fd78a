"""The training images in parts: what is learnt without a part is tried on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spp_det.boxes import Ints

FOLDS = 5  # a stream of random numbers of its own, beside those of `spp_det.training.batches`


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold of each training image.

    Attributes:
        of: int64 ``[images]``, each below ``count``.
        count: the number of folds; 0 where nothing is tried.
    """

    of: Ints
    count: int

    @classmethod
    def draw(cls, images: int, count: int, seed: int) -> Folds:
        """At most so many folds of nearly one size, at random; none of fewer than two images."""
        count = min(count, images) if images > 1 else 0
        order = np.random.default_rng([seed, FOLDS]).permutation(images)
        return cls(order % max(count, 1), count)

    @classmethod
    def none(cls, images: int) -> Folds:
        """All images in one part, which nothing is learnt without."""
        return cls(np.zeros(images, np.int64), 0)

    def key(self) -> Sequence[int]:
        """What results depend on; empty where there are no folds."""
        return [self.count, *self.of.tolist()] if self.count else []
