"""An image folder as training sees it: the readable images, and their augmented batches for each process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Ints
from spp_det.config.pretrain import Training
from spp_det.data.class_folder import LabelledImages
from spp_det.errors import UserError
from spp_det.images import RGB, Skipped, UnreadableImageError, read_image, skipped
from spp_det.pretraining.augment import augmented
from spp_det.runtime import distributed
from spp_det.runtime.progress import track
from spp_det.runtime.threads import ahead

logger = logging.getLogger(__name__)


def readable(images: LabelledImages, workers: int, strict: bool) -> tuple[LabelledImages, list[Skipped]]:
    """The images that can be decoded, and those that cannot, with the reason.

    Each is decoded once, before anything depends on it, and the processes share that out: they must
    agree on what there is to learn. A file that cannot is left out with a warning, or a UserError where
    ``strict``.
    """
    first, step = distributed.rank(), distributed.world_size()
    mine = range(first, len(images), step)
    bad = torch.zeros(len(images), dtype=torch.int64)

    def check(index: int) -> UnreadableImageError | None:
        try:
            read_image(images.paths[index])
        except UnreadableImageError as error:
            return error
        return None

    own: list[distributed.Arrays] = []
    results = ahead(check, mine, workers)
    for index, error in zip(mine, track(results, "reading images", len(mine)), strict=True):
        if error is not None:
            bad[index] = 1
            logger.warning("skipped: %s", error)
            own.append({"error": np.frombuffer(str(error).encode(errors="surrogateescape"), np.uint8)})
    bad = distributed.total(bad)
    indices = bad.nonzero().flatten().tolist()
    left_out: list[Skipped] = []
    for index, found in zip(indices, distributed.in_order(own, (i % step for i in indices)), strict=True):
        error = UnreadableImageError(found["error"].tobytes().decode(errors="surrogateescape"))
        if strict:
            raise error
        left_out.append(skipped(images.paths[index], error))
    kept = images.at(np.flatnonzero(bad.numpy() == 0))
    if not len(kept):
        raise UserError("there is no readable image")
    return kept, left_out


class ClassBatches:
    """Shuffled, augmented batches of an image folder: this process's share of each, see `learn`.

    What an image looks like depends on the seed, the epoch and its index alone: not on the number of
    threads or processes.
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
        seeds = np.random.SeedSequence([self.seed, epoch, distributed.rank()])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))  # dropout knows no explicit generator
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        shares = [self._share(batch) for batch in np.array_split(order, self.steps)]  # no tiny last one

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

    def _share(self, batch: Ints) -> Ints:
        """This process's part. All get as many, or they would wait for one another: some images twice."""
        processes = distributed.world_size()
        even = -(-len(batch) // processes) * processes
        return np.resize(batch, even)[distributed.rank() :: processes]
