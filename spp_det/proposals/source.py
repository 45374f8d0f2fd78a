"""Where windows come from, as the settings ask, and the cache that keeps them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spp_det.boxes import Boxes, clip
from spp_det.config.file import parse_config
from spp_det.config.settings import Proposals
from spp_det.errors import UserError
from spp_det.images import (
    RGB,
    UnreadableImageError,
    check_regular,
    read_image,
    warn_truncated,
    warned_truncated,
)
from spp_det.proposals import edges, files, selective
from spp_det.runtime.cache import Arrays, Cache, digest, file_digest
from spp_det.runtime.opencv import cv2

logger = logging.getLogger(__name__)

VERSION = 2  # of what is kept of an image's windows; part of their cache key
FILE_VERSION = 1  # of what this file makes of the boxes in a given file; part of their cache key


def proposals_of(
    mode: str, max_side: int | None = None, file: Path | None = None, edge_model: Path | None = None
) -> Proposals:
    """Checked settings from words of the command line; UserError, one line, where they make no sense."""
    tree = {"mode": mode, "max_side": max_side, "file": file, "edge_model": edge_model}
    return parse_config({"proposals": tree}, "the options").proposals


@dataclass(frozen=True, eq=False)
class FileWindows:
    """The windows of an image file.

    Attributes:
        boxes: float32 ``[N, 4]`` in pixels of the image, sorted by (x1, y1, x2, y2), none twice.
        size: ``(width, height)`` of the image in pixels.
        key: digest of the image file's bytes.
        seconds: that the search took, without reading the image; None where the cache had its result.
    """

    boxes: Boxes
    size: tuple[int, int]
    key: str
    seconds: float | None


class WindowSource:
    """Gives the windows of images by one way of `Proposals`. One object may serve several threads."""

    def __init__(self, settings: Proposals) -> None:
        """Read what the settings name: the file of proposals, or the model of edges.

        Raises UserError where that is not named, absent or damaged.
        """
        if (message := settings.mismatch()) is not None:
            raise UserError(message)
        self.settings = settings
        self._imported: files.ByImage = {}
        self._file = settings.file
        if settings.file is not None:
            self._imported = files.read_proposals(settings.file)
            self._file_digest = file_digest(settings.file)
        if settings.edge_model is not None:
            self._edge_boxes = edges.EdgeBoxes(settings.edge_model)

    def check(self, images: Iterable[tuple[Path, str | None]]) -> None:
        """Look, before any work, whether a file of proposals has windows for all these images, and not the
        same ones for two of them. Images are paths, with their id in a data set or None.

        An image is known by its id, or else by the end of its path, with or without suffix:
        ``JPEGImages/1.jpg``, ``JPEGImages/1``, ``1.jpg`` or ``1``. Raises UserError that names the image and
        the file of proposals. Searches need no such look.
        """
        if self.settings.mode != "file":
            return
        owners: dict[str, Path] = {}
        for path, image_id in images:
            name = self._name(path, image_id)
            if owners.setdefault(name, path) != path:
                raise UserError(f"{self._file}: its {name} may be {owners[name]} or {path}")

    def windows(
        self, image: RGB, path: Path, image_id: str | None = None, threads: int | None = None
    ) -> Boxes:
        """Of one decoded image, RGB uint8 ``[H, W, 3] -> float32 [N, 4]``, sorted by (x1, y1, x2, y2), none
        twice. ``path`` and ``image_id`` say which it is (see `check`); ``threads`` is for selective search.

        Boxes from a file are clipped to the image; what is then empty is dropped, with a warning where
        nothing is left. Raises UserError where the file does not know the image.
        """
        settings = self.settings
        if settings.mode == "file":
            return self._fitted(self._name(path, image_id), image.shape[1], image.shape[0])
        if settings.mode == "edgeboxes":
            return self._edge_boxes(image, settings.max_side)
        return selective.selective_search(image, settings.mode, settings.max_side, threads)

    def windows_of_file(self, path: Path, image_id: str | None, cache: Cache | None) -> FileWindows:
        """Of an image file, by one core, from the cache or computed and kept there.

        Raises UnreadableImageError where the image cannot be read; UserError as `windows` does.
        """
        try:
            check_regular(path)
            key = file_digest(path)
        except (OSError, ValueError) as error:  # the latter: a name that no file can have
            raise UnreadableImageError(f"{path}: {getattr(error, 'strerror', error)}") from error
        seconds = None

        def search() -> Arrays:
            nonlocal seconds
            image = read_image(path)
            start = time.perf_counter()
            boxes = self.windows(image, path, image_id, threads=1)
            seconds = time.perf_counter() - start
            truncated = np.array(warned_truncated(path))
            return {"boxes": boxes, "size": np.array(image.shape[1::-1]), "truncated": truncated}

        made_from = digest(VERSION, key, self._key(path, image_id))
        found = search() if cache is None else cache.load_or_make("proposals", made_from, search)
        if found["truncated"]:
            warn_truncated(path)
        width, height = found["size"].tolist()
        return FileWindows(found["boxes"], (width, height), key, seconds)

    def identity(self) -> str:
        """What tells its windows from those of another source; files count by their content."""
        parts = [self.settings.mode, str(self.settings.max_side or "")]
        if self.settings.mode == "file":
            parts.append(self._file_digest)
        if self.settings.mode == "edgeboxes":
            parts.append(self._edge_boxes.digest)
        return " ".join(filter(None, parts))

    def _key(self, path: Path, image_id: str | None) -> tuple[object, ...]:
        """All that the windows depend on beside the pixels. Files count by their content."""
        mode, max_side = self.settings.mode, self.settings.max_side
        if mode == "file":
            return (FILE_VERSION, mode, self._file_digest, self._name(path, image_id))
        if mode == "edgeboxes":
            return (edges.VERSION, cv2.__version__, mode, max_side, self._edge_boxes.digest)
        return (selective.VERSION, cv2.__version__, mode, max_side)

    def _name(self, path: Path, image_id: str | None) -> str:
        """The name by which the file of proposals knows an image."""
        if image_id in self._imported:
            return image_id
        whole = path.absolute()
        for start in range(1, len(whole.parts)):
            for name in ("/".join(whole.parts[start:]), "/".join(whole.with_suffix("").parts[start:])):
                if name in self._imported:
                    return name
        raise UserError(f"{self._file}: has no windows for the image {image_id or path.stem} ({path})")

    def _fitted(self, name: str, width: int, height: int) -> Boxes:
        given = self._imported[name]
        boxes = np.unique(clip(given, width, height), axis=0)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        if len(given) and not len(boxes):
            logger.warning("%s: no window of %s lies inside its %dx%d image", self._file, name, width, height)
        return boxes
