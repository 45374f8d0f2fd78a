"""The training images: each with its proposals and conv5 maps, computed once and kept in the cache.

Several processes share the images. Each process knows the windows of all images, but makes maps and vectors
of its own images alone: the processes may use one cache folder or a folder each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Boxes, Ints, mirrored
from spp_det.config.settings import Proposals
from spp_det.data.bounds import fit_record
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.images import RGB, Skipped, UnreadableImageError, read_image, skipped
from spp_det.model.features import ConvMap, WindowFeatures, images_at_once
from spp_det.model.head import FCHead
from spp_det.model.rcnn import RCNNFeatures
from spp_det.model.vectors import WindowVectors
from spp_det.proposals.source import WindowSource
from spp_det.runtime import sharing
from spp_det.runtime.cache import Arrays, Cache, check_form, digest
from spp_det.runtime.progress import track
from spp_det.runtime.sharing import Shared, owned, shared_map, turns
from spp_det.runtime.threads import S, T, ahead, on_one_core
from spp_det.training.keys import VERSIONS, maps_key
from spp_det.training.mining import Example
from spp_det.training.windows import LabelledWindows, signs_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A readable image: its annotation fitted to its true size, its windows and the key of its bytes."""

    record: Record
    windows: LabelledWindows
    key: str


class TrainingImages:
    """Annotated images with their windows; vectors of windows are pooled from cached maps on demand.

    Attributes:
        images: the readable images, in the order of the data set.
        skipped: the files that were left out, and why.
    """

    def __init__(
        self,
        dataset: Dataset,
        features: WindowFeatures,
        search: Proposals,
        cache: Cache,
        workers: int,
        strict: bool = False,
    ) -> None:
        """Compute, or find in the cache, the proposals of every image; the processes share this work.

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

        def find(record: Record) -> Arrays | UnreadableImageError:
            try:
                found = source.windows_of_file(record.path, record.image_id, self.cache)
            except UnreadableImageError as error:
                return error
            key = np.frombuffer(found.key.encode(), np.uint8)
            return {"boxes": found.boxes, "size": np.array(found.size), "key": key}

        results = shared_map(find, dataset.records, run=partial(ahead, workers=workers))
        for record, found in zip(dataset.records, track(results, "proposals", len(dataset)), strict=True):
            if isinstance(found, UnreadableImageError):
                self._skip(record, found)
                continue
            fitted = fit_record(record, *found["size"].tolist())
            windows = LabelledWindows.of(fitted, found["boxes"])
            self.images.append(_Prepared(fitted, windows, found["key"].tobytes().decode()))
        self._check_any()
        self._network = (features.backbone.name, features.backbone.digest())
        self._owners = np.array(turns(len(self)))

    def __len__(self) -> int:
        """The number of readable images."""
        return len(self.images)

    def _skip(self, record: Record, error: UnreadableImageError) -> None:
        if self.strict:
            raise error
        logger.warning("skipped: %s", error)
        self.skipped.append(skipped(record.path, error))

    def _check_any(self) -> None:
        if not self.images:
            first = self.skipped[0] if self.skipped else None
            where = (
                f"; the first of {len(self.skipped)} is {first['file']}: {first['reason']}" if first else ""
            )
            raise UserError(f"there is no readable training image{where}")

    def make_maps(self, order: Ints, flips: bool = False) -> bool:
        """Compute the maps that the cache lacks, as long as it keeps them; the processes share this work.

        An image that has vanished since its windows were found is left out.
        Returns whether all images were there. If not, the other images have new indices: call this again.

        Args:
            order: int64 ``[len(self)]``, the order in which mining will meet the images. Along it the
                processes own images in turn, so that all can score images at any time.
            flips: the maps of the mirrored images too.
        """
        self._owners = np.empty(len(self), np.int64)
        self._owners[order] = turns(len(self))
        views = self.views(order, flips)
        shared = self.share(views)
        at_once = images_at_once(self.features.backbone.mean.device)
        own = list(shared.own)
        groups = [own[first : first + at_once] for first in range(0, len(own), at_once)]
        networks = self.workers if at_once == 1 else min(self.workers, 4)  # beside a GPU's, files
        title = f"conv5 maps ({self.features.backbone.name})"
        made = chain.from_iterable(ahead(self._make_missing, groups, networks, waiting=networks))
        errors = track(Shared(made, shared.owners).in_order(), title, len(views))
        pairs = zip((views % len(self)).tolist(), errors, strict=True)
        vanished = {index: error for index, error in pairs if error is not None}
        for index in sorted(vanished):
            self._skip(self.images[index].record, vanished[index])
        self.images = [image for index, image in enumerate(self.images) if index not in vanished]
        self._check_any()
        return not vanished

    def on_threads(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """``map(function, items)``: each image is one thread's; a GPU takes one after the other."""
        threads = self.workers if self.features.backbone.mean.device.type == "cpu" else 1
        return ahead(function, items, threads, waiting=threads)

    def share(self, views: Iterable[int]) -> Shared[int]:
        """Images or `views` shared out: each process has those of the images whose maps it makes."""
        every = [int(view) for view in views]
        return sharing.share(every, self._owners[np.array(every, np.int64) % len(self)].tolist())

    def owned(self, images: Ints) -> npt.NDArray[np.bool_]:
        """Bool ``[n]``, of images ``[n]``: whether this process owns each, and makes its vectors."""
        return owned(self._owners[images])

    def _make_missing(self, group: Sequence[int]) -> list[UnreadableImageError | None]:
        """Compute the maps of a group of `views` that are not in the cache, one scale after the other.

        Returns, for each view, the error of an image that could not be read. Maps that the cache has are not
        read here: they may be many gigabytes, and a damaged map is computed again when it is used.
        """
        lacking: dict[int, list[str | None]] = {}  # for each view, the key of every map that is missing
        for view in group:
            keys = [None if self.cache.has("maps", key) else key for key in self._map_keys(view)]
            if any(keys):
                lacking[view] = keys
        pixels: dict[int, RGB] = {}
        why: dict[int, UnreadableImageError] = {}
        for view in lacking:
            try:
                pixels[view] = self._pixels(view)
            except UnreadableImageError as error:
                why[view] = error
        for number in () if self.cache.full("maps") else range(len(self.features.keys)):
            wanted = {view: key for view in pixels if (key := lacking[view][number]) is not None}
            if not wanted:
                continue
            made = self.features.maps_at([pixels[view] for view in wanted], number)
            for (view, key), conv_map in zip(wanted.items(), made, strict=True):
                self.cache.store("maps", key, self._to_keep(view, conv_map))
        return [why.get(view) for view in group]

    def _pixels(self, view: int) -> RGB:
        pixels = read_image(self._of(view).record.path)
        return pixels if view < len(self) else np.ascontiguousarray(pixels[:, ::-1])

    def _map_keys(self, view: int) -> list[str]:
        device = self.features.backbone.mean.device.type
        image = self._of(view).key + ("" if view < len(self) else " mirrored")
        return [maps_key(image, scale, self._network, device) for scale in self.features.keys]

    def maps(self, view: int) -> list[ConvMap]:
        """The maps of an image, or of a mirrored one: see `views`. Each is an artefact of its own, so a run
        with one more scale adds one map.

        A map that the cache lacks, or has damaged, is computed again on one core, to the bits of `make_maps`.
        """
        pixels = cache(lambda: self._pixels(view))  # read once, if any map is missing

        def compute(number: int) -> Arrays:
            return on_one_core(lambda: self._to_keep(view, self.features.maps_at([pixels()], number)[0]))

        maps = []
        for number, key in enumerate(self._map_keys(view)):
            found = self.cache.load_or_make("maps", key, partial(compute, number), self._check_map)
            cells = torch.from_numpy(found["cells"]).to(self.features.backbone.mean.device).permute(2, 0, 1)
            maps.append(ConvMap(cells, tuple(found["enlargement"].tolist())))
        return maps

    def _check_map(self, arrays: Arrays) -> None:
        """Raise ValueError for arrays that `_to_keep` has not made."""
        cells, photo = arrays.get("cells", np.zeros(0)), isinstance(self.features, RCNNFeatures)
        shape = (*cells.shape[:2], 3 if photo else self.features.backbone.channels)
        check_form(arrays, cells=np.broadcast_to(np.float16(0), shape), enlargement=np.zeros(2))
        if not cells.size or arrays["enlargement"].min() <= 0:
            raise ValueError("a map has no cells")

    def _to_keep(self, view: int, conv_map: ConvMap) -> Arrays:
        cells = conv_map.cells.permute(1, 2, 0).half()  # [h, w, C]
        if not cells.isfinite().all():
            path = self._of(view).record.path
            raise UserError(f"backbone.weights: conv5 of {path} does not fit into half precision")
        return {"cells": cells.cpu().numpy(), "enlargement": np.array(conv_map.enlargement)}

    def windows(self) -> list[LabelledWindows]:
        """The labelled windows of every image."""
        return [image.windows for image in self.images]

    def views(self, images: Ints, flips: bool) -> Ints:
        """Images ``[n]`` and, with ``flips``, the mirrored ones after them, which begin at ``len(self)``."""
        return np.concatenate([images, images + len(self)]) if flips else images

    def vectors(self, view: int) -> WindowVectors:
        """The pool5 vectors of the windows of an image, or of a mirrored one: see `views`."""
        image = self._of(view)
        boxes = image.windows.boxes
        if view >= len(self):
            assert image.record.size is not None
            boxes = mirrored(boxes, image.record.size[0])
        return self.features.vectors(self.maps(view), boxes)

    def _of(self, view: int) -> _Prepared:
        return self.images[view % len(self)]

    def vectors_at(self, index: int, windows: Ints, scale_of: Ints | None = None) -> Tensor:
        """The pool5 vectors ``[n, D]`` of windows ``[n]`` of one image, each from a given map ``[n]``."""
        vectors = self.features.vectors(self.maps(index), self.images[index].windows.boxes[windows], scale_of)
        return vectors.of_rows(vectors.of)

    def key(self) -> str:
        """A key of everything that the maps, the windows and their overlaps depend on."""
        parts: list[object] = [VERSIONS["maps"], *self.features.keys, *self._network]
        for image in self.images:
            record = image.windows.record
            parts.append(image.key)
            arrays = (image.windows.boxes, record.labels, record.difficult, record.crowd)
            parts += [array.tobytes() for array in arrays]
        return digest(*parts)

    def stream(self, views: Iterable[int], head: FCHead | None = None) -> Shared[Example]:
        """One pass over `views`: each process reads its own, the next image while the last one is used."""

        def example(view: int) -> Example:
            return Example(self._of(view).windows, self.vectors(view).through(head))

        shared = self.share(views)
        run = self.on_threads if self.cache.full("maps") else partial(ahead, workers=1, waiting=1)
        return Shared(run(example, shared.own), shared.owners)

    def teaching(self) -> Ints:
        """The images ``[n]`` that have an object to learn from."""
        return np.flatnonzero([len(image.windows.positives(1.0)[0]) for image in self.images])

    def positives(
        self, min_iou: float, head: FCHead | None = None, flips: bool = False
    ) -> Iterator[tuple[Tensor, npt.NDArray[np.int8]]]:
        """Distinct vectors float16 ``[P, D]`` of the SVMs' positives and their signs ``[P, K]``, by view.

        A sign counts the windows of its class that share the vector; near an object there are many. For all
        other classes a positive has the sign 0 here: mining offers it to them as a window.
        """

        def found(view: int) -> Arrays:
            vectors = self.vectors(view)
            offer = self._of(view).windows.positives(min_iou)
            rows, signs = signs_of(vectors.of, *offer, self.classes)
            return {"vectors": vectors.through(head).of_rows(rows).half().cpu().numpy(), "signs": signs}

        shared = self.share(self.views(self.teaching(), flips))
        arriving = Shared(self.on_threads(found, shared.own), shared.owners).in_order()
        for arrays in track(arriving, "positives", len(shared)):
            yield torch.from_numpy(arrays["vectors"]), arrays["signs"]

    def sample(self, index: int, most: int, generator: np.random.Generator) -> Tensor:
        """Vectors ``[n, D]`` of ``most`` windows drawn from one image, or of all its windows."""
        drawn = generator.permutation(len(self.images[index].windows.boxes))[:most]
        return self.vectors(index).of_windows(drawn)

    def distinct_vectors(self, chosen: Sequence[tuple[int, Boxes]]) -> Iterator[tuple[Tensor, Ints]]:
        """For some images and boxes ``[n, 4]`` in each: the distinct vectors float16 ``[M, D]`` of the boxes,
        and the row ``[n]`` of each box among them."""

        def found(one: tuple[int, Boxes]) -> Arrays:
            index, boxes = one
            vectors = self.features.vectors(self.maps(index), boxes)
            made = vectors.of_rows(np.arange(len(vectors))).half().cpu()
            return {"vectors": made.numpy(), "of": vectors.of}

        owners = self._owners[[index for index, _ in chosen]].tolist()
        for arrays in shared_map(found, chosen, owners, run=self.on_threads):
            yield torch.from_numpy(arrays["vectors"]), arrays["of"]
