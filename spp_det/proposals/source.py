"""Where windows come from: a search in the image or a file, as the settings say; and the cache of windows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spp_det.boxes import Boxes, clip
from spp_det.config.file import parse_config
from spp_det.config.settings import Proposals
from spp_det.errors import UserError, is_out_of_memory
from spp_det.images import RGB, UnreadableImageError, decode, warn_truncated
from spp_det.proposals import edges, files, reference, selective
from spp_det.proposals.presets import MODES
from spp_det.runtime.cache import Arrays, Cache, check_form, digest, file_digest
from spp_det.runtime.files import MOST_BYTES
from spp_det.runtime.opencv import cv2

logger = logging.getLogger(__name__)

VERSION = 2  # of the arrays that the cache keeps for an image; part of their key
FILE_VERSION = 1  # of how boxes from a file become windows; part of the same key


def proposals_of(
    mode: str, max_side: int | None = None, file: Path | None = None, edge_model: Path | None = None
) -> Proposals:
    """Checked settings from options of the command line. Raises UserError where they make no sense."""
    tree = {"mode": mode, "max_side": max_side, "file": file, "edge_model": edge_model}
    return parse_config({"proposals": tree}, "the options").proposals


@dataclass(frozen=True, eq=False)
class FileWindows:
    """The windows of an image file.

    Attributes:
        boxes: float32 ``[N, 4]`` in pixels of the image, sorted by (x1, y1, x2, y2), none twice.
        size: ``(width, height)`` of the image in pixels.
        key: digest of the image file's bytes.
        seconds: duration of the search, without reading the image; None where the cache had its result.
    """

    boxes: Boxes
    size: tuple[int, int]
    key: str
    seconds: float | None


def _check_found(arrays: Arrays) -> None:
    """Raise ValueError for arrays that `WindowSource.windows_of_file` has not made."""
    boxes, size = arrays.get("boxes", np.zeros(0)), arrays.get("size", np.zeros(0))
    check_form(arrays, truncated=np.array(True), size=np.zeros(2, np.int64))
    check_form(arrays, boxes=np.zeros((len(boxes), 4), np.float32))
    (x1, y1, x2, y2), (width, height) = boxes.T, size.tolist()
    inside = (x1 >= -1) & (y1 >= -1) & (x2 <= width + 1) & (y2 <= height + 1)
    if min(width, height) < 1 or not (inside & (x1 < x2) & (y1 < y2)).all():
        raise ValueError("a window is none of its image")


class WindowSource:
    """Gives the windows of images, as `Proposals` say. Several threads may use one object at a time."""

    def __init__(self, settings: Proposals, *more: Proposals) -> None:
        """Read the file of proposals, or the model of edges, that the settings name.

        ``more`` are further selective searches, whose windows are added. Raises UserError where the file is
        not named, absent or damaged.
        """
        if (message := settings.mismatch()) is not None:
            raise UserError(message)
        self.settings = settings
        self._more = more
        self._of_model = False
        self._imported: files.ByImage = {}
        self._file = settings.file
        if settings.file is not None:
            self._imported = files.read_proposals(settings.file)
            self._file_digest = file_digest(settings.file)
        if settings.edge_model is not None:
            self._edge_boxes = edges.EdgeBoxes(settings.edge_model)

    @classmethod
    def of_model(cls, searches: Sequence[Proposals], instead: str) -> WindowSource:
        """The searches that found the windows of a model's training, or of several models' trainings.

        Raises UserError for a model that was trained on windows from a file or from Edge Boxes: neither the
        file nor the model of edges is in a model file. ``instead`` tells the user what to do.
        """
        for search in searches:
            if search.mode in ("file", "edgeboxes"):
                raise UserError(
                    "the model was trained on windows from elsewhere "
                    f"(proposals.mode is {search.mode}): {instead}"
                )
        source = cls(*searches)
        source._of_model = True
        return source

    def check(self, images: Iterable[tuple[Path, str | None]]) -> None:
        """Check, before any work, that a file of proposals has windows for each of these images.

        An image is a path, with its id in a data set or None. The file knows it by its id, or else by the end
        of its path, with or without suffix: ``JPEGImages/1.jpg``, ``JPEGImages/1``, ``1.jpg`` or ``1``.
        Raises UserError, which names image and file, where windows are missing or would serve two images.
        For a search there is nothing to check.
        """
        if self.settings.mode != "file":
            return
        owners: dict[str, Path] = {}
        for path, image_id in images:
            name = self._name(path, image_id)
            if owners.setdefault(name, path) != path:
                raise UserError(f"{self._file}: its {name} may be {owners[name]} or {path}")

    def windows(
        self, image: RGB, path: Path = Path(), image_id: str | None = None, threads: int | None = None
    ) -> Boxes:
        """The windows of one decoded image: RGB uint8 ``[H, W, 3] -> float32 [N, 4]``.

        They are sorted by (x1, y1, x2, y2), none twice. A file knows the image by ``path`` or ``image_id``,
        see `check`; ``threads`` is the number of threads of a selective search, None all. Boxes from a file
        are clipped to the image and dropped where they are then empty, with a warning where none is left.
        Raises UserError where the file does not know the image, and UnreadableImageError where the memory is
        too small for the search.
        """
        try:
            return self._search(image, path, image_id, threads)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            name = path if path.name else "the image"
            why = (
                f"too large for the search in the memory at hand ({image.shape[1]} x {image.shape[0]} pixels)"
            )
            raise UnreadableImageError(f"{name}: {why}: set proposals.max_side; {error}") from error

    def _search(self, image: RGB, path: Path, image_id: str | None, threads: int | None) -> Boxes:
        settings = self.settings
        if settings.mode == "file":
            return self._fitted(self._name(path, image_id), image.shape[1], image.shape[0])
        if settings.mode == "edgeboxes":
            return self._edge_boxes(image, settings.max_side)
        found = selective.selective_search(image, settings.mode, settings.max_side, threads, settings.engine)
        if not self._more:
            return found
        others = [WindowSource(each).windows(image, threads=threads) for each in self._more]
        return np.unique(np.concatenate([found, *others]), axis=0)

    def windows_of_file(self, path: Path, image_id: str | None, cache: Cache | None) -> FileWindows:
        """The windows of an image file: from the cache, or searched for by one core and kept there.

        Raises UnreadableImageError where the image cannot be read, and UserError as `windows` does.
        """
        try:
            key = file_digest(path, MOST_BYTES)
        except UserError as error:  # no file
            raise UnreadableImageError(str(error)) from error
        except (OSError, ValueError) as error:  # the latter: a name that no file can have
            raise UnreadableImageError(f"{path}: {getattr(error, 'strerror', error)}") from error
        seconds = None

        def search() -> Arrays:
            nonlocal seconds
            image, truncated = decode(path)
            start = time.perf_counter()
            boxes = self.windows(image, path, image_id, threads=1)
            seconds = time.perf_counter() - start
            size = np.array(image.shape[1::-1])
            return {"boxes": boxes, "size": size, "truncated": np.array(truncated)}

        made_from = digest(VERSION, key, self._key(path, image_id))
        found = (
            search() if cache is None else cache.load_or_make("proposals", made_from, search, _check_found)
        )
        if found["truncated"]:
            warn_truncated(path)
        width, height = found["size"].tolist()
        return FileWindows(found["boxes"], (width, height), key, seconds)

    def identity(self) -> str:
        """A text that differs between sources that give different windows; files count by their content.

        The searches of a model are "its own", because the identity of the model tells which they are.
        """
        if self._of_model:
            return "its own"
        parts = [self.settings.mode, str(self.settings.max_side or "")]
        if self.settings.mode in MODES:
            parts.append(self.settings.engine)
        if self.settings.mode == "file":
            parts.append(self._file_digest)
        if self.settings.mode == "edgeboxes":
            parts.append(self._edge_boxes.digest)
        return " ".join(filter(None, parts))

    def _key(self, path: Path, image_id: str | None) -> tuple[object, ...]:
        """Everything that the windows depend on, except for the pixels. Files count by their content."""
        mode, max_side = self.settings.mode, self.settings.max_side
        if mode == "file":
            return (FILE_VERSION, mode, self._file_digest, self._name(path, image_id))
        if mode == "edgeboxes":
            return (edges.VERSION, cv2.__version__, mode, max_side, self._edge_boxes.digest)
        versions = {"native": selective.VERSION, "opencv": reference.VERSION}
        searches = [
            (each.engine, versions[each.engine], each.mode, each.max_side)
            for each in (self.settings, *self._more)
        ]
        return (cv2.__version__, *searches)

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
