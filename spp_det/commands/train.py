"""What ``spp-det train`` does: train, write the model to one folder, and score it on a test split."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from spp_det.commands.detect import Summary, detect_to_folder
from spp_det.config.settings import Config
from spp_det.data.records import Dataset
from spp_det.detections.reader import read_json
from spp_det.errors import CannotResumeError
from spp_det.evaluation.results import evaluate, read_results
from spp_det.images import UnreadableImageError, check_regular
from spp_det.model.ensemble import AnyDetector
from spp_det.proposals.source import WindowSource
from spp_det.runtime import distributed
from spp_det.runtime.cache import digest, file_digest, write_json
from spp_det.runtime.devices import choose_device
from spp_det.runtime.run_folder import claimed
from spp_det.training.stages import Trained, cache_of, read_dataset, train

logger = logging.getLogger(__name__)

# What a run may change when it goes on: nothing that is computed depends on it.
IDLE = frozenset(
    {"output", "strict", "data.follow_links", "runtime.device", "runtime.workers", "runtime.cache"}
)


def run_training(config: Config, begun: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Train by the configuration and, if it names a test split, detect there and score it.

    Writes ``model.safetensors``, ``config.yaml`` and ``metrics.json`` to the output, and what it finds in
    the test images to the folder ``test`` there. Returns the metrics; those of the test under ``test``, with
    the seconds of the detection, which reads windows that the cache has.

    Interrupted and called again it goes on, to the same model. After its end it takes every stage from the
    cache, and writes the same files again. ``begun`` is called once the output is this run's. Raises
    UserError where it is another configuration's, or another run is at work there; nothing is changed then.

    Under ``torchrun`` every process calls this; the first one writes, and alone has figures of the test. How
    many they are may change when it goes on.
    """
    device = distributed.own_device(choose_device(config.runtime.device))
    with distributed.process_group(device), claimed(config, config.output, IDLE):
        begun()
        metrics = train_and_score(config)
        distributed.barrier()  # whoever returns may read the files
    return metrics


def train_and_score(config: Config) -> dict[str, Any]:
    """What `run_training` does in an output that is claimed."""
    if (config.output / "model.safetensors").exists():
        logger.info("%s was trained before: taking what can be taken from the cache", config.output)
    test = None if config.data.test is None else read_dataset(config.data, config.data.test)
    source = WindowSource(config.proposals)
    if test is not None:  # hours later would be late to say so
        source.check((record.path, None) for record in test.records)
    return finish_training(config, train(config), test, source)


def finish_training(
    config: Config, trained: Trained, test: Dataset | None, source: WindowSource
) -> dict[str, Any]:
    """Write a trained model to the output, and what it finds in the test images with its figures.

    Writes all that `run_training` does but ``config.yaml``, and returns what it returns.
    """
    metrics = dict(trained.metrics)
    if distributed.is_first():
        trained.detector.save(config.output / "model.safetensors")
    if test is not None:
        metrics["test"] = _score(trained.detector, config, test, source)
    if distributed.is_first():
        write_json(config.output / "metrics.json", metrics)
    return metrics


def _score(detector: AnyDetector, config: Config, test: Dataset, source: WindowSource) -> dict[str, Any]:
    start = time.perf_counter()
    summary = _detect(detector, config, test, source)
    if not distributed.is_first():
        return {}
    seconds = time.perf_counter() - start
    instances = read_json(str(config.data.test)) if config.data.format == "coco" else None
    found = read_results(config.output / "test" / "detections.json", test)
    figures = evaluate(test, found, instances).figures()
    timed = {"seconds": round(seconds, 2), "timed_images": summary.read_now}
    return figures | {"skipped": summary.skipped, **timed}


def _detect(detector: AnyDetector, config: Config, test: Dataset, source: WindowSource) -> Summary:
    """Detect in the test images, after those that the same model has already seen with the same content."""
    content = content_of([record.path for record in test.records]) if distributed.is_first() else ""

    def detect(resume: bool) -> Summary:
        return detect_to_folder(
            detector,
            [record.path for record in test.records],
            config.output / "test",
            workers=config.runtime.workers,
            strict=config.strict,
            source=source,
            cache=cache_of(config),
            resume=resume,
            run={"content of the images": content},
        )

    try:
        return detect(resume=True)
    except CannotResumeError as error:  # before the others have been asked for anything
        logger.info("detecting anew: %s", error)
        return detect(resume=False)


def content_of(paths: Iterable[Path]) -> str:
    """A key of the bytes of all files, in order; one that cannot be read counts as such."""

    def key(path: Path) -> str:
        try:
            check_regular(path)
            return file_digest(path)
        except (OSError, ValueError, UnreadableImageError):
            return ""

    return digest([key(path) for path in paths])
