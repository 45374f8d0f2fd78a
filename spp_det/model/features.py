"""One image's features: its conv5 map at every scale, and the vector of any window (P sections 2, 4.1).

The whole image passes the network once a scale, however many windows there are; a window is then a
rectangle of cells of one of those maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints
from spp_det.config.settings import Normalize
from spp_det.errors import UserError
from spp_det.images import RGB, resize_shorter_side
from spp_det.model.backbone import Backbone
from spp_det.model.model_file import Settings
from spp_det.model.projection import closest_scale, project
from spp_det.model.pyramid import Mode, distinct_rectangles, num_bins, pool_windows, score_windows
from spp_det.model.svm import LinearSVMs
from spp_det.runtime.threads import on_all_cores

T = TypeVar("T")

CHUNK_BYTES = 6 * 2**20  # of vectors made and used at a time by one core: they stay in its cache
GPU_CHUNK_BYTES = 2**30
FC_CHUNK = 512  # vectors that pass fc layers together: each time, all the weights are read
BATCH_PIXELS = 2 * 2**20  # of images that pass the network together: VGG-16's first maps are then 1 GiB


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
class WindowVectors:
    """The vectors of an image's windows, made when they are asked for: all of them at once rarely are.

    Attributes:
        make: the vectors ``[n, D]`` of rows ``[n]``.
        of: int64 ``[N]``: the row of each window.
        chunk: rows that `each` makes at a time.
        device: where the vectors are made.
        products: all of them times weights ``[K, D]`` plus biases ``[K]``, ``[M, K]``, where that is had
            without making them.
    """

    make: Callable[[Ints], Tensor]
    of: Ints
    chunk: int
    device: torch.device
    products: Callable[[Tensor, Tensor], Tensor] | None = None

    def __len__(self) -> int:
        """M, the number of distinct vectors: windows with the same cells share one."""
        return int(self.of.max()) + 1 if len(self.of) else 0

    def of_windows(self, windows: Ints) -> Tensor:
        """The vectors ``[n, D]`` of windows ``[n]``, a copy for each."""
        return self.make(self.of[windows])

    def through(self, layers: Callable[[Tensor], Tensor] | None) -> WindowVectors:
        """What layers ``[n, D] -> [n, D']`` make of the vectors, when asked for; None changes nothing."""
        if layers is None:
            return self
        make, then = self.make, layers
        chunk = max(self.chunk, FC_CHUNK)
        return replace(self, make=lambda rows: then(make(rows)), chunk=chunk, products=None)

    def scores(self, scorer: Callable[[Tensor], Tensor]) -> Tensor:
        """What is said of all vectors, ``[M, D] -> [M, K]``: SVMs take the short way if there is one."""
        if self.products is None or not isinstance(scorer, LinearSVMs):
            return self.each(scorer)
        return self.products(scorer.weight, scorer.bias)

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``function`` of all vectors, ``[M, D] -> [M, ...]``, which must treat every vector by itself."""
        return torch.cat(self.in_chunks(np.arange(len(self)), lambda vectors, _: function(vectors)))

    def in_chunks(self, rows: Ints, function: Callable[[Tensor, Ints], T]) -> list[T]:
        """``function(vectors [c, D], which [c])`` of rows ``[n]``, a cacheful at a time on all cores.

        ``which`` says of which of the n the vectors are. No rows are one empty chunk.
        """
        places = np.arange(len(rows))
        chunks = [places[start : start + self.chunk] for start in range(0, max(1, len(rows)), self.chunk)]

        def one(chunk: Ints) -> T:
            with torch.inference_mode():  # a setting of each thread
                return function(self.make(rows[chunk]), chunk)

        return on_all_cores(one, chunks) if self.device.type == "cpu" else [one(chunk) for chunk in chunks]


def chunk_size(dimension: int, device: torch.device) -> int:
    """How many vectors of that length to make and use at a time."""
    most = CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
    return max(1, most // (4 * dimension))


def images_at_once(device: torch.device) -> int:
    """How many images to ask a network for maps of at a time: on a CPU each core takes one by itself."""
    return 1 if device.type == "cpu" else 8


def batches(sizes: Sequence[tuple[int, ...]], most_pixels: int = BATCH_PIXELS) -> list[list[int]]:
    """Which images ``[n]`` pass the network together, by their sizes (height, width): those of one size, as
    many as have so many pixels, or one.

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


class WindowFeatures(Protocol):
    """What describes windows: SPP-net's way, below, or R-CNN's, in `spp_det.model.rcnn`.

    Attributes:
        backbone: the network.
        scales: shorter sides in pixels of what passes the network, one for each map of an image.
        levels: of the pyramid, in the order of the vector's bins.
        dimension: D, the length of a vector.
        keys: of each map, what it depends on beside the network; part of its key in the cache.
    """

    backbone: Backbone
    scales: tuple[int, ...]
    levels: tuple[int, ...]
    dimension: int
    keys: tuple[tuple[object, ...], ...]

    def maps_at(self, images: Sequence[RGB], index: int) -> list[ConvMap]:
        """One of the maps that the windows of an image share, of each of several: RGB uint8 ``[H, W, 3]``."""

    def maps(self, image: RGB) -> list[ConvMap]:
        """All of them, of one image."""

    def vectors(self, maps: Sequence[ConvMap], windows: Boxes, scale_of: Ints | None = None) -> WindowVectors:
        """The vectors of ``[N, 4]`` windows in pixels of the image.

        ``scale_of [N]`` says from which of the maps to take each; None leaves the choice to the method.
        """


def maps_of_each(features: WindowFeatures, images: Sequence[RGB]) -> list[tuple[ConvMap, ...]]:
    """All maps of each of several images, RGB uint8 ``[H, W, 3]``."""
    scales = [features.maps_at(images, index) for index in range(len(features.scales))]
    return list(zip(*scales, strict=True))


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
        ``sqrt(bins * C)``. Raises UserError where the map has negative cells, which have no root.
        """
        if normalize == "hellinger" and not backbone.non_negative:
            raise UserError(
                "pyramid.normalize: hellinger takes square roots, and the map of "
                f"{backbone.name} is negative in places; say none, or take a backbone that ends in a ReLU"
            )
        self.backbone = backbone
        self.scales = tuple(scales)
        self.max_side = max_side
        self.levels = tuple(levels)
        self.mode: Mode = mode
        self.normalize: Normalize = normalize
        self.dimension = num_bins(levels) * backbone.channels
        self.length = self.dimension**0.5 if normalize == "hellinger" else None  # of every vector
        self.keys: tuple[tuple[object, ...], ...] = tuple(("spp", scale, max_side) for scale in self.scales)

    @classmethod
    def of(cls, backbone: Backbone, settings: Settings) -> SPPFeatures:
        """The features that the settings describe, on the backbone's device."""
        sizes, pyramid = settings.backbone, settings.pyramid
        return cls(backbone, sizes.scales, sizes.max_side, pyramid.levels, pyramid.mode, pyramid.normalize)

    @torch.inference_mode()
    def maps_at(self, images: Sequence[RGB], index: int) -> list[ConvMap]:
        """RGB uint8 ``[H, W, 3]`` each to its map at the scale of that index.

        Images that get the same size pass the network together.
        """
        resized = [resize_shorter_side(image, self.scales[index], self.max_side) for image in images]
        cells: dict[int, Tensor] = {}
        for batch in batches([image.shape[:2] for image in resized]):
            pixels = torch.from_numpy(np.stack([resized[i] for i in batch])).to(self.backbone.mean.device)
            cells.update(zip(batch, self.backbone(pixels.permute(0, 3, 1, 2)), strict=True))
        return [
            ConvMap(cells[i], (large.shape[1] / image.shape[1], large.shape[0] / image.shape[0]))
            for i, (large, image) in enumerate(zip(resized, images, strict=True))
        ]

    def maps(self, image: RGB) -> list[ConvMap]:
        """RGB uint8 ``[H, W, 3]`` to one map a scale."""
        return list(maps_of_each(self, [image])[0])

    def locate(
        self, maps: Sequence[ConvMap], windows: Boxes, scale_of: Ints | None = None
    ) -> tuple[Ints, Ints]:
        """The map ``[N]`` that each of ``[N, 4]`` windows is taken from, and its cells there, ``[N, 4]``.

        The arguments are those of `vectors`; rectangles are half-open.
        """
        if scale_of is None:
            factors = [float(np.sqrt(m.enlargement[0] * m.enlargement[1])) for m in maps]
            scale_of = closest_scale(windows, factors)
        rectangles = np.zeros((len(windows), 4), np.int64)
        for index, conv_map in enumerate(maps):
            mine = np.flatnonzero(scale_of == index)
            scaled = windows[mine] * np.array(conv_map.enlargement * 2, np.float32)
            height, width = conv_map.cells.shape[1:]
            rectangles[mine] = project(scaled, self.backbone.geometry, height, width)
        return scale_of, rectangles

    def vectors(self, maps: Sequence[ConvMap], windows: Boxes, scale_of: Ints | None = None) -> WindowVectors:
        """Vectors of ``[N, 4]`` windows in pixels of the image.

        They are float32 ``[M, bins * C]``, one a distinct (scale, rectangle of cells). Each window is
        taken at the scale where its area is closest to 224 x 224 pixels, or from the map ``scale_of [N]``.
        """
        scale_of, rectangle_of = self.locate(maps, windows, scale_of)
        rectangles, row_of = np.zeros((0, 4), np.int64), np.zeros(len(windows), np.int64)
        map_of = np.zeros(0, np.int64)  # of each rectangle
        for index in range(len(maps)):
            mine = np.flatnonzero(scale_of == index)
            distinct, inverse = distinct_rectangles(rectangle_of[mine])
            row_of[mine] = len(rectangles) + inverse
            rectangles = np.concatenate([rectangles, distinct])
            map_of = np.concatenate([map_of, np.full(len(distinct), index)])
        cells = [conv_map.cells.float() for conv_map in maps]
        if self.normalize == "hellinger":
            cells = [each.sqrt() for each in cells]  # of a few cells, not of every vector

        def make(rows: Ints) -> Tensor:
            used = np.unique(map_of[rows])
            if len(used) == 1:
                return self._pool(cells[used[0]], rectangles[rows])
            pooled = cells[0].new_empty((len(rows), self.dimension))
            for index in used:
                mine = np.flatnonzero(map_of[rows] == index)
                pooled[torch.from_numpy(mine)] = self._pool(cells[index], rectangles[rows[mine]])
            return pooled

        def products(weight: Tensor, bias: Tensor) -> Tensor:
            by_map = [
                score_windows(
                    own, rectangles[map_of == index], weight, bias, self.levels, self.mode, self.length
                )
                for index, own in enumerate(cells)
            ]
            return torch.cat(by_map)

        device = cells[0].device
        on_cpu = device.type == "cpu"
        return WindowVectors(
            make, row_of, chunk_size(self.dimension, device), device, products if on_cpu else None
        )

    def _pool(self, cells: Tensor, rectangles: Ints) -> Tensor:
        """``[C, h, w], [n, 4] -> [n, D]``."""
        vectors = pool_windows(cells, rectangles, self.levels, self.mode).flatten(1)
        if self.length is not None:
            length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            vectors *= self.length / length.clamp(min=1e-12)
        return vectors
