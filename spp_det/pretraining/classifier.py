"""The classification network: conv5, the pyramid, fc layers, class scores (P sections 2.3, 3.1).

The pyramid makes the vector's length independent of the image's size, so the same weights train and
test on images of any size, whole or window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor, nn

from spp_det.boxes import Boxes, as_boxes
from spp_det.config.values import PoolMode
from spp_det.images import RGB, resize_shorter_side
from spp_det.model.backbone import Backbone
from spp_det.model.projection import project
from spp_det.model.pyramid import CLASSIFICATION_LEVELS, SpatialPyramidPooling, pool_windows

MARGIN = 256 / 224  # the shorter side of an image, divided by the side of a crop or view (P section 3.1)


class PyramidClassifier(nn.Module):
    """conv5 -> spatial pyramid pooling -> fc layers -> class scores; images of any size.

    ``uint8 [B, 3, H, W] -> [B, K]``.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        widths: Sequence[int] = (4096, 4096),
        dropout: Sequence[float] = (0.0, 0.5, 0.5),
        levels: Sequence[int] = CLASSIFICATION_LEVELS,
        mode: PoolMode = "max",
    ) -> None:
        """Put fc layers with random weights, by torch's own generator, on the backbone; all weights learn.

        Args:
            classes: K.
            widths: outputs of each fc layer; the layer of the classes comes after them.
            dropout: the part of its inputs that each layer sets to zero, the layer of the classes included.
            levels: of the pyramid.
            mode: of the pyramid.
        """
        super().__init__()
        self.backbone = backbone.requires_grad_(True)
        self.pool = SpatialPyramidPooling(levels, mode)
        sizes = (self.pool.out_features(backbone.channels), *widths, classes)
        layers: list[nn.Module] = []
        for (inputs, outputs), part in zip(pairwise(sizes), dropout, strict=True):
            layers += [nn.Dropout(part), nn.Linear(inputs, outputs), nn.ReLU()]
        self.fc = nn.Sequential(*layers[:-1])

    @property
    def linear(self) -> list[nn.Linear]:
        """The fc layers in their order, the layer of the classes last."""
        return [layer for layer in self.fc if isinstance(layer, nn.Linear)]

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.pool(self.backbone(images))
        rounds = pooled.is_cuda and self.backbone.precision != torch.float32
        with torch.autocast(pooled.device.type, torch.bfloat16, enabled=rounds):
            scores: Tensor = self.fc(pooled)
        return scores.float()

    @torch.inference_mode()
    def full_image(self, image: RGB, size: int, max_side: int) -> Tensor:
        """Probabilities ``[K]`` of the whole image, not of a crop (P section 3.1.4).

        RGB uint8 ``[H, W, 3]``; its shorter side becomes ``size`` pixels, the longer one at most
        ``max_side``. The network must be in evaluation mode.
        """
        resized = resize_shorter_side(image, size, max_side)
        probabilities: Tensor = self(self._pixels(resized)).softmax(1)[0]
        return probabilities

    @torch.inference_mode()
    def multi_view(self, image: RGB, size: int, max_side: int) -> Tensor:
        """Mean probabilities ``[K]`` of 18 views, which cost two convolutions (P section 3.1.5).

        The shorter side becomes 256/224 times ``size``. Nine windows of ``size x size`` pixels, in the
        middle, the corners and at the middles of the sides, are pooled from the map of that image, and
        nine from the map of its mirror image. The arguments are those of `full_image`.
        """
        resized = resize_shorter_side(image, round(size * MARGIN), max_side)
        height, width = resized.shape[:2]
        pixels = self._pixels(resized)
        probabilities = []
        for conv_map in self.backbone(torch.cat([pixels, pixels.flip(3)])):
            rectangles = project(views(width, height, size), self.backbone.geometry, *conv_map.shape[1:])
            vectors = pool_windows(conv_map, rectangles, self.pool.levels, self.pool.mode)  # [9, bins, C]
            probabilities.append(self.fc(self._as_pooled(vectors)).softmax(1))
        return torch.cat(probabilities).mean(0)

    def _pixels(self, image: RGB) -> Tensor:
        return torch.from_numpy(image).to(self.backbone.mean.device).permute(2, 0, 1)[None]

    def _as_pooled(self, vectors: Tensor) -> Tensor:
        """``[N, bins, C]`` of `pool_windows` as `SpatialPyramidPooling` orders it, ``[N, C * bins]``."""
        by_level = vectors.split([n * n for n in self.pool.levels], dim=1)
        return torch.cat([level.transpose(1, 2).flatten(1) for level in by_level], dim=1)


def views(width: int, height: int, size: int) -> Boxes:
    """The nine windows of `PyramidClassifier.multi_view` in an image, float32 ``[9, 4]``, pixels.

    A side of the image that is shorter than ``size`` is taken whole.
    """
    across, down = min(size, width), min(size, height)
    corners = product(np.linspace(0, height - down, 3), np.linspace(0, width - across, 3))
    return as_boxes([(x, y, x + across, y + down) for y, x in corners])


def rank_of(scores: Tensor, label: int) -> int:
    """How many other classes score no less than ``label``: 0 is top-1. ``scores`` is ``[K]``.

    Equal scores and scores that are not numbers count as higher: a constant must not look right.
    """
    return int((~(scores < scores[label])).sum()) - 1
