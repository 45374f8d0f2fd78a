"""The training images: each with its proposals and conv5 maps, computed once and kept in the cache.

Of several processes each knows the windows of all images, but makes maps and vectors of its own alone, so
that their caches may be one folder or a folder each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints
from spp_det.config.settings import Proposals
from spp_det.data.bounds import fit_record
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.images import RGB, Skipped, UnreadableImageError, read_image, skipped
from spp_det.model.features import ConvMap, WindowFeatures, WindowVectors, images_at_once
from spp_det.model.head import FCHead
from spp_det.proposals.source import WindowSource
from spp_det.runtime import distributed
from spp_det.runtime.cache import Arrays, Cache, digest
from spp_det.runtime.progress import track
from spp_det.runtime.threads import ahead
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


def _unreadable(error: UnreadableImageError) -> Arrays:
    return {"unreadable": np.frombuffer(str(error).encode(errors="surrogateescape"), np.uint8)}


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
        """Compute, or find in the cache, the proposals of every image; the processes share that out.

        An image that cannot be read is left out with a warning, or an UnreadableImageError where ``strict``.
        """
        self.features = features
        self.cache = cache
        self.strict = strict
        self.classes = len(dataset.classes)
        self.workers = workers
        self.skipped: list[Skipped] = []
        self.images: list[_Prepared] = []
        source = WindowSource(search)
        source.check((record.path, record.image_id) for record in dataset.records)
        processes = distributed.world_size()
        own = dataset.records[distributed.rank() :: processes]
        results = distributed.in_order(
            ahead(lambda record: self._find(record, source), own, workers),
            (index % processes for index in range(len(dataset))),
        )
        for record, found in zip(dataset.records, track(results, "proposals", len(dataset)), strict=True):
            if "unreadable" not in found:
                fitted = fit_record(record, *found["size"].tolist())
                windows = LabelledWindows.of(fitted, found["boxes"])
                self.images.append(_Prepared(fitted, windows, found["key"].tobytes().decode()))
                continue
            self._skip(record, found)
        self._check_any()
        self._network = (features.backbone.name, features.backbone.digest())
        self._owner = np.arange(len(self)) % processes

    def __len__(self) -> int:
        """The number of readable images."""
        return len(self.images)

    def _skip(self, record: Record, found: distributed.Arrays) -> None:
        error = UnreadableImageError(found["unreadable"].tobytes().decode(errors="surrogateescape"))
        if self.strict:
            raise error
        logger.warning("skipped: %s", error)
        self.skipped.append(skipped(record.path, error))

    def _check_any(self) -> None:
        if not self.images:
            raise UserError("there is no readable training image")

    def _find(self, record: Record, source: WindowSource) -> Arrays:
        """Windows, size and key of one image, or why it is unreadable. Runs on several threads."""
        try:
            found = source.windows_of_file(record.path, record.image_id, self.cache)
        except UnreadableImageError as error:
            return _unreadable(error)
        key = np.frombuffer(found.key.encode(), np.uint8)
        return {"boxes": found.boxes, "size": np.array(found.size), "key": key}

    def make_maps(self, order: Ints) -> bool:
        """Compute the maps that are not in the cache yet; the processes share that out.

        An image that has vanished since its windows were found is left out, as one that never could be read.
        Whether there was none; after others the images have other indices, and maps are to be made again.

        Args:
            order: int64 ``[len(self)]``, in which mining is to meet the images. The processes own them in
                turn along it, so that all have something to score at any time.
        """
        self._owner = np.empty(len(self), np.int64)
        self._owner[order] = np.arange(len(self)) % distributed.world_size()
        own = self._own(range(len(self)))
        size = images_at_once(self.features.backbone.mean.device)
        groups = [own[start : start + size] for start in range(0, len(own), size)]
        networks = self.workers if size == 1 else 2  # of two threads at a GPU, one reads and writes files
        title = f"conv5 maps ({self.features.backbone.name})"
        made = chain.from_iterable(ahead(self._have_maps, groups, networks, waiting=networks))
        lost = [
            {"index": np.array(index), **_unreadable(error)}
            for index, error in zip(own, track(made, title, len(own)), strict=True)
            if error is not None
        ]
        vanished = {int(each["index"]): each for found in distributed.exchange(lost) for each in found}
        for index in sorted(vanished):
            self._skip(self.images[index].record, vanished[index])
        self.images = [image for index, image in enumerate(self.images) if index not in vanished]
        self._check_any()
        return not vanished

    def owners(self, indices: Iterable[int]) -> list[int]:
        """The rank of the process that makes the vectors of each of some images."""
        return [int(self._owner[index]) for index in indices]

    def _own(self, indices: Iterable[int]) -> list[int]:
        """Those of some images that are this process's."""
        return [index for index in indices if self._owner[index] == distributed.rank()]

    def _have_maps(self, group: Sequence[int]) -> list[UnreadableImageError | None]:
        """Compute the maps of a group of images that are not in the cache, one scale after the other. Those
        that are there are not read before they are used: they may be many gigabytes, and a damaged one is
        then computed again. What is returned is, of each image, why there are none."""
        lacking: dict[int, list[str | None]] = {}  # of each image, the keys of maps that are to be made
        for index in group:
            keys = [None if self.cache.has("maps", key) else key for key in self._map_keys(index)]
            if any(keys):
                lacking[index] = keys
        pixels: dict[int, RGB] = {}
        why: dict[int, UnreadableImageError] = {}
        for index in lacking:
            try:
                pixels[index] = read_image(self.images[index].record.path)
            except UnreadableImageError as error:
                why[index] = error
        for number in range(len(self.features.keys)):
            wanted = {index: key for index in pixels if (key := lacking[index][number]) is not None}
            if not wanted:
                continue
            made = self.features.maps_at([pixels[index] for index in wanted], number)
            for (index, key), conv_map in zip(wanted.items(), made, strict=True):
                self.cache.store("maps", key, self._to_keep(index, conv_map))
        return [why.get(index) for index in group]

    def _map_keys(self, index: int) -> list[str]:
        image, device = self.images[index], self.features.backbone.mean.device.type
        where = () if device == "cpu" else (device,)  # another device rounds otherwise
        return [digest(image.key, MAPS_VERSION, key, self._network, *where) for key in self.features.keys]

    def _maps(self, index: int) -> list[ConvMap]:
        """The maps of one image, each by itself in the cache: a run with one more scale adds that alone."""
        pixels = cache(lambda: read_image(self.images[index].record.path))  # once, if any map is missing

        def compute(number: int) -> Arrays:
            return self._to_keep(index, self.features.maps_at([pixels()], number)[0])

        maps = []
        for number, key in enumerate(self._map_keys(index)):
            found = self.cache.load_or_make("maps", key, partial(compute, number))
            cells = torch.from_numpy(found["cells"]).to(self.features.backbone.mean.device).permute(2, 0, 1)
            maps.append(ConvMap(cells, tuple(found["enlargement"].tolist())))
        return maps

    def _to_keep(self, index: int, conv_map: ConvMap) -> Arrays:
        cells = conv_map.cells.permute(1, 2, 0).half()  # [h, w, C]
        if not cells.isfinite().all():
            path = self.images[index].record.path
            raise UserError(f"backbone.weights: conv5 of {path} does not fit into half precision")
        return {"cells": cells.cpu().numpy(), "enlargement": np.array(conv_map.enlargement)}

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
    ) -> Iterator[Example | int]:
        """One pass over the images, with a progress bar; the next one is read while the last is used.

        The first ``done`` of them are left out. In place of an image of another process comes that one's
        rank.
        """

        def example(index: int) -> Example:
            return Example(self.images[index].windows, self.vectors(index).through(head))

        rest = [int(index) for index in order[done:]]
        own = ahead(example, self._own(rest), workers=1, waiting=1)
        for owner in track(self.owners(rest), title, len(order), done=done):
            yield next(own) if owner == distributed.rank() else owner

    def positives(
        self, min_iou: float, head: FCHead | None = None
    ) -> Iterator[tuple[Tensor, npt.NDArray[np.int8]]]:
        """Distinct vectors float16 ``[P, D]`` of the SVMs' positives and their signs ``[P, K]``, by image.

        A sign counts the windows of its class that share the vector: near an object they are many. A
        positive of one class says nothing to the others here: they meet it as a window, when mined.
        """

        def found(index: int, windows: Ints, labels: Ints) -> Arrays:
            vectors = self.vectors(index)
            rows, vector_of = np.unique(vectors.of[windows], return_inverse=True)
            signs = np.zeros((len(rows), self.classes), np.int64)
            np.add.at(signs, (vector_of, labels), 1)
            made = vectors.through(head).make(rows).half().cpu()
            return {"vectors": made.numpy(), "signs": np.minimum(signs, 127).astype(np.int8)}

        offers = {index: image.windows.positives(min_iou) for index, image in enumerate(self.images)}
        offers = {index: offer for index, offer in offers.items() if len(offer[0])}
        own = (found(index, *offers[index]) for index in self._own(offers))
        arriving = distributed.in_order(own, self.owners(offers))
        for arrays in track(arriving, "positives", len(offers)):
            yield torch.from_numpy(arrays["vectors"]), arrays["signs"]

    def sample(self, index: int, most: int, generator: np.random.Generator) -> Tensor:
        """Vectors ``[n, D]`` of windows drawn from one image, of all where it has no more than ``most``."""
        drawn = generator.permutation(len(self.images[index].windows.boxes))[:most]
        return self.vectors(index).of_windows(drawn)

    def distinct_vectors(self, chosen: Sequence[tuple[int, Boxes]]) -> Iterator[tuple[Tensor, Ints]]:
        """For an image and any boxes ``[n, 4]`` in it each: the distinct vectors float16 ``[M, D]`` of these,
        and which of them each box has ``[n]``."""

        def found(index: int, boxes: Boxes) -> Arrays:
            vectors = self.features.vectors(self._maps(index), boxes)
            made = vectors.make(np.arange(len(vectors))).half().cpu()
            return {"vectors": made.numpy(), "of": vectors.of}

        owners = self.owners(index for index, _ in chosen)
        own = (found(*one) for one, owner in zip(chosen, owners, strict=True) if owner == distributed.rank())
        for arrays in distributed.in_order(own, owners):
            yield torch.from_numpy(arrays["vectors"]), arrays["of"]
