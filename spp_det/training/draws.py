"""The random choices of a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spp_det.boxes import Ints
from spp_det.config.settings import Config
from spp_det.training.folds import Folds

NORM_IMAGES = 200  # at most, sampled for the mean norm
JUDGED = 6  # a stream of random numbers of its own, beside that of the folds


@dataclass(frozen=True, eq=False)
class Draws:
    """The random choices of a training, from its one seed.

    Attributes:
        sample: at most `NORM_IMAGES` pairs: an image's index, and the seed that draws its windows. The mean
            norm is measured on them.
        order: int64 ``[images]``, their indices in the order in which mining meets them.
        folds: of the images, to find out what scores mean.
        judged: int64 ``[n]``, the images that this is found out on.
        generator: draws the examples of the box regressors.
    """

    sample: list[tuple[int, int]]
    order: Ints
    folds: Folds
    judged: Ints
    generator: np.random.Generator

    @classmethod
    def of(cls, config: Config, images: int) -> Draws:
        """The choices of a training on so many images."""
        seed, folds = config.seed, Folds.none(images)
        if not config.finetune.enabled and config.features == "spp":  # fine-tuned layers know all images
            folds = Folds.draw(images, config.probability.folds, seed)
        judged = np.random.default_rng([seed, JUDGED]).permutation(images)[: config.probability.images]
        generator = np.random.default_rng(seed)
        drawn = generator.permutation(images)[:NORM_IMAGES].tolist()
        seeds = generator.integers(2**32, size=len(drawn)).tolist()
        sample = list(zip(drawn, seeds, strict=True))
        return cls(sample, generator.permutation(images), folds, np.sort(judged), generator)
