"""Pre-training: classification with the pyramid before the fc layers (P sections 2.3 and 3), here on crops.

The pyramid makes the vector's length independent of the image's size, so the same weights see another
size each epoch (P section 2.3, multi-size training).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.cache import write_whole
from spp_det.data.crops import record_crops
from spp_det.data.records import Dataset
from spp_det.images import read_image
from spp_det.model.backbone import BACKBONES, Backbone
from spp_det.model.pyramid import CLASSIFICATION_LEVELS, SpatialPyramidPooling
from spp_det.progress import track

logger = logging.getLogger(__name__)

BATCH = 64
WEIGHT_DECAY = 5e-4
DROPOUT = 0.2  # P's 0.5 is for a million images: within minutes it only keeps a small network from learning
CROP_CONTEXT = 0.1  # of the crop's side: a little of the surroundings


class PyramidClassifier(nn.Module):
    """conv5 -> spatial pyramid pooling -> one hidden layer -> class scores; images of any size.

    ``uint8 [B, 3, H, W] -> [B, K]``.
    """

    def __init__(self, backbone: Backbone, classes: int, hidden: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = SpatialPyramidPooling(CLASSIFICATION_LEVELS)
        self.fc = nn.Sequential(
            *(nn.Dropout(DROPOUT), nn.Linear(self.pool.out_features(backbone.channels), hidden), nn.ReLU()),
            *(nn.Dropout(DROPOUT), nn.Linear(hidden, classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.pool(self.backbone(images)))
        return scores


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
        dataset: only its images of this split are read.
        sizes: sides of the square crops in pixels, taken in turn, one an epoch.
        crops_per_object: differently jittered crops of each object, cut once.

    Returns the backbone in evaluation mode, frozen.
    """
    images, labels = _crops(dataset, max(sizes), crops_per_object, np.random.default_rng(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout and nn.Linear know no explicit generator
        network = PyramidClassifier(Backbone(backbone_name), len(dataset.classes) + 1)
        network.backbone.requires_grad_(True)
        optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
        steps = epochs * -(-len(images) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
        for epoch in track(range(epochs), "pre-training (epochs)"):
            network.train()
            size, correct = sizes[epoch % len(sizes)], 0
            for batch in torch.randperm(len(images)).split(BATCH):
                x = _augmented(images[batch], size)
                scores = network(x)
                loss = F.cross_entropy(scores, labels[batch], label_smoothing=0.1)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                correct += int((scores.argmax(1) == labels[batch]).sum())
            logger.debug("epoch %d: size %d, accuracy %.3f", epoch + 1, size, correct / len(images))
    logger.info("pre-training: %d crops, accuracy of the last epoch %.3f", len(images), correct / len(images))
    network.eval().requires_grad_(False)
    return network.backbone


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write the weights under the names that ``backbone.weights=FILE`` expects."""
    prefix = BACKBONES[backbone.name].prefix
    state = {prefix + name: t.contiguous() for name, t in backbone.layers.state_dict().items()}
    write_whole(path, save(state))


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
