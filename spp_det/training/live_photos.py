"""The photos of a training that grows: what was computed of a photo is kept, only new photos are computed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Boxes
from spp_det.config.settings import Config
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.model.features import ConvMap, ProjectedWindows, WindowFeatures
from spp_det.model.head import FCHead
from spp_det.model.vectors import WindowVectors
from spp_det.runtime.cache import Cache, digest
from spp_det.runtime.threads import cores
from spp_det.training.images import TrainingImages
from spp_det.training.windows import LabelledWindows

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Photo:
    """An annotated photo whose windows and maps have been computed.

    Attributes:
        images: the images that it was prepared with, and
        index: its place among them.
        windows: its labelled windows, by the labels of the training.
        key: of its bytes, its boxes and the names of their classes.
        form: the shape ``[C, h, w]`` and the enlargement of each of its maps.
    """

    images: TrainingImages
    index: int
    windows: LabelledWindows
    key: str
    form: list[tuple[torch.Size, tuple[float, float]]] | None = None

    def maps(self) -> list[ConvMap]:
        """Its conv5 maps, from the cache."""
        maps = self.images.maps(self.index)
        self.form = [(each.cells.shape, each.enlargement) for each in maps]
        return maps

    def vectors(self, mirrored: bool = False) -> WindowVectors:
        """The pool5 vectors of its windows, or of the mirrored windows of the mirrored photo."""
        if mirrored:
            return self.images.vectors(self.index + len(self.images))
        return self.images.features.vectors(self.maps(), self.windows.boxes)

    @property
    def content(self) -> str:
        """The key of its file's bytes."""
        return self.images.images[self.index].key

    def pooled(self, cells: Sequence[tuple[int, int, int, int, int]]) -> Tensor:
        """The pool5 vectors float16 ``[n, D]`` of ``n`` cells: the number of a map, and a rectangle there."""
        where = np.array(cells, np.int64)
        on_maps = ProjectedWindows(where[:, 1:], where[:, 0], np.arange(len(where)))
        vectors = self.images.features.pool(self.maps(), on_maps)
        return vectors.of_rows(np.arange(len(where))).half().cpu()

    def project(self, boxes: Boxes) -> ProjectedWindows:
        """Where boxes ``[N, 4]`` lie on its maps, which are read no more than once for it."""
        if self.form is None:
            self.maps()
        empty = [ConvMap(torch.zeros(1).expand(shape), large) for shape, large in self.form or ()]
        return self.images.features.project(empty, boxes)


@dataclass(frozen=True, eq=False)
class Changes:
    """What is new since the last look, by image ids.

    Attributes:
        changed: photos that are new, or have other annotations or pixels.
        gone: photos that were there before and are not, or not readable any more, or have changed.
        columns: int64 ``[K]``, of each class its label before, -1 for a new class.
    """

    changed: list[str]
    gone: list[str]
    columns: list[int]


class LivePhotos:
    """The photos that are annotated now.

    Attributes:
        classes: their classes: those known before in their order, then new ones. Of every class some photo
            has an object that is neither difficult nor a crowd.
        photos: by image id.
    """

    def __init__(self, features: WindowFeatures, head: FCHead | None, config: Config, cache: Cache) -> None:
        self.features = features
        self.head = head
        self.config = config
        self.cache = cache
        self.classes: tuple[str, ...] = ()
        self.photos: dict[str, Photo] = {}

    def update(self, dataset: Dataset) -> Changes:
        """Take over the annotations as they are now; windows and maps of new photos are computed.

        Raises UserError where no photo of the data set can be read.
        """
        taught = _taught(dataset)
        classes = (*(n for n in self.classes if n in taught), *sorted(taught - set(self.classes)))
        columns = [self.classes.index(name) if name in self.classes else -1 for name in classes]
        label_of = np.array([classes.index(n) if n in taught else -1 for n in dataset.classes], np.int64)
        records = {record.image_id: _relabelled(record, label_of) for record in dataset.records}
        keys = {name: _key(record, classes) for name, record in records.items()}
        same = {name for name, photo in self.photos.items() if keys.get(name) == photo.key}
        gone = [name for name in self.photos if name not in same]
        moved = np.array([*(classes.index(n) if n in classes else -1 for n in self.classes), -1], np.int64)
        self.classes = classes
        self.photos = {name: photo for name, photo in self.photos.items() if name in same}
        for photo in self.photos.values():
            record = photo.windows.record
            photo.windows = replace(photo.windows, record=replace(record, labels=moved[record.labels]))
        new = [record for name, record in records.items() if name not in same]
        changed = self._prepare(new, keys) if new else []
        return Changes(changed, gone, columns)

    def _prepare(self, records: Sequence[Record], keys: dict[str, str]) -> list[str]:
        """Compute windows and maps of photos. Returns the ids of those that can be read."""
        config = self.config
        dataset, workers = Dataset(self.classes, records), config.runtime.workers or cores()
        try:
            images = TrainingImages(
                dataset, self.features, config.proposals, self.cache, workers, config.strict
            )
            while not images.make_maps(np.arange(len(images)), config.svm.flips):
                pass  # a photo has vanished meanwhile
        except UserError:
            if not self.photos or config.strict:
                raise
            return []  # none of the new ones can be read; a warning has named each
        for index, image in enumerate(images.images):
            name = image.record.image_id
            self.photos[name] = Photo(images, index, image.windows, keys[name])
        return [image.record.image_id for image in images.images]


def _taught(dataset: Dataset) -> set[str]:
    """The classes that have an object to learn from."""
    labels = [record.labels[~(record.difficult | record.crowd)] for record in dataset.records]
    return {dataset.classes[label] for label in np.unique(np.concatenate([*labels, np.zeros(0, np.int64)]))}


def _relabelled(record: Record, label_of: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Record:
    """The record with the training's labels; objects of classes that teach nothing are left out."""
    labels = label_of[record.labels]
    used = labels >= 0
    arrays = {name: getattr(record, name)[used] for name in ("boxes", "difficult", "crowd")}
    return replace(record, labels=labels[used], **arrays)


def _key(record: Record, classes: Sequence[str]) -> str:
    """A key of a photo's annotation by the names of its classes, and of its file's place, date and size."""
    try:
        status = record.path.stat()
        about = [str(record.path), status.st_size, status.st_mtime_ns]
    except OSError:  # gone; whoever reads it says so
        about = [str(record.path)]
    names = [classes[label] for label in record.labels]
    arrays = (record.boxes, record.difficult, record.crowd)
    return digest(about, names, *(array.tobytes() for array in arrays))
