"""The training images: each with its proposals and conv5 maps, computed once and kept in the cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints
from spp_det.cache import Arrays, Cache, digest
from spp_det.config import Proposals
from spp_det.data.bounds import fit_record
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, read_image
from spp_det.model.features import ConvMap, WindowFeatures, WindowVectors
from spp_det.model.head import FCHead
from spp_det.progress import track
from spp_det.proposals.source import WindowSource
from spp_det.threads import ahead
from spp_det.training.mining import Example
from spp_det.training.windows import LabelledWindows

logger = logging.getLogger(__name__)

MAPS_VERSION = 2  # of the maps computed from given pixels, weights and scales; part of their cache key


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A readable image: its annotation fitted to its true size, its windows and the key of its bytes."""

    record: Record
    windows: LabelledWindows
    key: str


class TrainingImages:
    """Annotated images with their windows and vectors, at the price of reading cached maps."""

    def __init__(
        self,
        dataset: Dataset,
        features: WindowFeatures,
        search: Proposals,
        cache: Cache,
        workers: int,
        strict: bool = False,
    ) -> None:
        """Compute, or find in the cache, the proposals and the maps of every image.

        An image that cannot be read is left out with a warning, or a UserError where ``strict``.
        """
        self.features = features
        self.cache = cache
        self.classes = len(dataset.classes)
        self.skipped: list[str] = []
        prepared = []
        source = WindowSource(search)
        source.check((record.path, record.image_id) for record in dataset.records)
        results = ahead(lambda record: self._prepare(record, source), dataset.records, workers)
        for record, result in zip(dataset.records, track(results, "proposals", len(dataset)), strict=True):
            if isinstance(result, UnreadableImageError):
                if strict:
                    raise result
                logger.warning("skipped: %s", result)
                self.skipped.append(record.image_id)
            else:
                prepared.append(result)
        if not prepared:
            raise UserError("there is no readable training image")
        self.images: list[_Prepared] = prepared
        self._network = (features.backbone.name, features.backbone.digest())
        # A network on the CPU takes one image a core; a GPU takes one after the other.
        networks = workers if features.backbone.mean.device.type == "cpu" else 1
        title = f"conv5 maps ({features.backbone.name})"
        made = ahead(self._have_maps, range(len(self)), networks, waiting=networks)
        for _ in track(made, title, len(self)):
            pass

    def __len__(self) -> int:
        """The number of readable images."""
        return len(self.images)

    def _prepare(self, record: Record, source: WindowSource) -> _Prepared | UnreadableImageError:
        """Windows of one image. Runs on several threads."""
        try:
            found = source.windows_of_file(record.path, record.image_id, self.cache)
        except UnreadableImageError as error:
            return error
        record = fit_record(record, *found.size)
        return _Prepared(record, LabelledWindows.of(record, found.boxes), found.key)

    def _have_maps(self, index: int) -> None:
        """Compute the maps of one image that are not in the cache. The others are not read before they are
        used: they may be many gigabytes, and a damaged one is then computed again."""
        if not all(self.cache.has("maps", key) for key in self._map_keys(index)):
            self._maps(index)

    def _map_keys(self, index: int) -> list[str]:
        image = self.images[index]
        return [digest(image.key, MAPS_VERSION, key, self._network) for key in self.features.keys]

    def _maps(self, index: int) -> list[ConvMap]:
        """The maps of one image, each by itself in the cache: a run with one more scale adds that alone."""
        image = self.images[index]
        pixels = cache(lambda: read_image(image.record.path))  # once, if any map is missing

        def compute(number: int) -> Arrays:
            conv_map = self.features.map(pixels(), number)
            cells = conv_map.cells.permute(1, 2, 0).half()  # [h, w, C]
            if not cells.isfinite().all():
                raise UserError(
                    f"backbone.weights: conv5 of {image.record.path} does not fit into half precision"
                )
            return {"cells": cells.cpu().numpy(), "enlargement": np.array(conv_map.enlargement)}

        maps = []
        for number, key in enumerate(self._map_keys(index)):
            found = self.cache.load_or_make("maps", key, partial(compute, number))
            cells = torch.from_numpy(found["cells"]).to(self.features.backbone.mean.device).permute(2, 0, 1)
            maps.append(ConvMap(cells, tuple(found["enlargement"].tolist())))
        return maps

    def windows(self) -> list[LabelledWindows]:
        """Of every image."""
        return [image.windows for image in self.images]

    def vectors(self, index: int) -> WindowVectors:
        """The pool5 vectors of one image's windows."""
        return self.features.vectors(self._maps(index), self.images[index].windows.boxes)

    def vectors_at(self, index: int, windows: Ints, scale_of: Ints | None = None) -> Tensor:
        """The pool5 vectors ``[n, D]`` of windows ``[n]`` of one image, each from a given map ``[n]``."""
        vectors = self.features.vectors(
            self._maps(index), self.images[index].windows.boxes[windows], scale_of
        )
        return vectors.make(vectors.of)

    def key(self) -> str:
        """Of everything that the maps, the windows and their overlaps depend on."""
        parts: list[object] = [MAPS_VERSION, *self.features.keys, *self._network]
        for image in self.images:
            record = image.windows.record
            parts.append(image.key)
            arrays = (image.windows.boxes, record.labels, record.difficult, record.crowd)
            parts += [array.tobytes() for array in arrays]
        return digest(*parts)

    def stream(
        self, order: Sequence[int] | Ints, title: str, head: FCHead | None = None, done: int = 0
    ) -> Iterator[Example]:
        """One pass over the images, with a progress bar; the next one is read while the last is used.

        The first ``done`` of them are left out.
        """

        def example(index: int) -> Example:
            return Example(self.images[index].windows, self.vectors(index).through(head))

        rest = [int(index) for index in order[done:]]
        yield from track(ahead(example, rest, workers=1, waiting=1), title, len(order), done=done)

    def positives(
        self, min_iou: float, head: FCHead | None = None
    ) -> Iterator[tuple[Tensor, npt.NDArray[np.int8]]]:
        """Distinct vectors ``[P, D]`` of the SVMs' positives, and their signs ``[P, K]``, image by image.

        A sign counts the windows of its class that share the vector: near an object they are many. A
        positive of one class says nothing to the others here: they meet it as a window, when mined.
        """
        for index, image in enumerate(self.images):
            windows, labels = image.windows.positives(min_iou)
            if len(windows):
                vectors = self.vectors(index)
                rows, vector_of = np.unique(vectors.of[windows], return_inverse=True)
                signs = np.zeros((len(rows), self.classes), np.int64)
                np.add.at(signs, (vector_of, labels), 1)
                yield vectors.through(head).make(rows).cpu(), np.minimum(signs, 127).astype(np.int8)

    def sample(self, index: int, most: int, generator: np.random.Generator) -> Tensor:
        """Vectors ``[n, D]`` of windows drawn from one image, of all where it has no more than ``most``."""
        drawn = generator.permutation(len(self.images[index].windows.boxes))[:most]
        return self.vectors(index).of_windows(drawn)

    def distinct_vectors(self, index: int, boxes: Boxes) -> tuple[Tensor, Ints]:
        """Distinct vectors ``[M, D]`` of any boxes ``[n, 4]`` in one image, and the one of each ``[n]``."""
        vectors = self.features.vectors(self._maps(index), boxes)
        rows = np.arange(len(vectors))
        return vectors.make(rows).cpu(), vectors.of
