"""What `spp-det ablate` does: the rows of the paper's table 9 on any data, none of their parts trained twice.

A row is a run that `spp-det train` could make by itself, with the same model in the end. What rows have in
common comes from the cache that they share: proposals, the map of each scale, the fine-tuning, which is one
for fc6 and fc7, and the regressor, which sees pool5 whatever the SVMs see. A row ``+bb`` is the model of the
row before it with its regressor, so the two are trained at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from spp_det.commands.proposals import propose
from spp_det.commands.train import content_of, finish_training
from spp_det.config.file import dump_config, parse_config
from spp_det.config.settings import FC, FIVE_SCALES, BoxRegression, Config, FineTune
from spp_det.config.settings import Backbone as BackboneSettings
from spp_det.data.records import Dataset
from spp_det.detections.reader import read_json
from spp_det.errors import UserError
from spp_det.evaluation.results import or_none, read_results
from spp_det.evaluation.voc import evaluate_voc
from spp_det.model.detector import Detector
from spp_det.model.head import IMAGENET
from spp_det.proposals.source import WindowSource
from spp_det.report.ablation import ablation_markdown
from spp_det.runtime.cache import digest, write_json, write_whole
from spp_det.runtime.run_folder import alone_in
from spp_det.training.stages import Trained, cache_of, read_dataset, train
from spp_det.version import __version__

logger = logging.getLogger(__name__)

Result = dict[str, Any]

MODELS: dict[str, tuple[Literal["pool5", "fc6", "fc7"], bool]] = {
    "pool5": ("pool5", False),
    "fc6": ("fc6", False),
    "ft-fc6": ("fc6", True),
    "ft-fc7": ("fc7", True),
}
"""What the SVMs of a row see, and whether it was fine-tuned (P table 9)."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        kind: a key of `MODELS`, followed by ``+bb`` where boxes are regressed.
        scales: as names have it: ``1sc``, ``5sc``; ``rcnn`` where windows are warped.
        config: of the run that makes it; sections that are idle in it are at their defaults.
        refusal: why there is no such row; None where there is.
        content: a key of the images, annotations and other files that it is made of.
    """

    kind: str
    scales: str
    config: Config
    refusal: str | None = None
    content: str = ""

    @property
    def name(self) -> str:
        """Of the row and of its folder."""
        return f"{self.kind}-{self.scales}"

    @property
    def model(self) -> tuple[str, str]:
        """Equal for rows that differ in the regressor alone."""
        return self.kind.removesuffix("+bb"), self.scales

    @property
    def key(self) -> str:
        """Of everything that its figures depend on."""
        asked = self.config.model_dump(
            mode="json",
            exclude={"output": True, "strict": True, "runtime": True, "data": {"follow_links"}},
        )
        return digest(__version__, asked, self.content)


def table_rows(config: Config, several: Sequence[int] | None = None) -> list[Row]:
    """All rows of a recipe's table: each model, without and with box regression, at one scale and at several.

    The one scale is the recipe's; of a recipe with several it is the one in the middle, as the paper's 688
    is of its five. ``several`` are the recipe's own if None, or else the paper's five. R-CNN has no scales.

    Raises UserError where ``several`` are not at least two that a recipe could have.
    """
    own = config.backbone.scales
    if config.features == "rcnn":
        choices = {"rcnn": own}
    else:
        several = several or (own if len(own) > 1 else FIVE_SCALES)
        if len(several) < 2:
            raise UserError(f"--five: name at least two scales, not {several[0]}")
        choices = {"1sc": (own[len(own) // 2],), f"{len(several)}sc": tuple(several)}
    rows = []
    for label, scales in choices.items():
        settings = config.backbone.model_dump(mode="json") | {"scales": list(scales)}
        backbone = parse_config({"backbone": settings}, f"the rows at scales {list(scales)}").backbone
        for model in MODELS:
            for kind in (model, f"{model}+bb"):
                rows.append(_row(config, kind, label, backbone))
    return rows


def _row(config: Config, kind: str, label: str, backbone: BackboneSettings) -> Row:
    layer, tuned = MODELS[kind.removesuffix("+bb")]
    asked = config.model_copy(
        update={
            "output": config.output / f"{kind}-{label}",
            "backbone": backbone,
            "fc": FC() if layer == "pool5" else config.fc.model_copy(update={"layer": layer}),
            "finetune": (
                config.finetune.model_copy(update={"enabled": True, "layer": "fc7"}) if tuned else FineTune()
            ),
            "scorer": "svm",
            "bbox": (
                config.bbox.model_copy(update={"enabled": True})
                if kind.endswith("+bb")
                else BoxRegression(enabled=False)
            ),
            "runtime": config.runtime.model_copy(update={"cache": cache_of(config).folder}),
        }
    )
    refusal = None
    if kind.startswith("fc6") and config.fc.weights == "default" and backbone.name not in IMAGENET:
        refusal = f"torchvision has no fc6 of {backbone.name} to take as it is; fc.weights=FILE names one"
    return Row(kind, label, asked, refusal)


def choose(rows: Sequence[Row], wanted: str | None) -> list[Row]:
    """Those rows that ``wanted`` names, ``"pool5,ft-fc7+bb-5sc"``: by kind, at all scales, or whole; None
    chooses all. Raises UserError for a name that none has."""
    if wanted is None:
        return list(rows)
    names = {name.strip() for name in wanted.split(",")}
    if unknown := sorted(names - {name for row in rows for name in (row.kind, row.name)}):
        kinds = ", ".join(dict.fromkeys(row.kind for row in rows))
        raise UserError(
            f"--rows: no row is called {unknown[0]!r}; there are {kinds}, each at all scales, "
            f"and by itself as {rows[-1].name}"
        )
    return [row for row in rows if {row.kind, row.name} & names]


def run_ablation(
    config: Config,
    several: Sequence[int] | None = None,
    wanted: str | None = None,
    begun: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Train and score the rows that are wanted (see `table_rows` and `choose`) and not yet there.

    Each row's folder in the output is that of a training: model, settings, metrics, detections. What is
    returned is in ``ablation.json``, and for people in ``ablation.md``; both are written again after each
    row, so that a call after an interruption goes on. A row that cannot be had holds the ``error`` instead of
    figures, and is tried again by the next call. ``begun`` is called once the output is this call's.

    Raises UserError where no test split is named, another run is at work in the output, and where none of the
    wanted rows can be had.
    """
    if config.data.test is None:
        raise UserError("data.test = None: every row is scored, so name a split")
    rows = table_rows(config, several)
    choose(rows, wanted)  # refused before anything is read
    test = read_dataset(config.data, config.data.test)
    source = WindowSource(config.proposals)
    source.check((record.path, None) for record in test.records)
    content = _content(config, test)
    rows = [replace(row, content=content) for row in rows]
    chosen = choose(rows, wanted)
    with alone_in(config.output):
        results = _kept(config, rows)
        begun()
        return _had(config, rows, chosen, results, test, source)


def _content(config: Config, test: Dataset) -> str:
    """A key of what the files hold that all rows are made of, whatever their names."""
    train = read_dataset(config.data, config.data.train, config.data.classes)
    named = (config.backbone.weights, config.fc.weights, config.proposals.file, config.proposals.edge_model)
    files = [Path(name) for name in named if name is not None]
    parts: list[object] = [content_of(files)]
    for dataset in (train, test):
        parts += [dataset.classes, content_of(record.path for record in dataset.records)]
        for record in dataset.records:
            parts += [a.tobytes() for a in (record.boxes, record.labels, record.difficult, record.crowd)]
    return digest(*parts)


def _had(
    config: Config,
    rows: Sequence[Row],
    chosen: Sequence[Row],
    results: dict[str, Result],
    test: Dataset,
    source: WindowSource,
) -> dict[str, Any]:
    """The table after those of the chosen rows that ``results`` lacks were made."""
    missing = [row for row in chosen if "mAP50" not in results.get(row.name, {})]
    if missing:  # before any detection is timed
        propose(test, config.proposals, cache_of(config), config.runtime.workers, config.strict)
    for _, group in groupby(missing, key=lambda row: row.model):
        for row, result in _results(list(group), test, source):
            results[row.name] = result
            _write(config, rows, results)
    errors = [results[row.name].get("error") for row in chosen]
    if all(errors):
        raise UserError(f"no row could be had; {chosen[0].name}: {errors[0]}")
    return _write(config, rows, results)


def _kept(config: Config, rows: Sequence[Row]) -> dict[str, Result]:
    """What an earlier call found out about rows by the same settings, by name."""
    path = config.output / "ablation.json"
    if not path.exists():
        return {}
    try:
        kept = {result["key"]: result for result in read_json(path)["rows"]}
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
    """Whether it is one that `_results` gives; the row is made again where it is not."""
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
    figures = {
        "backbone": config.backbone.name,
        "train": config.data.train,
        "test": config.data.test,
        "rows": [results[row.name] for row in rows if row.name in results],
    }
    write_json(config.output / "ablation.json", figures)
    write_whole(config.output / "ablation.md", ablation_markdown(figures))
    return figures


def _results(group: Sequence[Row], test: Dataset, source: WindowSource) -> Iterator[tuple[Row, Result]]:
    """Train one model, and score each of its rows: as it is and with its regressor, or one of both."""
    try:
        for row in group:
            if row.refusal is not None:
                raise UserError(row.refusal)
        logger.info("training %s", group[-1].name)
        trained = train(group[-1].config)  # the one with the regressor, if it is among them
    except UserError as error:
        logger.warning("%s: %s", group[-1].name, error)
        for row in group:
            yield row, _described(row) | {"error": str(error)}
        return
    for row in group:
        model = trained if row.config.bbox.enabled else _without_regressor(trained)
        with alone_in(row.config.output):
            write_whole(row.config.output / "config.yaml", dump_config(row.config))
            metrics = finish_training(row.config, model, test, source)
        yield row, _described(row) | _figures(row, metrics, test)


def _described(row: Row) -> Result:
    scales = None if row.config.features == "rcnn" else list(row.config.backbone.scales)
    return {"name": row.name, "key": row.key, "kind": row.kind, "scales": scales}


def _without_regressor(trained: Trained) -> Trained:
    """The model as a training without box regression makes it, with that one's figures."""
    d = trained.detector
    seconds = {name: lap for name, lap in trained.metrics["seconds"].items() if name != "bbox"}
    detector = Detector(d.classes, d.features, d.head, d.scorer, (), d.settings)
    return replace(trained, detector=detector, metrics=trained.metrics | {"seconds": seconds})


def _figures(row: Row, metrics: dict[str, Any], test: Dataset) -> Result:
    """mAP by area, fractions of 1 (None where the test images hold nothing), and seconds.

    Those of the training are without what the cache had; those of the detection are of the clock, with all
    cores at work, an image, without the search for its windows; None where an earlier call had found all.
    """
    found = read_results(row.config.output / "test" / "detections.json", test).detections
    strict = evaluate_voc(test, found, iou_threshold=0.75).mAP_area
    timed = metrics["test"]["timed_images"]
    return {
        "mAP50": metrics["test"]["voc"]["mAP_area"],
        "mAP75": or_none(strict),
        "train_seconds": round(sum(metrics["seconds"].values()), 2),
        "detect_seconds": round(metrics["test"]["seconds"] / timed, 4) if timed else None,
        "seconds": metrics["seconds"],
    }
