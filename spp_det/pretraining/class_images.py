"""The images of a class folder for training: the readable ones, and their augmented batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spp_det.config.pretrain import Training
from spp_det.data.class_folder import LabelledImages
from spp_det.errors import UserError
from spp_det.images import RGB, Skipped, UnreadableImageError, read_image, skipped
from spp_det.pretraining.augment import augmented
from spp_det.runtime.progress import track
from spp_det.runtime.sharing import even_share, seed_torch, shared_map
from spp_det.runtime.threads import ahead

logger = logging.getLogger(__name__)


def readable(images: LabelledImages, workers: int, strict: bool) -> tuple[LabelledImages, list[Skipped]]:
    """The images that can be decoded, and the files that cannot, with the reason.

    The processes share the images out and decode each once before the training: all must use the same
    images. A file that cannot be decoded is left out with a warning, or is a UserError where ``strict``.
    """

    def check(path: Path) -> UnreadableImageError | None:
        try:
            read_image(path)
        except UnreadableImageError as error:
            return error
        return None

    left_out: list[Skipped] = []
    good = np.ones(len(images), np.bool_)
    errors = shared_map(check, images.paths, run=partial(ahead, workers=workers))
    for index, error in enumerate(track(errors, "reading images", len(images))):
        if error is None:
            continue
        if strict:
            raise error
        logger.warning("skipped: %s", error)
        good[index] = False
        left_out.append(skipped(images.paths[index], error))
    if not good.any():
        raise UserError("there is no readable image")
    return images.at(np.flatnonzero(good)), left_out


class ClassBatches:
    """Shuffled, augmented batches of an image folder: this process's share of each batch, see `learn`.

    An image is augmented by the seed, the epoch and its index alone: the number of threads or processes does
    not change it.
    """

    def __init__(
        self, images: LabelledImages, train: Training, seed: int, workers: int, device: torch.device
    ) -> None:
        self.images = images
        self.train = train
        self.seed = seed
        self.workers = workers
        self.device = device
        self.steps = -(-len(images) // train.batch)

    def __call__(self, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        seeds = np.random.SeedSequence([self.seed, epoch, 0])
        seed_torch(int(seeds.generate_state(1, np.uint64)[0]))  # dropout knows no explicit generator
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        shares = [even_share(batch) for batch in np.array_split(order, self.steps)]  # none is tiny

        def picture(index: int) -> RGB:
            rng = np.random.default_rng([self.seed, epoch, index])
            image = read_image(self.images.paths[index])
            return augmented(rng, image, size, self.train.flip, self.train.colour)

        indices = [int(index) for share in shares for index in share]
        pictures = ahead(picture, indices, self.workers, waiting=2 * len(shares[0]))
        for share in shares:
            pixels = np.stack([next(pictures) for _ in share])
            labels = torch.from_numpy(self.images.labels[share])
            yield torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2), labels.to(self.device)
