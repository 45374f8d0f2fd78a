"""What ``spp-det train`` does: train, write the model to one folder, and score it on a test split."""

from __future__ import annotations

import logging
import time
from typing import Any

from spp_det import distributed
from spp_det.cache import sweep, write_json, write_whole
from spp_det.config import Config
from spp_det.config_file import differences, dotted, dump_config, load_config
from spp_det.data.records import Dataset
from spp_det.detecting import detect_to_folder
from spp_det.devices import choose_device
from spp_det.errors import UserError
from spp_det.evaluation.reading import read_json
from spp_det.evaluation.results import evaluate, read_results
from spp_det.model.ensemble import AnyDetector
from spp_det.proposals.source import WindowSource
from spp_det.training.stages import Trained, cache_of, read_dataset, train

logger = logging.getLogger(__name__)

# What a run may change when it goes on: nothing that is computed depends on it.
IDLE = frozenset(
    {"output", "strict", "data.follow_links", "runtime.device", "runtime.workers", "runtime.cache"}
)


def run_training(config: Config) -> dict[str, Any]:
    """Train by the configuration and, if it names a test split, detect there and score it.

    Writes ``model.safetensors``, ``config.yaml`` and ``metrics.json`` to the output, and what it finds in
    the test images to the folder ``test`` there. Returns the metrics; those of the test under ``test``, with
    the seconds of the detection, which reads windows that the cache has.

    Interrupted and called again it goes on, to the same model. After its end it takes every stage from the
    cache, and writes the same files again. Raises UserError where the output is another configuration's.

    Under ``torchrun`` every process calls this; the first one writes, and alone has figures of the test. How
    many they are may change when it goes on.
    """
    with distributed.process_group(distributed.own_device(choose_device(config.runtime.device))):
        if distributed.is_first():
            _claim(config)
        test = None if config.data.test is None else read_dataset(config.data, config.data.test)
        source = WindowSource(config.proposals)
        if test is not None:  # hours later would be late to say so
            source.check((record.path, None) for record in test.records)
        metrics = finish_training(config, train(config), test, source)
        distributed.barrier()  # whoever returns may read the files
    return metrics


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


def _claim(config: Config) -> None:
    """Make the output this configuration's, by ``config.yaml``; refuse another's."""
    path = config.output / "config.yaml"
    if path.exists():
        again = f"name another output, or remove {path} to give this configuration its place"
        try:
            found = load_config(path)
        except UserError as error:
            raise UserError(f"{error}; {again}") from error
        before, now = (
            {key: value for key, value in dotted(settings).items() if key not in IDLE}
            for settings in (found, config)
        )
        if different := differences(before, now):
            raise UserError(f"{path} is another configuration's ({different}): {again}")
        if (config.output / "model.safetensors").exists():
            logger.info("%s was trained before: taking what can be taken from the cache", config.output)
    sweep(config.output)
    write_whole(path, dump_config(config))


def _score(detector: AnyDetector, config: Config, test: Dataset, source: WindowSource) -> dict[str, Any]:
    folder = config.output / "test"
    paths = [record.path for record in test.records]
    start = time.perf_counter()
    summary = detect_to_folder(
        detector,
        paths,
        folder,
        workers=config.runtime.workers,
        strict=config.strict,
        source=source,
        cache=cache_of(config),
    )
    if not distributed.is_first():
        return {}
    seconds = time.perf_counter() - start
    instances = read_json(str(config.data.test)) if config.data.format == "coco" else None
    found = read_results(folder / "detections.json", test)
    return evaluate(test, found, instances).figures() | {
        "skipped": summary.skipped,
        "seconds": round(seconds, 2),
    }
