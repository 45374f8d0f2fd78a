"""``spp-det detect``: find objects in image files and write the detections to one folder."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.process import goes_on
from spp_det.commands.terminal import say, say_skipped
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.config.settings import Proposals
    from spp_det.detections.output import Output
    from spp_det.detections.types import Result
    from spp_det.images import Skipped
    from spp_det.model.ensemble import AnyDetector
    from spp_det.model.probability import Probabilities
    from spp_det.proposals.source import WindowSource
    from spp_det.runtime.cache import Cache

logger = logging.getLogger(__name__)

ScoreKind = Literal["margin", "probability"]


def detect(
    model: Annotated[
        Path, typer.Argument(help="A model.safetensors; more of them may follow, to be combined.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Images, folders, patterns, lists (.txt, VOC splits), - for a list on stdin."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for what was found: detections.json, images.json ...")],
    draw: Annotated[bool, typer.Option("--draw", help="Also pictures with boxes.")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also voc, yolo, csv, devkit, cvat or label-studio; repeatable."),
    ] = None,
    no_scores: Annotated[
        bool, typer.Option("--no-scores", help="YOLO's lines without a score, as labelling tools want them.")
    ] = False,
    save_crops: Annotated[bool, typer.Option("--save-crops", help="Also each object cut out.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the same command left unfinished there.")
    ] = False,
    score: Annotated[float | None, typer.Option(help="Leave out what scores less.")] = None,
    score_kind: Annotated[
        ScoreKind, typer.Option("--score-kind", help="What --score and every file mean by a score.")
    ] = "margin",
    classes: Annotated[str | None, typer.Option(help="Only these, as a,b,c.")] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = 0,
    strict: options.Strict = False,
    proposals: options.ProposalFile = None,
    edge_model: options.EdgeModel = None,
    follow_links: options.FollowLinks = False,
) -> None:
    """Find objects in images. Scores above 0 say yes: pictures show those unless --score is given.

    With --score-kind probability a score is the share of such detections that are right: pictures show .5 and
    more.

    Of several models the windows are pooled by NMS: the model that scores higher decides. What an earlier run
    wrote to the folder is removed, unless --resume goes on with it. By N processes or on N GPUs: torchrun
    --nproc-per-node N -m spp_det detect MODEL IMAGES --out DIR.
    """
    from spp_det.data.folder import Refused, find_images
    from spp_det.detections.output import Output
    from spp_det.images import skipped
    from spp_det.model.ensemble import load_detector
    from spp_det.runtime import distributed
    from spp_det.runtime.devices import choose_device

    others = [Path(name) for name in takewhile(lambda name: name.endswith(".safetensors"), images)]
    if len(others) == len(images):
        raise UserError("say which images to look at, after the models")
    if distributed.world_size() > 1 and "-" in images:
        raise UserError("several processes cannot share a list on stdin: write it to a file, and name that")
    linked: Refused = {}
    paths = find_images(images[len(others) :], follow_links=follow_links, refused=None if strict else linked)
    for error in linked.values():
        logger.warning("skipped: %s", error)
    own_device = choose_device(device)
    lowest = 0.5 if score_kind == "probability" else 0.0
    output = Output(formats or (), draw, save_crops, score, draw_score=lowest, scores=not no_scores)
    goes_on("the same command goes on after the images that are done" + ("" if resume else ", with --resume"))
    with distributed.process_group(own_device):
        detector = load_detector([model, *others], str(own_device), precision)
        source = windows_for(detector.searches, proposals, edge_model)
        summary = detect_to_folder(
            *(detector, paths, out, output),
            only=classes,
            workers=workers,
            strict=strict,
            source=source,
            resume=resume,
            score_kind=score_kind,
        )
    if not distributed.is_first():
        return
    say(f"[bold green]found[/] {summary.found} detections in {summary.images} images: {escape(str(out))}")
    say_skipped([*summary.skipped, *(skipped(path, error) for path, error in linked.items())])
    if not summary.images:
        first = summary.skipped[0]
        raise UserError(f"no image could be read, the first was {first['file']}: {first['reason']}")


@dataclass
class Summary:
    """What a detection run did.

    Attributes:
        images: how many images were read.
        found: how many detections were written.
        skipped: the files that could not be read, and why.
        read_now: how many of the images this call read; an earlier call that it went on with read the others.
    """

    images: int = 0
    found: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    read_now: int = field(default=0, compare=False)


def detect_to_folder(
    detector: AnyDetector,
    paths: Sequence[Path],
    folder: Path,
    output: Output | None = None,
    *,
    only: str | None = None,
    workers: int = 0,
    strict: bool = False,
    source: WindowSource | None = None,
    cache: Cache | None = None,
    resume: bool = False,
    run: Mapping[str, object] | None = None,
    score_kind: ScoreKind = "margin",
) -> Summary:
    """Detect in every file and write the detections to a folder, whose files `DetectionWriter` describes.

    Several processes share the files out. The first process writes, and its summary alone counts anything.

    Args:
        output: what the folder holds; None: the COCO results list alone.
        only: names of the classes to keep, ``"a,b"``; None keeps all.
        workers: images at a time; 0 is one a core.
        strict: raise UserError for a file that cannot be read, rather than skip it.
        source: gives the windows; None: the searches of the model's training.
        cache: where the windows of ``source`` are looked up and kept.
        resume: go on with what an interrupted run left in the folder. Raises CannotResumeError where that run
            had another model, other windows, images or options.
        score_kind: ``probability`` writes that in the place of the detector's scores.
        run: whatever else must be equal for two runs to be the same, by name, as JSON can hold it.

    Raises UserError where another run is at work in the folder, and for probabilities that the model lacks.
    """
    import numpy as np

    from spp_det.data.records import select
    from spp_det.detections.output import Output
    from spp_det.detections.types import DetectedImage
    from spp_det.detections.writer import DetectionWriter
    from spp_det.images import UnreadableImageError
    from spp_det.inference import detect_files
    from spp_det.model.detector import label_of
    from spp_det.runtime import distributed
    from spp_det.runtime.progress import track
    from spp_det.runtime.run_folder import alone_in
    from spp_det.runtime.threads import cores
    from spp_det.runtime.whole_files import naming

    meaning = meaning_of(detector, score_kind)
    output = replace(
        output or Output(), probability=detector.probability, are_probabilities=meaning is not None
    )
    names = detector.classes if only is None else [name.strip() for name in only.split(",")]
    labels = [label_of(detector.classes, name) for name in names]
    source = source or windows_for(detector.searches)
    source.check((path, None) for path in paths)

    def results(done: int) -> Iterator[Result]:
        """Of the images that the first process has not done. It alone knows their number and tells it."""
        shared = distributed.from_first({"done": np.array(done)}) or {}
        todo, alone = paths[int(shared["done"]) :], len(paths) == 1
        return detect_files(detector, todo, workers or cores(), source, strict, cache, alone=alone)

    if not distributed.is_first():
        deque(results(0), maxlen=0)
        return Summary()
    about = {
        "model": detector.identity(),
        "windows": source.identity(),
        "--classes": [detector.classes[label] for label in labels],
        "--strict": strict,
        **({} if meaning is None else {"--score-kind": score_kind}),
        **(run or {}),
    }
    writer = DetectionWriter(folder, detector.classes, paths, output, resume, about)
    with alone_in(folder), naming(folder), writer:
        done, before = writer.done, writer.images
        shown = track(results(done), "detection", len(paths), done=done)
        for path, result in zip(paths[done:], shown, strict=True):
            if isinstance(result, UnreadableImageError):
                writer.skip(path, result)
                continue
            found = result.detections if meaning is None else meaning.of(result.detections)
            wanted = np.isin(found["labels"], labels)
            writer.add(DetectedImage(path, result.image, select(found, wanted)))
    return Summary(writer.images, writer.found, writer.skipped, writer.images - before)


def meaning_of(detector: AnyDetector, score_kind: ScoreKind) -> Probabilities | None:
    """What turns the detector's scores into the wanted ones; None for scores as they are.

    Raises UserError where the model has no probabilities.
    """
    if score_kind == "margin":
        return None
    if detector.probability is None:
        raise UserError(
            f"--score-kind probability: {detector.name} has no probabilities (models of earlier versions, of "
            "fine-tuning, of R-CNN and of very few photos have none, nor have several together): train "
            "it again, or leave --score-kind out"
        )
    return detector.probability


def windows_for(
    searches: Sequence[Proposals], file: Path | None = None, edge_model: Path | None = None
) -> WindowSource:
    """The windows of a file or of Edge Boxes that the user names, or else of the training's ``searches``.

    Raises UserError where the user names both, and where neither the user nor the model has windows.
    """
    from spp_det.proposals.source import WindowSource, proposals_of

    if file is not None and edge_model is not None:
        raise UserError("windows come from one place: --proposals or --edge-model, not both")
    if file is not None:
        return WindowSource(proposals_of("file", file=file))
    if edge_model is not None:
        return WindowSource(proposals_of("edgeboxes", searches[0].max_side, edge_model=edge_model))
    return WindowSource.of_model(
        searches, "name the windows of these images, --proposals FILE, or a model of edges, --edge-model FILE"
    )
