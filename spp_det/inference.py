"""Detection in many image files, on all cores, in order, with few images in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spp_det.boxes import Boxes
from spp_det.cache import Cache
from spp_det.images import RGB, UnreadableImageError, read_image
from spp_det.model.detector import Detections
from spp_det.model.ensemble import AnyDetector
from spp_det.proposals.source import WindowSource
from spp_det.threads import ahead

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """An image file and what was found in it."""

    path: Path
    image: RGB
    detections: Detections


def detect_files(
    detector: AnyDetector,
    paths: Sequence[Path],
    workers: int,
    strict: bool = False,
    source: WindowSource | None = None,
    cache: Cache | None = None,
    alone: bool | None = None,
) -> Iterator[DetectedImage | UnreadableImageError]:
    """Detect in each file, in the order given.

    A file that cannot be read yields its error after a warning, or raises it where ``strict``. Few images
    are in memory at a time, however many paths there are. ``source`` gives the
    windows; None: the detector proposes them. ``cache`` keeps those of the source. ``alone`` says whether a
    single path is all there is, and so gets all cores; False where it is the rest of many, whose sums are to
    be rounded alike. None: it is.
    """
    single = len(paths) == 1 and alone is not False
    on_cpu = detector.device.type == "cpu"
    # One image gets all cores. Of many, each core takes its own, and on a CPU through the network too: a core
    # is then never asked for by two threads, and nothing waits for the slowest share of an operation.
    threads = None if single else 1

    def prepare(path: Path) -> tuple[RGB, Boxes] | UnreadableImageError:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            return error
        if source is None:
            return image, detector.propose(image, threads)
        if cache is not None:
            return image, source.windows_of_file(path, None, cache).boxes
        return image, source.windows(image, path, threads=threads)

    def detect(
        path: Path, prepared: tuple[RGB, Boxes] | UnreadableImageError
    ) -> DetectedImage | UnreadableImageError:
        if isinstance(prepared, UnreadableImageError):
            return prepared
        return DetectedImage(path, prepared[0], detector.detect(*prepared))

    def whole(path: Path) -> DetectedImage | UnreadableImageError:
        return detect(path, prepare(path))

    if single:
        results: Iterable[DetectedImage | UnreadableImageError] = map(whole, paths)
    elif on_cpu:
        results = ahead(whole, paths, workers)
    else:
        results = map(detect, paths, ahead(prepare, paths, workers))
    for result in results:
        if isinstance(result, UnreadableImageError):
            if strict:
                raise result
            logger.warning("skipped: %s", result)
        yield result
