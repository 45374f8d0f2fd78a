"""Detection in many image files: decoding and selective search run ahead while the network works."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spp_det.boxes import Boxes
from spp_det.images import RGB, UnreadableImageError, read_image
from spp_det.model.detector import Detections, Detector
from spp_det.proposals import selective_search
from spp_det.threads import ahead

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """An image file and what was found in it."""

    path: Path
    image: RGB
    detections: Detections


def detect_files(
    detector: Detector, paths: Sequence[Path], workers: int, strict: bool = False
) -> Iterator[DetectedImage | UnreadableImageError]:
    """Detect in each file, in the order given.

    A file that cannot be read yields its error after a warning, or raises it where ``strict``. Few images
    are in memory at a time, however many paths there are.
    """
    search = detector.settings.proposals
    threads = None if len(paths) == 1 else 1  # a single image gets all cores

    def prepare(path: Path) -> tuple[RGB, Boxes] | UnreadableImageError:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            return error
        return image, selective_search(image, search.mode, search.max_side, threads)

    for path, prepared in zip(paths, ahead(prepare, paths, workers), strict=True):
        if isinstance(prepared, UnreadableImageError):
            if strict:
                raise prepared
            logger.warning("skipped: %s", prepared)
            yield prepared
        else:
            image, windows = prepared
            yield DetectedImage(path, image, detector.detect(image, windows))
