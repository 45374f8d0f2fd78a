"""``spp-det tune``: choose settings on folds of the training photos; the test split is never read.

One key after the other is chosen, in the order of `KEYS`: all values of it are tried with the best values of
the keys before it, and with middle values of the keys after it. A recipe that is far off therefore does not
lead the search astray. A value takes the middle one's place where it is better by more than chance.

Better is a higher mean of mAP at IoU .5 and .75: the first alone does not see that boxes fit badly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.process import log_to
from spp_det.commands.terminal import say, show
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.config.settings import Config
    from spp_det.data.records import Detections
    from spp_det.training.tuning import Trials

logger = logging.getLogger(__name__)

SUPPRESSION = "detection.nms"
GRID: Mapping[str, tuple[object, ...]] = {
    "pyramid.normalize": ("hellinger", "none"),
    "svm.flips": (),  # the recipe's own, unless asked for: mirrored examples cost as much again
    "svm.C": (0.001, 0.003, 0.01),
    "svm.positive_iou": (0.7, 1.0),
    "bbox.ridge": (300.0, 1000.0, 4000.0),
    SUPPRESSION: ("soft 0.3", 0.3),
}
"""The values that are tried beside the recipe's own, and the order in which keys are chosen."""
MIDDLE: Mapping[str, object] = {
    "pyramid.normalize": "hellinger",
    "svm.flips": False,
    "svm.C": 0.003,
    "svm.positive_iou": 0.7,
    "bbox.ridge": 1000.0,
    SUPPRESSION: "soft 0.3",
}

Trial = dict[str, Any]


def tune(
    config: options.Recipe,
    overrides: options.Overrides = None,
    try_: Annotated[
        list[str] | None,
        typer.Option("--try", help="svm.C=0.001,0.01: these values instead; of one key a time, repeatable."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=10, help="Parts of the training photos.")] = 3,
    strict: options.Strict = False,
) -> None:
    """Choose C, positive_iou, ridge, normalisation and suppression on folds of the training photos.

    Writes tuned.yaml, a recipe with what won, for train; tune.json and tune.md, all that was tried. The keys
    are pyramid.normalize, svm.flips, svm.C, svm.positive_iou, bbox.ridge and detection.nms, whose values are
    numbers or 'soft SIGMA'.
    """
    from spp_det.config.file import load_config
    from spp_det.report.tables import tuning_table

    settings = load_config(config, options.overridden(overrides, strict))
    figures = run_tuning(
        settings, parse_tries(try_ or ()), folds, lambda: log_to(settings.output / "tune.log")
    )
    show(tuning_table(figures))
    recipe = escape(str(settings.output / "tuned.yaml"))
    say(f"[bold green]chosen[/] on {figures['photos']} photos in {figures['seconds']:.0f} s: {recipe}")
    say(f"next: spp-det train {recipe}")


def parse_tries(tries: Sequence[str]) -> dict[str, tuple[object, ...]]:
    """The values of each ``KEY=V1,V2``. Raises UserError for an unknown key, and for one given twice."""
    from spp_det.config.file import read_yaml

    found: dict[str, tuple[object, ...]] = {}
    for text in tries:
        key, _, values = text.partition("=")
        if key not in GRID:
            raise UserError(f"--try {text}: the keys are {', '.join(GRID)}, as KEY=VALUE,VALUE")
        if key in found:
            raise UserError(f"--try {text}: {key} is there already; write all its values into one, V1,V2")
        parts = [part.strip() for part in values.split(",")]
        try:
            found[key] = tuple(read_yaml(part) for part in parts)
        except ValueError as error:
            raise UserError(f"--try {text}: {error}") from None
        if not all(parts):
            raise UserError(f"--try {text}: write the values as {key}=VALUE,VALUE")
    return found


def run_tuning(
    config: Config,
    tries: Mapping[str, tuple[object, ...]],
    folds: int,
    begun: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Choose settings, and write ``tuned.yaml``, ``tune.json`` and ``tune.md`` to the output folder.

    Returns the figures: ``trials``, each with its ``settings``, the mean ``mAP50`` and ``mAP75`` over the
    folds as fractions of 1, ``folds``, the mean of both in each fold, by which settings are chosen,
    ``spread``, the standard deviation of that over the folds, and ``seconds``;
    ``chosen``, the settings of the best; ``photos``, ``folds``, and the ``seconds`` of all.

    Raises UserError for recipes whose scores are not those of SVMs on frozen layers, and where another run is
    at work in the output folder.
    """
    from spp_det.runtime.devices import choose_device
    from spp_det.runtime.run_folder import alone_in
    from spp_det.runtime.whole_files import write_json, write_whole

    if config.finetune.enabled or config.features != "spp" or config.scorer != "svm":
        raise UserError(
            "tune chooses settings of SVMs on frozen layers: no finetune, features=spp, scorer=svm"
        )
    grid = _grid(config, tries)
    choose_device(config.runtime.device)
    start = time.perf_counter()
    with alone_in(config.output):
        begun()
        trials, judge = _prepared(config, grid, folds)
        figures = _search(config, grid, trials, judge)
        figures |= {"photos": len(trials.draws.judged), "folds": trials.draws.folds.count}
        figures["seconds"] = round(time.perf_counter() - start, 1)
        from spp_det.report.tables import tuning_markdown

        write_json(config.output / "tune.json", figures)
        write_whole(config.output / "tune.md", tuning_markdown(figures))
        write_whole(config.output / "tuned.yaml", recipe_of(_with(config, figures["chosen"]), figures))
    return figures


def recipe_of(config: Config, figures: Mapping[str, Any]) -> str:
    """The settings that differ from the defaults, as YAML with a line about where they are from."""
    import yaml

    best = next(trial["mAP50"] for trial in figures["trials"] if trial["settings"] == figures["chosen"])
    tree = config.model_dump(mode="json", exclude_defaults=True)
    lines = (
        f"# Chosen by spp-det tune on {figures['folds']} folds of {figures['photos']} training photos: "
        f"{100 * best:.1f} mAP@.5 there.\n#   spp-det train tuned.yaml\n"
    )
    return lines + yaml.safe_dump(tree, sort_keys=False)


# ---------------------------------------------------------------- what is tried


def _grid(config: Config, tries: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """The values of each key, the middle one first: those asked for, or the grid's and the recipe's."""
    from spp_det.model.backbone import Backbone

    own = _values(config)
    if Backbone(config.backbone.name, config.backbone.stride).non_negative:
        roots = "hellinger"
    else:
        roots = "signed_root"  # of a map that is negative in places
    middle_of = {**MIDDLE, "pyramid.normalize": roots}
    grid: dict[str, tuple[object, ...]] = {}
    for key, values in {**GRID, "pyramid.normalize": (roots, "none")}.items():
        if key == "bbox.ridge" and not config.bbox.enabled:
            continue
        wanted = tries.get(key) or tuple(sorted({*values, own[key]}, key=str))
        middle = middle_of[key] if middle_of[key] in wanted else wanted[len(wanted) // 2]
        grid[key] = tuple(dict.fromkeys((middle, *wanted)))
        for value in grid[key]:
            _with(config, {key: value})  # a value out of range is refused before anything is computed
    return grid


def _values(config: Config) -> dict[str, object]:
    """The recipe's own values, by key."""
    detection = config.detection
    soft = detection.soft_nms
    return {
        "pyramid.normalize": config.pyramid.normalize,
        "svm.flips": config.svm.flips,
        "svm.C": config.svm.C,
        "svm.positive_iou": config.svm.positive_iou,
        "bbox.ridge": config.bbox.ridge,
        SUPPRESSION: detection.nms if soft is None else f"soft {soft:g}",
    }


def _with(config: Config, values: Mapping[str, object]) -> Config:
    """The configuration with other values. Raises UserError for a value that is out of range."""
    from spp_det.config.file import parse_config

    tree = config.model_dump(mode="json")
    for key, value in values.items():
        section, name = key.split(".")
        if key == SUPPRESSION and isinstance(value, str) and value.startswith("soft "):
            tree["detection"]["soft_nms"] = value.removeprefix("soft ")
        elif key == SUPPRESSION:
            tree["detection"] |= {"nms": value, "soft_nms": None}
        else:
            tree[section][name] = value
    return parse_config(tree, "--try")


# ---------------------------------------------------------------- the search

Judge = Callable[[Sequence["Detections"], float], list[float]]  # detections, IoU -> mAP of each fold


def _prepared(config: Config, grid: Mapping[str, tuple[object, ...]], folds: int) -> tuple[Trials, Judge]:
    """The training images with windows and maps, and what judges detections in them, fold by fold."""
    import numpy as np

    from spp_det.data.records import Dataset
    from spp_det.evaluation.voc import evaluate_voc
    from spp_det.model.model_file import features_of
    from spp_det.training.inputs import model_settings, read_inputs
    from spp_det.training.network import ready
    from spp_det.training.stages import scored_layers, training_images
    from spp_det.training.tuning import Trials

    update = {"folds": folds, "images": max(config.probability.images, 2)}
    config = config.model_copy(update={"probability": config.probability.model_copy(update=update)})
    inputs = read_inputs(config)
    normalize = str(grid["pyramid.normalize"][0])
    first = _with(config, {"pyramid.normalize": normalize})
    features = features_of(ready(inputs.network, config), model_settings(first))
    svm = config.svm.model_copy(update={"flips": True in grid["svm.flips"]})  # maps that any trial needs
    every = config.model_copy(update={"svm": svm})
    images, draws = training_images(inputs.splits.train, features, every)
    if not draws.folds.count:
        raise UserError("tune needs two training photos at least, to learn from one and try on the other")
    head = scored_layers(inputs.head, config, features)
    classes = inputs.splits.train.classes
    overlaps = [float(str(value)) for value in grid["svm.positive_iou"]]
    trials = Trials(images, draws, head, classes, overlaps, float(str(grid["svm.C"][0])))
    of_judged = draws.folds.of[draws.judged]

    def judge(found: Sequence[Detections], iou: float) -> list[float]:
        each = []
        for fold in range(draws.folds.count):
            mine = np.flatnonzero(of_judged == fold).tolist()
            records = [images.images[draws.judged[place]].record for place in mine]
            part = evaluate_voc(Dataset(classes, records), [found[place] for place in mine], iou)
            each.append(part.mAP_area)
        return each

    return trials, judge


def _search(
    config: Config, grid: Mapping[str, tuple[object, ...]], trials: Trials, judge: Judge
) -> dict[str, Any]:
    """Choose key after key."""
    chosen = {key: values[0] for key, values in grid.items()}
    tried: list[Trial] = []
    for key, values in grid.items():
        results = [_tried(config, chosen | {key: value}, tried, trials, judge) for value in values]
        chosen[key] = values[_best([result["folds"] for result in results])]
        logger.info("%s: %s", key, chosen[key])
        trials.keep(_with(config, chosen))
    return {"trials": tried, "chosen": chosen}


def _best(folds: Sequence[Sequence[float]]) -> int:
    """The place of the value to choose, by a figure of each fold; the first value is the middle one.

    Another value takes its place where it is better by more than the standard error of their difference over
    the folds: most differences between settings are smaller than that between two draws of folds.
    """
    import numpy as np

    figures = np.nan_to_num(np.array(folds))  # [values, folds]
    gains = figures - figures[0]
    mean = gains.mean(axis=1)
    noise = gains.std(axis=1, ddof=1) / np.sqrt(figures.shape[1])
    return int(np.where(mean > noise, mean, 0.0).argmax())


def _tried(
    config: Config, values: dict[str, object], tried: list[Trial], trials: Trials, judge: Judge
) -> Trial:
    """The trial of these values: an earlier one, or a new one, which goes to the end of ``tried``."""
    import numpy as np

    for trial in tried:
        if trial["settings"] == values:
            return trial
    start = time.perf_counter()
    found = trials.detect(_with(config, values))
    at_half, strict = judge(found, 0.5), judge(found, 0.75)
    folds = np.mean([at_half, strict], axis=0)
    trial = {
        "settings": values,
        "mAP50": float(np.nanmean(at_half)),
        "spread": float(np.nanstd(folds)),
        "mAP75": float(np.nanmean(strict)),
        "folds": np.nan_to_num(folds).tolist(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    tried.append(trial)
    about = ", ".join(f"{key}={value}" for key, value in values.items())
    logger.info("%.1f mAP@.5 (%.1f s): %s", 100 * trial["mAP50"], trial["seconds"], about)
    return trial
