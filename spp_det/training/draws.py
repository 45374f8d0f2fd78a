"""The random choices of a training, and the windows that they sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from spp_det.boxes import Ints
from spp_det.config.settings import Config
from spp_det.model.features import WindowFeatures
from spp_det.model.head import FCHead
from spp_det.runtime.sharing import Shared
from spp_det.training.folds import Folds
from spp_det.training.images import TrainingImages

NORM_IMAGES = 200  # at most, sampled for the mean norm
NORM_WINDOWS = 200  # of each at most
SAME_NORM_IMAGES = 4  # of these, where all vectors have one length: enough to tell that they are not zero
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

    def norm_sample(self, features: WindowFeatures, head: FCHead | None) -> list[tuple[int, int]]:
        """The part of ``sample`` that tells the mean norm of pool5 (None), or of the head's outputs."""
        same = head is None and features.length is not None
        return self.sample[:SAME_NORM_IMAGES] if same else self.sample

    def norm_vectors(self, images: TrainingImages, head: FCHead | None) -> Shared[Tensor]:
        """Vectors ``[n, D]`` of windows of each image of `norm_sample`: pool5, or the head's outputs."""
        seeds = dict(self.norm_sample(images.features, head))

        def sample(index: int) -> Tensor:
            vectors = images.sample(index, NORM_WINDOWS, np.random.default_rng(seeds[index]))
            return vectors if head is None else head(vectors)

        shared = images.share(seeds)
        return Shared(images.on_threads(sample, shared.own), shared.owners)

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
