"""One image's features: its conv5 map at every scale, and the vector of any window (P sections 2, 4.1).

The whole image passes the network once a scale, however many windows there are. A window is then a rectangle
of cells of one of the maps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints
from spp_det.config.network import BackboneSettings, Pyramid
from spp_det.errors import UserError
from spp_det.images import RGB, resize_shorter_side
from spp_det.model.backbone import Backbone
from spp_det.model.projection import closest_scale, distinct_rectangles, project
from spp_det.model.pyramid import num_bins, pool_windows, score_windows
from spp_det.model.vectors import WindowVectors, chunk_size
from spp_det.runtime.devices import uploaded
from spp_det.runtime.threads import on_all_cores

BATCH_PIXELS = 2 * 2**20  # of all images in a batch: VGG-16's first maps then take 1 GiB in float32


@dataclass(frozen=True, eq=False)
class ConvMap:
    """The conv5 map of an image at one scale.

    Attributes:
        cells: ``[C, h, w]``, channels-last in memory.
        enlargement: ``(x, y)``: pixels of the resized image for each pixel of the original.
    """

    cells: Tensor
    enlargement: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ProjectedWindows:
    """Where N windows of an image lie on its maps: M distinct rectangles of cells.

    Attributes:
        rectangles: int64 ``[M, 4]``, half-open, in cells of their map; for R-CNN, whose windows lie on no
            map, float32 in pixels of the image.
        map_of: int64 ``[M]``, the number of the map that each rectangle lies on.
        of: int64 ``[N]``, the rectangle of each window.
    """

    rectangles: npt.NDArray[Any]
    map_of: Ints
    of: Ints


class WindowFeatures(ABC):
    """How windows become vectors: `SPPFeatures` below, or R-CNN's way in `spp_det.model.rcnn`.

    Attributes:
        backbone: the network.
        scales: the shorter side in pixels of what passes the network, for each map of an image.
        levels: of the pyramid, in the order of the vector's bins.
        dimension: D, how many numbers a vector has.
        length: the Euclidean length of every vector that is not zero; None where they differ.
        keys: for each map, the settings that it depends on beside the network; part of its key in the cache.
    """

    backbone: Backbone
    scales: tuple[int, ...]
    levels: tuple[int, ...]
    dimension: int
    length: float | None = None
    keys: tuple[tuple[object, ...], ...]

    @abstractmethod
    def maps_at(self, images: Sequence[RGB], index: int) -> list[ConvMap]:
        """The map of each image, RGB uint8 ``[H, W, 3]``, at the scale with that index."""

    @abstractmethod
    def project(
        self, maps: Sequence[ConvMap], windows: Boxes, scale_of: Ints | None = None
    ) -> ProjectedWindows:
        """Windows ``[N, 4]`` in pixels of the image, on the maps of the image.

        ``scale_of [N]`` says which map each window is taken from; None leaves the choice to the method.
        """

    @abstractmethod
    def pool(self, maps: Sequence[ConvMap], windows: ProjectedWindows) -> WindowVectors:
        """The vectors float32 ``[M, D]`` of projected windows, one for each distinct rectangle."""

    def vectors(self, maps: Sequence[ConvMap], windows: Boxes, scale_of: Ints | None = None) -> WindowVectors:
        """`project`, then `pool`."""
        return self.pool(maps, self.project(maps, windows, scale_of))

    def maps_of(self, images: Sequence[RGB]) -> list[tuple[ConvMap, ...]]:
        """All maps of each image, RGB uint8 ``[H, W, 3]``: one a scale."""
        return list(zip(*(self.maps_at(images, index) for index in range(len(self.scales))), strict=True))

    def maps(self, image: RGB) -> tuple[ConvMap, ...]:
        """All maps of one image."""
        return self.maps_of([image])[0]


class SPPFeatures(WindowFeatures):
    """Window features by spatial pyramid pooling."""

    def __init__(self, backbone: Backbone, sizes: BackboneSettings, pyramid: Pyramid) -> None:
        """The features that the settings describe, on the backbone's device.

        ``normalize=hellinger`` pools the square roots of the cells and scales each vector to length
        ``sqrt(bins * C)``. Raises UserError where cells of the map may be negative: they have no root.
        ``signed_root`` does the same with ``sign(x) sqrt(|x|)``, for any map.
        """
        if pyramid.normalize == "hellinger" and not backbone.non_negative:
            raise UserError(
                f"pyramid.normalize: hellinger takes square roots, and the map of {backbone.name} is "
                "negative in places; say signed_root or none, or take a backbone that ends in a ReLU"
            )
        self.backbone = backbone
        self.scales, self.max_side = sizes.scales, sizes.max_side
        self.levels, self.mode, self.normalize = pyramid.levels, pyramid.mode, pyramid.normalize
        self.dimension = num_bins(self.levels) * backbone.channels
        self.length = self.dimension**0.5 if self.normalize != "none" else None  # of every vector
        self.keys = tuple(("spp", scale, self.max_side) for scale in self.scales)

    @torch.inference_mode()
    def maps_at(self, images: Sequence[RGB], index: int) -> list[ConvMap]:
        """See `WindowFeatures`; images that get the same size pass the network together."""

        def resize(image: RGB) -> RGB:
            return resize_shorter_side(image, self.scales[index], self.max_side)

        resized = on_all_cores(resize, images) if len(images) > 1 else [resize(image) for image in images]
        device = self.backbone.mean.device
        most = batch_pixels(device, self.backbone.precision)
        cells: dict[int, Tensor] = {}
        for batch in batches([image.shape[:2] for image in resized], most):
            pixels = uploaded(np.stack([resized[i] for i in batch]), device)
            cells.update(zip(batch, self.backbone(pixels.permute(0, 3, 1, 2)), strict=True))
        return [
            ConvMap(cells[i], (large.shape[1] / image.shape[1], large.shape[0] / image.shape[0]))
            for i, (large, image) in enumerate(zip(resized, images, strict=True))
        ]

    def project(
        self, maps: Sequence[ConvMap], windows: Boxes, scale_of: Ints | None = None
    ) -> ProjectedWindows:
        """See `WindowFeatures`; at a window's own scale its area is closest to 224 x 224 pixels."""
        if scale_of is None:
            factors = [float(np.sqrt(m.enlargement[0] * m.enlargement[1])) for m in maps]
            scale_of = closest_scale(windows, factors)
        rectangles, map_of = [np.zeros((0, 4), np.int64)], []
        of, count = np.zeros(len(windows), np.int64), 0
        for index, conv_map in enumerate(maps):
            mine = np.flatnonzero(scale_of == index)
            scaled = windows[mine] * np.array(conv_map.enlargement * 2, np.float32)
            height, width = conv_map.cells.shape[1:]
            distinct, which = distinct_rectangles(project(scaled, self.backbone.geometry, height, width))
            of[mine] = count + which
            count += len(distinct)
            rectangles.append(distinct)
            map_of.append(np.full(len(distinct), index))
        return ProjectedWindows(np.concatenate(rectangles), np.concatenate(map_of), of)

    def pool(self, maps: Sequence[ConvMap], windows: ProjectedWindows) -> WindowVectors:
        """See `WindowFeatures`; D is ``bins * C``."""
        cells = [self.normalised(conv_map.cells) for conv_map in maps]
        device = cells[0].device
        chunk = chunk_size(self.dimension, device)
        return PooledVectors(windows.of, chunk, device, self, cells, windows.rectangles, windows.map_of)

    def normalised(self, cells: Tensor) -> Tensor:
        """Cells of maps, of any shape, as they are pooled: float32, their roots where the pyramid says so.

        Cells are fewer than the numbers of all vectors, of which the roots would be the same.
        """
        cells = cells.float()
        if self.normalize == "hellinger":
            return roots_of(cells)
        return torch.copysign(roots_of(cells.abs()), cells) if self.normalize == "signed_root" else cells

    def to_length(self, vectors: Tensor) -> Tensor:
        """Pooled vectors ``[n, D]``, scaled in place to their common length where the pyramid says so."""
        if self.length is not None:
            norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            vectors *= self.length / norms.clamp(min=1e-12)
        return vectors


def roots_of(cells: Tensor) -> Tensor:
    """Square roots of numbers of any shape.

    On a CPU by numpy: for a map of SqueezeNet at 480 it takes 0.2 ms of an Intel's core, and torch takes 4.
    """
    return torch.from_numpy(np.sqrt(cells.numpy())) if cells.device.type == "cpu" else cells.sqrt()


@dataclass(frozen=True, eq=False)
class PooledVectors(WindowVectors):
    """Pooled rectangles ``[M, 4]`` of cells, each from the map with the number ``map_of [M]``."""

    features: SPPFeatures
    cells: Sequence[Tensor]
    rectangles: Ints
    map_of: Ints

    def make(self, rows: Ints) -> Tensor:
        used = np.unique(self.map_of[rows])
        if len(used) == 1:
            return self._pool(used[0], rows)
        vectors = self.cells[0].new_empty((len(rows), self.features.dimension))
        for index in used:
            mine = np.flatnonzero(self.map_of[rows] == index)
            vectors[torch.from_numpy(mine)] = self._pool(index, rows[mine])
        return vectors

    def linear(self, weight: Tensor, bias: Tensor) -> Tensor:
        """On a CPU without making the vectors: see `score_windows`."""
        if self.device.type != "cpu":
            return super().linear(weight, bias)
        pyramid = self.features.levels, self.features.mode, self.features.length
        by_map = (self.rectangles[self.map_of == index] for index in range(len(self.cells)))
        pairs = zip(self.cells, by_map, strict=True)  # the rectangles are in the order of their maps
        return torch.cat([score_windows(cells, own, weight, bias, *pyramid) for cells, own in pairs])

    def _pool(self, index: int, rows: Ints) -> Tensor:
        """The vectors ``[n, D]`` of rectangles of one map."""
        levels, mode = self.features.levels, self.features.mode
        vectors = pool_windows(self.cells[index], self.rectangles[rows], levels, mode)
        return self.features.to_length(vectors.flatten(1))


def images_at_once(device: torch.device) -> int:
    """How many images to pass to `WindowFeatures.maps_of` at a time: on a CPU each core takes its own."""
    return 1 if device.type == "cpu" else 8


def batch_pixels(device: torch.device, precision: torch.dtype) -> int:
    """How many pixels pass the network together, at least one image.

    On CUDA an image is alone in float32: there cuDNN computes VGG-16's convolutions without TF32 13 times as
    fast for one image as for each of three or more, and little is gained with other networks.
    """
    return 0 if device.type == "cuda" and precision == torch.float32 else BATCH_PIXELS


def batches(sizes: Sequence[tuple[int, ...]], most_pixels: int = BATCH_PIXELS) -> list[list[int]]:
    """The batches in which images pass the network: the images' numbers, by their sizes (height, width).

    The images of a batch have one size, and together at most ``most_pixels``; a larger image is alone.

    >>> batches([(480, 640), (640, 480), (480, 640)])
    [[0, 2], [1]]
    """
    of_size: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(sizes):
        of_size.setdefault(size, []).append(index)
    parts = []
    for (height, width), same in of_size.items():
        most = max(1, most_pixels // (height * width))
        parts += [same[start : start + most] for start in range(0, len(same), most)]
    return parts
