"""What ``spp-det detect`` does: find objects in files and write them to one folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spp_det.config.settings import Proposals
from spp_det.detections.types import DetectedImage, Result
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.images import Skipped, UnreadableImageError
from spp_det.inference import detect_files
from spp_det.model.detector import label_of, select
from spp_det.model.ensemble import AnyDetector
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.runtime import distributed
from spp_det.runtime.cache import Cache, naming
from spp_det.runtime.progress import track
from spp_det.runtime.run_folder import alone_in
from spp_det.runtime.threads import cores


@dataclass
class Summary:
    """What a detection run did.

    Attributes:
        images: how many were read.
        found: how many detections were written.
        skipped: the files that could not be read, and why.
        read_now: how many of the images this call read; the others are of the one that it went on with.
    """

    images: int = 0
    found: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    read_now: int = field(default=0, compare=False)


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
    run: Mapping[str, object] | None = None,
) -> Summary:
    """Detect in every file and write the results; see `DetectionWriter` for what and where.

    Several processes share the files out; the first one writes, and alone has a summary.

    Args:
        score: leave out detections that score less.
        only: names of the classes to keep, ``"a,b"``; None keeps all.
        workers: images at a time; 0 is one a core.
        strict: raise UserError for a file that cannot be read, rather than skip it.
        source: of the windows; None: those that the detector proposes.
        resume: go on with what an interrupted run left in the folder, if there is anything. CannotResumeError
            where that run was another: of another model, other windows, images or options.
        cache: where the windows of ``source`` are looked up and kept.
        run: what else is to be equal for a run to be the same, by name, as JSON has it.

    Raises UserError where another run is at work in the folder.
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
    about = {
        "model": detector.identity(),
        "windows": "its own" if source is None else source.identity(),
        "--classes": [detector.classes[label] for label in labels],
        "--strict": strict,
        **(run or {}),
    }
    writer = DetectionWriter(
        folder, detector.classes, paths, formats, draw, score, crops=crops, resume=resume, run=about
    )
    with alone_in(folder), naming(folder), writer:
        done, before = writer.done, writer.images
        shown = track(results(done), "detection", len(paths), done=done)
        for path, result in zip(paths[done:], shown, strict=True):
            if isinstance(result, UnreadableImageError):
                writer.skip(path, result)
                continue
            wanted = np.isin(result.detections["labels"], labels)
            writer.add(DetectedImage(path, result.image, select(result.detections, wanted)))
    return Summary(writer.images, writer.found, writer.skipped, writer.images - before)


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
    names = classes if only is None else [name.strip() for name in only.split(",")]
    return [label_of(classes, name) for name in names]
