"""``spp-det train``: train a detector, write it to one folder, and score it on a test split."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.detect import Summary, detect_to_folder
from spp_det.commands.process import FROM_CACHE, goes_on, log_to
from spp_det.commands.terminal import say, say_skipped, show_figures
from spp_det.errors import CannotResumeError, UserError
from spp_det.runtime.files import MOST_BYTES

if TYPE_CHECKING:
    from spp_det.config.settings import Config
    from spp_det.data.dataset import Split, Splits
    from spp_det.data.records import Detections
    from spp_det.model.ensemble import AnyDetector
    from spp_det.model.probability import Probabilities
    from spp_det.proposals.source import WindowSource
    from spp_det.training.inputs import Inputs
    from spp_det.training.stages import Trained

logger = logging.getLogger(__name__)

# Settings that may change when a run goes on, because nothing that is computed depends on them.
IDLE = frozenset(
    {
        "output",
        "strict",
        "data.follow_links",
        "runtime.device",
        "runtime.workers",
        "runtime.cache",
        "runtime.maps_gb",
    }
)


def train(
    config: options.Recipe, overrides: options.Overrides = None, strict: options.Strict = False
) -> None:
    """Train a detector: model.safetensors, config.yaml, metrics.json and train.log in the output folder.

    By N processes or on N GPUs: torchrun --nproc-per-node N -m spp_det train CONFIG.
    """
    from spp_det.config.file import load_config
    from spp_det.runtime import distributed

    settings = load_config(config, options.overridden(overrides, strict))
    goes_on(FROM_CACHE)
    metrics = run_training(settings, lambda: log_to(settings.output / "train.log"))
    if not distributed.is_first():
        return
    if "test" in metrics:
        show_figures(metrics["test"])
    say_skipped([*metrics["skipped"], *metrics.get("test", {}).get("skipped", [])])
    model = escape(str(settings.output / "model.safetensors"))
    seconds = sum(metrics["seconds"].values())
    say(f"[bold green]trained[/] on {metrics['images']} images in {seconds:.0f} s: {model}")
    say(f"next: spp-det detect {model} FOLDER --out found --draw")


def run_training(config: Config, begun: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Train by the configuration and, if it names a test split, detect there and score the detections.

    Writes ``model.safetensors``, ``config.yaml`` and ``metrics.json`` to the output folder, and the
    detections in the test images to its folder ``test``. Returns the metrics. Those of the test are under
    ``test``, with the seconds of the detection, which reads the windows that the cache has.

    An interrupted run goes on when it is called again, and ends in the same model. A finished run that is
    called again takes every stage from the cache and writes the same files. ``begun`` is called once the
    output folder is claimed. Raises UserError where the folder is another configuration's, or another run is
    at work there; nothing is changed then.

    Under ``torchrun`` every process calls this function. The first process writes, and it alone has figures
    of the test. The number of processes may change between interruption and going on.
    """
    from spp_det.runtime import distributed
    from spp_det.runtime.devices import choose_device
    from spp_det.runtime.run_folder import claimed

    device = choose_device(config.runtime.device)
    with distributed.process_group(device):
        inputs = read_checked(config)  # a folder is claimed by what can run, not by a slip in a path
        with claimed(config, config.output, IDLE) as config:
            begun()
            if distributed.is_first():
                tell_of_data(inputs.splits)
            metrics = train_and_score(config, inputs)
            distributed.barrier()  # no process returns before the files are there
    return metrics


def tell_of_data(splits: Splits) -> None:
    """Say in three lines how much there is to learn from, how large the objects are, and what is odd."""
    from spp_det.data.inspection import in_three_lines, look_at

    named = {"training": splits.train} | ({} if splits.test is None else {"test": splits.test.dataset})
    for line in in_three_lines(look_at(named)):
        logger.info("%s", line)


def read_checked(config: Config) -> Inputs:
    """The data and weights of a training. A missing window is reported now, not after hours of training."""
    from spp_det.proposals.source import WindowSource
    from spp_det.training.inputs import read_inputs

    inputs = read_inputs(config)
    if inputs.splits.test is not None:
        records = inputs.splits.test.dataset.records
        WindowSource(config.proposals).check((record.path, None) for record in records)
    return inputs


def train_and_score(config: Config, inputs: Inputs) -> dict[str, Any]:
    """What `run_training` does in an output folder that is claimed.

    ``config.yaml`` there gets what was chosen where the settings say ``auto``: a machine that would choose
    another precision goes on with it.
    """
    from spp_det.config.file import dump_config
    from spp_det.data.dataset import HELD_OUT
    from spp_det.proposals.source import WindowSource
    from spp_det.runtime import distributed
    from spp_det.runtime.whole_files import write_whole
    from spp_det.training import stages

    if (config.output / "model.safetensors").exists():
        logger.info("%s was trained before: taking what can be taken from the cache", config.output)

    def record(settled: Config) -> None:
        if distributed.is_first():
            write_whole(config.output / "config.yaml", dump_config(settled))
            if held_out := inputs.splits.held_out:
                write_whole(config.output / HELD_OUT, "".join(f"{name}\n" for name in held_out))

    trained = stages.train(config, inputs, record)
    return finish_training(config, trained, inputs.splits.test, WindowSource(config.proposals))


def finish_training(
    config: Config, trained: Trained, test: Split | None, source: WindowSource
) -> dict[str, Any]:
    """Write a trained model, its detections in the test images and their figures to the output folder.

    Writes all files of `run_training` but ``config.yaml``, and returns the same metrics.
    """
    from spp_det.runtime import distributed
    from spp_det.runtime.whole_files import write_json

    metrics = dict(trained.metrics)
    if distributed.is_first():
        trained.detector.save(config.output / "model.safetensors")
    if test is not None:
        metrics["test"] = _score(trained.detector, config, test, source)
    if distributed.is_first():
        write_json(config.output / "metrics.json", metrics)
    return metrics


def _score(detector: AnyDetector, config: Config, test: Split, source: WindowSource) -> dict[str, Any]:
    """Figures of the detections in the test images; nothing in all but the first process."""
    from spp_det.evaluation.results import evaluate, read_results
    from spp_det.runtime import distributed

    start = time.perf_counter()
    summary = _detect(detector, config, test, source)
    if not distributed.is_first():
        return {}
    seconds = time.perf_counter() - start
    found = read_results(config.output / "test" / "detections.json", test.dataset)
    figures = evaluate(test.dataset, found, test.instances).figures()
    if detector.probability is not None:
        own = detector.probability.of_classes(detector.classes, test.dataset.classes)
        figures["probability"] = _reliability(own, test, found.detections)
    timed = {"seconds": round(seconds, 2), "timed_images": summary.read_now}
    return figures | {"skipped": summary.skipped, **timed}


def _reliability(
    probability: Probabilities, test: Split, detections: Sequence[Detections]
) -> dict[str, float | int | None]:
    """How well the probabilities of the detections in the test images fit: curves and labels are those of the
    test's classes."""
    import numpy as np

    from spp_det.data.matching import Outcome
    from spp_det.evaluation.undefined import as_json
    from spp_det.evaluation.voc import match
    from spp_det.model.probability import reliability

    outcome = match(test.dataset, detections).outcome
    counted = outcome != Outcome.IGNORED
    p = np.concatenate([probability(found["scores"], found["labels"]) for found in detections])
    figures: dict[str, float | int | None] = as_json(
        reliability(p[counted], outcome[counted] == Outcome.TRUE)
    )
    return figures


def _detect(detector: AnyDetector, config: Config, test: Split, source: WindowSource) -> Summary:
    """Detect in the test images, except those that the same model has already seen with the same content."""
    from spp_det.runtime import distributed
    from spp_det.runtime.files import unlinked
    from spp_det.training.stages import cache_of

    paths = [record.path for record in test.dataset.records]
    content = content_of(paths) if distributed.is_first() else ""

    detect = partial(
        detect_to_folder,
        detector,
        paths,
        unlinked(config.output, "test"),
        workers=config.runtime.workers,
        strict=config.strict,
        source=source,
        cache=cache_of(config),
        run={"content of the images": content},
    )
    try:
        return detect(resume=True)
    except CannotResumeError as error:  # raised before the other processes were asked for anything
        logger.info("detecting anew: %s", error)
        return detect(resume=False)


def content_of(paths: Iterable[Path], most: float = MOST_BYTES) -> str:
    """A digest of the bytes of all files, in order. An unreadable file, or one of more than so many bytes,
    counts as such, whatever its bytes."""
    from spp_det.runtime.cache import digest, file_digest

    def key(path: Path) -> str:
        try:
            return file_digest(path, most)
        except (OSError, ValueError, UserError):
            return ""

    return digest([key(path) for path in paths])
