"""Detection in many image files: in order, on all cores, by all processes, with few images in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from spp_det.boxes import Boxes
from spp_det.data.records import Detections
from spp_det.detections.types import DetectedImage, Result
from spp_det.images import RGB, UnreadableImageError, read_image
from spp_det.model.ensemble import AnyDetector
from spp_det.model.features import images_at_once
from spp_det.proposals.source import WindowSource
from spp_det.runtime.cache import Cache
from spp_det.runtime.sharing import Shared, share
from spp_det.runtime.threads import ahead

logger = logging.getLogger(__name__)

Prepared = tuple[RGB, Boxes] | UnreadableImageError  # an image and its windows


def detect_files(
    detector: AnyDetector,
    paths: Sequence[Path],
    workers: int,
    source: WindowSource,
    strict: bool = False,
    cache: Cache | None = None,
    alone: bool = True,
) -> Iterator[Result]:
    """Detect in each file, in the order given.

    A file that cannot be read yields its error after a warning, or raises it where ``strict``. Few images
    are in memory at a time, however many paths there are. Several processes with the same paths share the
    files out; the first process yields all results, the others none.

    Args:
        workers: the number of images that are processed in parallel, each by one core.
        source: gives the windows of each image.
        cache: keeps the windows; None keeps nothing.
        alone: whether a single path is the whole work, and gets all cores. False where ``paths`` are the rest
            of a longer list: a last image then gets one core, as all others did, because the number of cores
            changes how sums are rounded.
    """
    shared = share(paths)
    single = len(paths) == 1 and alone
    own = Shared(_detect_own(detector, shared.own, workers, source, cache, single), shared.owners)

    def receive(place: int, found: Detections | UnreadableImageError) -> Result:
        if isinstance(found, UnreadableImageError):
            return found
        try:
            return DetectedImage(paths[place], read_image(paths[place]), found)
        except UnreadableImageError as error:
            return error

    for result in own.in_first(_without_image, receive):
        if isinstance(result, UnreadableImageError):
            if strict:
                raise result
            logger.warning("skipped: %s", result)
        yield result


def _without_image(result: Result) -> Detections | UnreadableImageError:
    """The part of a result that is sent to the first process, which reads the image file again."""
    return result if isinstance(result, UnreadableImageError) else result.detections


def _detect_own(
    detector: AnyDetector,
    paths: Iterable[Path],
    workers: int,
    source: WindowSource,
    cache: Cache | None,
    single: bool,
) -> Iterator[Result]:
    """Detect in each file, in the order given, by this process alone."""
    # A single image gets all cores. Of many images each core takes one at a time, also through the network of
    # a CPU: no two threads then compete for a core, and no operation waits for its slowest thread.
    threads = None if single else 1

    def prepare(path: Path) -> Prepared:
        try:
            image = read_image(path)
            if cache is not None:
                return image, source.windows_of_file(path, None, cache).boxes
            return image, source.windows(image, path, threads=threads)
        except UnreadableImageError as error:
            return error

    def whole(path: Path) -> Result:
        prepared = prepare(path)
        if isinstance(prepared, UnreadableImageError):
            return prepared
        return DetectedImage(path, prepared[0], detector.detect(*prepared))

    size = images_at_once(detector.device)
    if single:
        yield from map(whole, paths)
    elif size == 1:
        yield from ahead(whole, paths, workers)
    else:
        yield from _in_batches(detector, paths, ahead(prepare, paths, workers), size)


def _in_batches(
    detector: AnyDetector, paths: Iterable[Path], prepared: Iterator[Prepared], size: int
) -> Iterator[Result]:
    """Detect in ``size`` images at a time: a GPU works on a batch, and one thread feeds it."""
    pairs = zip(paths, prepared, strict=True)
    while batch := list(islice(pairs, size)):
        readable = [given for _, given in batch if not isinstance(given, UnreadableImageError)]
        images, windows = [image for image, _ in readable], [windows for _, windows in readable]
        found = iter(detector.detect_batch(images, windows))
        for path, given in batch:
            if isinstance(given, UnreadableImageError):
                yield given
            else:
                yield DetectedImage(path, given[0], next(found))
