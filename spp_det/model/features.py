"""One image's features: its conv5 map at every scale, and the vector of any window (P sections 2, 4.1).

The whole image passes the network once a scale, however many windows there are; a window is then a
rectangle of cells of one of those maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints
from spp_det.config import Normalize
from spp_det.images import RGB, resize_shorter_side
from spp_det.model.backbone import Backbone
from spp_det.model.model_file import Settings
from spp_det.model.projection import closest_scale, project
from spp_det.model.pyramid import Mode, distinct_rectangles, num_bins, pool_windows


@dataclass(frozen=True, eq=False)
class ConvMap:
    """The conv5 map of an image at one scale.

    Attributes:
        cells: ``[C, h, w]``, channels-last in memory.
        enlargement: ``(x, y)``: pixels of the resized image for each pixel of the original.
    """

    cells: Tensor
    enlargement: tuple[float, float]


class WindowFeatures(Protocol):
    """What describes windows: SPP-net's way, below, or R-CNN's, in `spp_det.model.rcnn`.

    Attributes:
        backbone: the network.
        dimension: D, the length of a vector.
        key: what the maps depend on beside the network; part of their key in the cache.
    """

    backbone: Backbone
    dimension: int
    key: tuple[object, ...]

    def maps(self, image: RGB) -> list[ConvMap]:
        """What the windows of an image share, computed once: RGB uint8 ``[H, W, 3]``."""

    def pool(self, maps: Sequence[ConvMap], windows: Boxes) -> tuple[Tensor, Ints]:
        """Vectors ``[M, D]`` of ``[N, 4]`` windows in pixels of the image, and which each has, ``[N]``."""


class SPPFeatures:
    """Window features by spatial pyramid pooling."""

    def __init__(
        self,
        backbone: Backbone,
        scales: Sequence[int],
        max_side: int,
        levels: Sequence[int],
        mode: Mode,
        normalize: Normalize = "none",
    ) -> None:
        """``scales`` are shorter sides in pixels; ``levels`` and ``mode`` as in `pool_windows`.

        ``normalize="hellinger"`` pools the square roots of the cells and scales each vector to length
        ``sqrt(bins * C)``; the map must then be a ReLU's.
        """
        self.backbone = backbone
        self.scales = tuple(scales)
        self.max_side = max_side
        self.levels = tuple(levels)
        self.mode: Mode = mode
        self.normalize: Normalize = normalize
        self.dimension = num_bins(levels) * backbone.channels
        self.key: tuple[object, ...] = ("spp", self.scales, max_side)

    @classmethod
    def of(cls, backbone: Backbone, settings: Settings) -> SPPFeatures:
        """The features that the settings describe, on the backbone's device."""
        sizes, pyramid = settings.backbone, settings.pyramid
        return cls(backbone, sizes.scales, sizes.max_side, pyramid.levels, pyramid.mode, pyramid.normalize)

    @torch.inference_mode()
    def maps(self, image: RGB) -> list[ConvMap]:
        """RGB uint8 ``[H, W, 3]`` to one map a scale."""
        height, width = image.shape[:2]
        device = self.backbone.mean.device
        maps = []
        for scale in self.scales:
            resized = resize_shorter_side(image, scale, self.max_side)
            pixels = torch.from_numpy(resized).to(device).permute(2, 0, 1)[None]  # [1, 3, H', W']
            enlargement = resized.shape[1] / width, resized.shape[0] / height
            maps.append(ConvMap(self.backbone(pixels)[0], enlargement))
        return maps

    def pool(self, maps: Sequence[ConvMap], windows: Boxes) -> tuple[Tensor, Ints]:
        """Vectors of ``[N, 4]`` windows in pixels of the image.

        Returns float32 ``[M, bins * C]``, one a distinct (scale, rectangle of cells), and int64 ``[N]``: the
        vector of each window. Each window is taken at the scale where its area is closest to
        224 x 224 pixels.
        """
        factors = [float(np.sqrt(m.enlargement[0] * m.enlargement[1])) for m in maps]
        scale_of = closest_scale(windows, factors)
        vector_of = np.zeros(len(windows), np.int64)
        vectors: list[Tensor] = []
        total = 0
        for index, conv_map in enumerate(maps):
            mine = np.flatnonzero(scale_of == index)
            scaled = windows[mine] * np.array(conv_map.enlargement * 2, np.float32)
            height, width = conv_map.cells.shape[1:]
            rectangles = project(scaled, self.backbone.geometry, height, width)
            distinct, inverse = distinct_rectangles(rectangles)
            cells = conv_map.cells.float()
            if self.normalize == "hellinger":
                cells = cells.sqrt()  # of a few cells, not of every vector
            vectors.append(pool_windows(cells, distinct, self.levels, self.mode).flatten(1))
            vector_of[mine] = total + inverse
            total += len(distinct)
        pooled = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
        if self.normalize == "hellinger":
            length = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
            pooled *= self.dimension**0.5 / length.clamp(min=1e-12)
        return pooled, vector_of
