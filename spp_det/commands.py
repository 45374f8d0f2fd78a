"""What each command does, for the command line and for programs: read, compute, write to one folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.cache import write_json, write_whole
from spp_det.config import Config, dump_config
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.evaluation.results import evaluate, read_json, read_results
from spp_det.images import UnreadableImageError
from spp_det.inference import DetectedImage, detect_files
from spp_det.model.detector import Detector, select
from spp_det.progress import track
from spp_det.report.write import DetectionWriter
from spp_det.training.stages import read_dataset, train

logger = logging.getLogger(__name__)


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
    the test images to the folder ``test`` there. Returns the metrics; those of the test under ``test``.
    """
    write_whole(config.output / "config.yaml", dump_config(config))
    test = None if config.data.test is None else read_dataset(config.data, config.data.test)
    trained = train(config)
    trained.detector.save(config.output / "model.safetensors")
    metrics = dict(trained.metrics)
    if test is not None:
        metrics["test"] = _score(trained.detector, config, test)
    write_json(config.output / "metrics.json", metrics)
    return metrics


def _score(detector: Detector, config: Config, test: Dataset) -> dict[str, Any]:
    folder = config.output / "test"
    paths = [record.path for record in test.records]
    summary = detect_to_folder(detector, paths, folder, workers=config.runtime.workers, strict=config.strict)
    instances = read_json(str(config.data.test)) if config.data.format == "coco" else None
    figures: dict[str, Any] = evaluate(test, read_results(folder / "detections.json", test), instances)
    return figures | {"skipped": summary.skipped}


def detect_to_folder(
    detector: Detector,
    paths: Sequence[Path],
    folder: Path,
    *,
    formats: Sequence[str] = (),
    draw: bool = False,
    score: float | None = None,
    only: str | None = None,
    workers: int = 0,
    strict: bool = False,
) -> Summary:
    """Detect in every file and write the results; see `DetectionWriter` for what and where.

    Args:
        score: leave out detections that score less.
        only: names of the classes to keep, ``"a,b"``; None keeps all.
        workers: images at a time; 0 is one a core.
        strict: raise UserError for a file that cannot be read, rather than skip it.
    """
    labels = _labels(detector.classes, only)
    summary = Summary()
    writer = DetectionWriter(folder, detector.classes, paths, formats, draw, score)
    results = detect_files(detector, paths, workers or os.cpu_count() or 1, strict)
    with writer:
        for path, result in zip(paths, track(results, "detection", len(paths)), strict=True):
            if isinstance(result, UnreadableImageError):
                summary.skipped.append(str(path))
                continue
            wanted = np.isin(result.detections["labels"], labels)
            writer.add(DetectedImage(path, result.image, select(result.detections, wanted)))
            summary.images += 1
    summary.found = writer.found
    return summary


def _labels(classes: tuple[str, ...], only: str | None) -> list[int]:
    names = list(classes) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UserError(f"the model knows no class {unknown[0]!r}; it knows {', '.join(classes)}")
    return [classes.index(name) for name in names]
