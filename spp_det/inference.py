"""Detection in many image files, on all cores and by all processes, in order, few in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from spp_det.boxes import Boxes
from spp_det.detections.types import DetectedImage, Result
from spp_det.images import RGB, UnreadableImageError, read_image
from spp_det.model.detector import Detections
from spp_det.model.ensemble import AnyDetector
from spp_det.model.features import images_at_once
from spp_det.proposals.source import WindowSource
from spp_det.runtime import distributed
from spp_det.runtime.cache import Cache
from spp_det.runtime.threads import ahead

logger = logging.getLogger(__name__)


Prepared = tuple[RGB, Boxes] | UnreadableImageError  # an image and its windows


def detect_files(
    detector: AnyDetector,
    paths: Sequence[Path],
    workers: int,
    strict: bool = False,
    source: WindowSource | None = None,
    cache: Cache | None = None,
    alone: bool = True,
) -> Iterator[Result]:
    """Detect in each file, in the order given.

    A file that cannot be read yields its error after a warning, or raises it where ``strict``. Few images
    are in memory at a time, however many paths there are. ``source`` gives the windows; None: the detector
    proposes them. ``cache`` keeps those of the source. A single path gets all cores, unless it is not
    ``alone`` but the rest of many, whose sums are to be rounded alike.

    Several processes, all with the same paths, take the files in turn. The first one yields what all have
    found, the others nothing.
    """
    single = len(paths) == 1 and alone
    rank, processes = distributed.rank(), distributed.world_size()
    results = _detect_own(detector, paths[rank::processes], workers, source, cache, single)
    for result in results if processes == 1 else _of_all(paths, results):
        if isinstance(result, UnreadableImageError):
            if strict:
                raise result
            logger.warning("skipped: %s", result)
        yield result


def _of_all(paths: Sequence[Path], own: Iterable[Result]) -> Iterator[Result]:
    """What all processes found, in the first one. It reads the images again: they are not sent."""
    owners = islice(cycle(range(distributed.world_size())), len(paths))
    for path, found in zip(paths, distributed.in_order(map(_as_arrays, own), owners), strict=True):
        if not distributed.is_first():
            continue
        if "unreadable" in found:
            yield UnreadableImageError(found["unreadable"].tobytes().decode(errors="surrogateescape"))
            continue
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            yield error
        else:
            detections = Detections(boxes=found["boxes"], labels=found["labels"], scores=found["scores"])
            yield DetectedImage(path, image, detections)


def _as_arrays(result: Result) -> distributed.Arrays:
    if isinstance(result, UnreadableImageError):
        return {"unreadable": np.frombuffer(str(result).encode(errors="surrogateescape"), np.uint8)}
    return {name: result.detections[name] for name in ("boxes", "labels", "scores")}


def _detect_own(
    detector: AnyDetector,
    paths: Sequence[Path],
    workers: int,
    source: WindowSource | None,
    cache: Cache | None,
    single: bool,
) -> Iterator[Result]:
    """Detect in each file, in the order given, by this process alone."""
    # One image gets all cores. Of many, each core takes its own, and on a CPU through the network too: a core
    # is then never asked for by two threads, and nothing waits for the slowest share of an operation.
    threads = None if single else 1

    def prepare(path: Path) -> Prepared:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            return error
        if source is None:
            return image, detector.propose(image, threads)
        if cache is not None:
            return image, source.windows_of_file(path, None, cache).boxes
        return image, source.windows(image, path, threads=threads)

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
    detector: AnyDetector, paths: Sequence[Path], prepared: Iterator[Prepared], size: int
) -> Iterator[Result]:
    """Detect in so many images at a time, as one thread feeds a GPU."""
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
