"""Pre-training on the objects of an annotated data set: crops that fit into memory, for the demo."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.config.pretrain import Training
from spp_det.data.crops import record_crops
from spp_det.data.records import Dataset
from spp_det.images import read_image
from spp_det.model.backbone import Backbone
from spp_det.pretraining.classifier import PyramidClassifier
from spp_det.pretraining.learning import learn
from spp_det.runtime.progress import track

logger = logging.getLogger(__name__)

BATCH = 64
HIDDEN = 256
LABEL_SMOOTHING = 0.1
DROPOUT = 0.2  # with P's 0.5, meant for a million images, a small network learns too little within minutes
CROP_CONTEXT = 0.1  # of the crop's side: surroundings that a crop shows of an object


def pretrain_on_crops(
    dataset: Dataset,
    backbone_name: str,
    *,
    sizes: Sequence[int],
    epochs: int,
    learning_rate: float,
    seed: int,
    crops_per_object: int = 3,
) -> Backbone:
    """Train a backbone from random weights to tell the objects of a data set, and background, apart.

    Args:
        dataset: no other images than these are read.
        sizes: sides of the square crops in pixels, taken in turn, one an epoch.
        crops_per_object: differently jittered crops of each object, cut once.

    Returns the backbone in evaluation mode, frozen.
    """
    images, labels = _crops(dataset, max(sizes), crops_per_object, np.random.default_rng(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout and nn.Linear know no explicit generator
        classes = len(dataset.classes) + 1
        network = PyramidClassifier(Backbone(backbone_name), classes, (HIDDEN,), (DROPOUT, DROPOUT))

        def batches(_epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in torch.randperm(len(images)).split(BATCH):
                yield _augmented(images[batch], size), labels[batch]

        plan = Training(
            sizes=tuple(sizes),
            epochs=epochs,
            learning_rate=learning_rate,
            optimizer="adamw",
            schedule="one_cycle",
            label_smoothing=LABEL_SMOOTHING,
        )
        course = learn(network, batches, -(-len(images) // BATCH), plan)
    logger.info("pre-training: %d crops, accuracy of the last epoch %.3f", len(images), course[-1].accuracy)
    network.eval().requires_grad_(False)
    return network.backbone


def _crops(dataset: Dataset, size: int, per_object: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """uint8 ``[N, 3, size, size]`` and int64 ``[N]``; background is the last label."""
    pictures, labels = [], []
    for record in track(dataset.records, "cutting crops"):
        image = read_image(record.path)
        for _ in range(per_object):
            cut, label = record_crops(rng, image, record, len(dataset.classes), size, context=CROP_CONTEXT)
            pictures.append(cut)
            labels.append(label)
    stacked = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2)
    return stacked.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.concatenate(labels))


def _augmented(images: Tensor, size: int) -> Tensor:
    """float ``[B, 3, size, size]``: half of them mirrored, brightness and contrast varied a little."""
    x = F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False)
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    gain, shift = torch.empty(2, len(x), 1, 1, 1).uniform_(-1, 1)
    varied: Tensor = (x * (1 + 0.2 * gain) + 25 * shift).clamp_(0, 255)
    return varied
