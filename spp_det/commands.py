"""What each command does, for the command line and for programs: read, compute, write to one folder."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spp_det import distributed
from spp_det.cache import Cache, naming, sweep, write_json, write_whole
from spp_det.config import Config, Proposals
from spp_det.config_file import differences, dotted, dump_config, load_config
from spp_det.data.records import Dataset
from spp_det.devices import choose_device
from spp_det.errors import UserError
from spp_det.evaluation.reading import read_json
from spp_det.evaluation.results import evaluate, read_results
from spp_det.images import UnreadableImageError
from spp_det.inference import DetectedImage, Result, detect_files
from spp_det.model.detector import select
from spp_det.model.ensemble import AnyDetector
from spp_det.progress import track
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.report.write import DetectionWriter
from spp_det.threads import cores
from spp_det.training.stages import Trained, cache_of, read_dataset, train

logger = logging.getLogger(__name__)

# What a run may change when it goes on: nothing that is computed depends on it.
IDLE = frozenset(
    {"output", "strict", "data.follow_links", "runtime.device", "runtime.workers", "runtime.cache"}
)


@dataclass
class Summary:
    """What a detection run did.

    Attributes:
        images: how many were read.
        found: how many detections were written.
        skipped: the files that could not be read.
    """

    images: int = 0
    found: int = 0
    skipped: list[str] = field(default_factory=list)


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
    figures: dict[str, Any] = evaluate(test, read_results(folder / "detections.json", test), instances)
    return figures | {"skipped": summary.skipped, "seconds": round(seconds, 2)}


def detect_to_folder(
    detector: AnyDetector,
    paths: Sequence[Path],
    folder: Path,
    *,
    formats: Sequence[str] = (),
    draw: bool = False,
    score: float | None = None,
    only: str | None = None,
    workers: int = 0,
    strict: bool = False,
    source: WindowSource | None = None,
    crops: bool = False,
    resume: bool = False,
    cache: Cache | None = None,
) -> Summary:
    """Detect in every file and write the results; see `DetectionWriter` for what and where.

    Several processes share the files out; the first one writes, and alone has a summary.

    Args:
        score: leave out detections that score less.
        only: names of the classes to keep, ``"a,b"``; None keeps all.
        workers: images at a time; 0 is one a core.
        strict: raise UserError for a file that cannot be read, rather than skip it.
        source: of the windows; None: those that the detector proposes.
        resume: go on with what an interrupted run left in the folder, if there is anything. UserError where
            that run was another: of another model, other windows, images or options.
        cache: where the windows of ``source`` are looked up and kept.
    """
    labels = _labels(detector.classes, only)
    if source is not None:
        source.check((path, None) for path in paths)

    def results(done: int) -> Iterator[Result]:
        """Of what the first process has not done; it asks for them, the others make them for it."""
        shared = distributed.from_first({"done": np.array(done)}) or {}
        todo, alone = paths[int(shared["done"]) :], len(paths) == 1
        return detect_files(detector, todo, workers or cores(), strict, source, cache, alone=alone)

    if not distributed.is_first():
        deque(results(0), maxlen=0)
        return Summary()
    run = {
        "model": detector.identity(),
        "windows": "its own" if source is None else source.identity(),
        "--classes": [detector.classes[label] for label in labels],
        "--strict": strict,
    }
    writer = DetectionWriter(
        folder, detector.classes, paths, formats, draw, score, crops=crops, resume=resume, run=run
    )
    with naming(folder), writer:
        done = writer.done
        shown = track(results(done), "detection", len(paths), done=done)
        for path, result in zip(paths[done:], shown, strict=True):
            if isinstance(result, UnreadableImageError):
                writer.skip(path)
                continue
            wanted = np.isin(result.detections["labels"], labels)
            writer.add(DetectedImage(path, result.image, select(result.detections, wanted)))
    return Summary(writer.images, writer.found, writer.skipped)


def windows_for(trained: Proposals, file: Path | None, edge_model: Path | None) -> WindowSource | None:
    """The windows of a file or of Edge Boxes that the user names; None: selective search, as in the training.

    Raises UserError where the model was trained on windows from elsewhere and nobody says where from.
    """
    if file is not None and edge_model is not None:
        raise UserError("windows come from one place: --proposals or --edge-model, not both")
    if file is not None:
        return WindowSource(proposals_of("file", file=file))
    if edge_model is not None:
        return WindowSource(proposals_of("edgeboxes", trained.max_side, edge_model=edge_model))
    if trained.mode == "file" and trained.file is None:
        raise UserError(
            "the model was trained on windows from a file: name that of these images, --proposals FILE"
        )
    if trained.mode == "edgeboxes" and trained.edge_model is None:
        raise UserError(
            "the model was trained on Edge Boxes: name OpenCV's model of edges, --edge-model FILE"
        )
    return None


def _labels(classes: tuple[str, ...], only: str | None) -> list[int]:
    names = list(classes) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UserError(f"the model knows no class {unknown[0]!r}; it knows {', '.join(classes)}")
    return [classes.index(name) for name in names]
