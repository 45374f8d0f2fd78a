"""``spp-det ablate``: the rows of the paper's table 9 on any data; no part of them is trained twice.

A row is a run that ``spp-det train`` could make by itself, and ends in the same model. Rows share a cache
and in it the proposals, the map of each scale, the fine-tuning, which is the same for fc6 and fc7, and the
regressor, which sees pool5 whatever layer the SVMs see. A row ``+bb`` is the model of the row before it with
a regressor, so one training makes both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.process import FROM_CACHE, goes_on, log_to
from spp_det.commands.proposals import propose
from spp_det.commands.terminal import say, show
from spp_det.commands.train import content_of, finish_training
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.config.settings import Config
    from spp_det.data.dataset import Split, Splits
    from spp_det.proposals.source import WindowSource
    from spp_det.training.stages import Trained
    from spp_det.training.table9 import Row

logger = logging.getLogger(__name__)

Result = dict[str, Any]


def ablate(
    config: options.Recipe,
    overrides: options.Overrides = None,
    rows: Annotated[
        str | None, typer.Option(help="Only these: pool5,ft-fc7+bb at all scales, pool5-1sc at one.")
    ] = None,
    five: Annotated[
        str | None,
        typer.Option(help="The several scales; if not said the recipe's own, or 480,576,688,864,1200."),
    ] = None,
    strict: options.Strict = False,
) -> None:
    """Train and score the rows of the paper's table 9: pool5, fc6, ft-fc6, ft-fc7, +bb, at 1 and 5 scales.

    The same command goes on after an interruption, and with other --rows adds those to the table.
    """
    from spp_det.config.file import load_config
    from spp_det.report.tables import ablation_table, missing_rows

    settings = load_config(config, options.overridden(overrides, strict))
    try:
        scales = None if five is None else [int(scale) for scale in five.split(",")]
    except ValueError:
        raise UserError(f"--five: {five!r} is not a list of scales such as 480,576,688") from None
    goes_on(FROM_CACHE)
    figures = run_ablation(settings, scales, rows, lambda: log_to(settings.output / "train.log"))
    show(ablation_table(figures))
    for name, error in missing_rows(figures).items():
        say(f"[yellow]{escape(name)}:[/] {escape(error)}")
    say(f"table: {escape(str(settings.output / 'ablation.md'))}")


def run_ablation(
    config: Config,
    several: Sequence[int] | None = None,
    wanted: str | None = None,
    begun: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Train and score the rows that are wanted (see `table_rows` and `choose`) and not yet there.

    Each row has a folder in the output folder, with the files of a training: model, settings, metrics and
    detections. The returned table is also in ``ablation.json``, and as Markdown in ``ablation.md``. Both are
    written after each row, so that a call after an interruption goes on. A row whose training fails holds the
    ``error`` instead of figures, and the next call tries it again. ``begun`` is called once the output folder
    is claimed.

    Raises UserError where no test split is named, another run is at work in the output folder, and where all
    wanted rows fail.
    """
    from spp_det.data.dataset import read_splits
    from spp_det.proposals.source import WindowSource
    from spp_det.runtime.devices import choose_device
    from spp_det.runtime.run_folder import alone_in
    from spp_det.training.table9 import choose, table_rows

    rows = table_rows(config, several)
    choose(rows, wanted)  # a wrong name is refused before any file is read, and so is a wrong device
    choose_device(config.runtime.device)
    splits = read_splits(config.data, config.seed)
    test = splits.test
    if test is None:
        raise UserError(f"data.test = {config.data.test}: every row is scored, so name a split")
    source = WindowSource(config.proposals)
    source.check((record.path, None) for record in test.dataset.records)
    content = _content(config, splits)
    rows = [replace(row, content=content) for row in rows]
    chosen = choose(rows, wanted)
    with alone_in(config.output):
        results = _kept(config, rows)
        begun()
        return _complete(config, rows, chosen, results, test, source)


def _content(config: Config, splits: Splits) -> str:
    """A digest of the content of all files that the rows are made of, whatever the names of the files."""
    from spp_det.runtime.cache import digest
    from spp_det.runtime.devices import bfloat16_pays, choose_device

    named = (config.backbone.weights, config.fc.weights, config.proposals.file, config.proposals.edge_model)
    files = [Path(name) for name in named if name is not None]
    pays, _ = bfloat16_pays(choose_device(config.runtime.device))  # a table's rows are of one precision
    parts: list[object] = [content_of(files, math.inf), pays if config.runtime.precision == "auto" else None]
    for dataset in (splits.train, *([splits.test.dataset] if splits.test else [])):
        parts += [dataset.classes, content_of(record.path for record in dataset.records)]
        for record in dataset.records:
            parts += [a.tobytes() for a in (record.boxes, record.labels, record.difficult, record.crowd)]
    return digest(*parts)


def _complete(
    config: Config,
    rows: Sequence[Row],
    chosen: Sequence[Row],
    results: dict[str, Result],
    test: Split,
    source: WindowSource,
) -> dict[str, Any]:
    """Make the chosen rows that ``results`` lacks, and return the table."""
    from spp_det.training.stages import cache_of

    missing = [row for row in chosen if "mAP50" not in results.get(row.name, {})]
    if missing:  # searched now, so that the timed detections find all windows in the cache
        propose(test.dataset, config.proposals, cache_of(config), config.runtime.workers, config.strict)
    for _, group in groupby(missing, key=lambda row: row.model):
        for row, result in _results(list(group), test, source):
            results[row.name] = result
            _write(config, rows, results)
    errors = [results[row.name].get("error") for row in chosen]
    if all(errors):
        raise UserError(f"no row could be had; {chosen[0].name}: {errors[0]}")
    return _write(config, rows, results)


def _kept(config: Config, rows: Sequence[Row]) -> dict[str, Result]:
    """The results of an earlier call for rows of the same settings and content, by name."""
    from spp_det.data.coco_file import load_json

    path = config.output / "ablation.json"
    if not path.exists():
        return {}
    try:
        kept = {result["key"]: result for result in load_json(path)["rows"]}
    except (KeyError, TypeError):
        raise UserError(f"{path}: is not the table of an ablation; move it away") from None
    return {
        row.name: kept[row.key]
        for row in rows
        if row.key in kept
        and _is_result(row, kept[row.key])
        and ("error" in kept[row.key] or (row.config.output / "model.safetensors").exists())
    }


def _is_result(row: Row, result: Result) -> bool:
    """Whether a result from a file has the form of those that `_results` makes."""
    if not _described(row).items() <= result.items():
        return False
    if "error" in result:
        return isinstance(result["error"], str)
    if not {"mAP50", "mAP75", "train_seconds", "detect_seconds"} <= result.keys():
        return False
    figures = [result[name] for name in ("mAP50", "mAP75", "detect_seconds")]
    numbers = [result["train_seconds"], *(figure for figure in figures if figure is not None)]
    return all(type(number) in (int, float) for number in numbers)


def _write(config: Config, rows: Sequence[Row], results: dict[str, Result]) -> dict[str, Any]:
    from spp_det.report.tables import ablation_markdown
    from spp_det.runtime.whole_files import write_json, write_whole

    figures = {
        "backbone": config.backbone.name,
        "train": config.data.train,
        "test": config.data.test,
        "rows": [results[row.name] for row in rows if row.name in results],
    }
    write_json(config.output / "ablation.json", figures)
    write_whole(config.output / "ablation.md", ablation_markdown(figures))
    return figures


def _results(group: Sequence[Row], test: Split, source: WindowSource) -> Iterator[tuple[Row, Result]]:
    """Train one model and score each of its rows: without its regressor, with it, or both."""
    from spp_det.config.file import dump_config
    from spp_det.runtime.files import unlinked
    from spp_det.runtime.run_folder import alone_in
    from spp_det.runtime.whole_files import write_whole
    from spp_det.training import stages
    from spp_det.training.network import settled

    try:
        for row in group:
            if row.refusal is not None:
                raise UserError(row.refusal)
        logger.info("training %s", group[-1].name)
        trained = stages.train(group[-1].config)  # the row with the regressor comes last
    except UserError as error:
        logger.warning("%s: %s", group[-1].name, error)
        for row in group:
            yield row, _described(row) | {"error": str(error)}
        return
    for row in group:
        model = trained if row.config.bbox.enabled else _without_regressor(trained)
        with alone_in(unlinked(row.config.output.parent, row.name)):
            ran = settled(row.config, model.detector.features.backbone, trained.config.svm)
            write_whole(row.config.output / "config.yaml", dump_config(ran))
            metrics = finish_training(row.config, model, test, source)
        yield row, _described(row) | _figures(row, metrics, test)


def _described(row: Row) -> Result:
    scales = None if row.config.features == "rcnn" else list(row.config.backbone.scales)
    return {"name": row.name, "key": row.key, "kind": row.kind, "scales": scales}


def _without_regressor(trained: Trained) -> Trained:
    """The model and metrics that a training without box regression gives."""
    from spp_det.model.detector import Detector

    d = trained.detector
    seconds = {name: lap for name, lap in trained.metrics["seconds"].items() if name != "bbox"}
    detector = Detector(d.classes, d.features, d.head, d.scorer, (), d.settings)
    return replace(trained, detector=detector, metrics=trained.metrics | {"seconds": seconds})


def _figures(row: Row, metrics: dict[str, Any], test: Split) -> Result:
    """mAP by area, fractions of 1 (None where the test images hold no object), and seconds.

    The seconds of the training leave out what the cache had. The seconds of the detection are those of the
    clock with all cores at work, an image, without the search for its windows. They are None where an earlier
    call had detected in all images.
    """
    from spp_det.evaluation.results import read_results
    from spp_det.evaluation.undefined import as_json
    from spp_det.evaluation.voc import evaluate_voc

    found = read_results(row.config.output / "test" / "detections.json", test.dataset).detections
    strict = evaluate_voc(test.dataset, found, iou_threshold=0.75).mAP_area
    timed = metrics["test"]["timed_images"]
    return {
        "mAP50": metrics["test"]["voc"]["mAP_area"],
        "mAP75": as_json(strict),
        "train_seconds": round(sum(metrics["seconds"].values()), 2),
        "detect_seconds": round(metrics["test"]["seconds"] / timed, 4) if timed else None,
        "seconds": metrics["seconds"],
    }
