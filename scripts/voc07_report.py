#!/usr/bin/env python3
"""What a Pascal VOC recipe is expected to cost, or its figures beside the published ones.

python scripts/voc07_report.py RECIPE.yaml [section.key=value ...] [--figures FIGURES.json]

Expected costs are sums of parts. Each part was timed by itself on two cores with AVX-512 and AMX in float32;
no whole run has been timed. With a GPU the network's hours become minutes, and the rest stays.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from spp_det.config.file import load_config
from spp_det.config.settings import Config
from spp_det.data.coco_file import load_json
from spp_det.data.joined import locate_split
from spp_det.data.voc import read_split
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.pyramid import num_bins
from spp_det.report.tables import percent

IMAGES = {"VOC2007:trainval": 5011, "VOC2007:test": 4952, "VOC2012:trainval": 11540}
ARCHIVE_GB = {"VOC2007:trainval": 0.46, "VOC2007:test": 0.45, "VOC2012:trainval": 2.0}
MEGABYTES_A_SECOND = 5.0  # of a connection

TYPICAL = 4 / 3  # longer side by shorter side of VOC's photos, 500 x 375
SEARCH_SECONDS = 1.2  # an image of 500 x 375 and core, by the authors' search, as the recipes have it
CONV5_SECONDS = {"alexnet": 0.041, "squeezenet1_0": 0.097, "vgg16": 1.025, "zf5": 0.15}  # at s = 688
POOL_SECONDS = 0.016  # 2000 windows of a map of 256 channels, scored by SVMs
FC6_SECONDS = 1.02  # 2000 windows of 12,800 numbers to 4096 outputs
FLOPS = 215e9  # of large matrix products
TIMED_CORES = 2
BASE_GB = 1.5  # libraries, an image, its windows and their scores


@dataclass(frozen=True)
class Cost:
    """The expected cost of a stage.

    Attributes:
        disk: GB that the stage writes; None for next to nothing.
        memory: GB at the stage's peak.
        hours: time on the given number of cores; None for a network that was not timed.
    """

    stage: str
    disk: float | None
    memory: float
    hours: float | None


def expected_costs(config: Config, cores: int) -> list[Cost]:
    """The expected cost of each stage of a recipe on so many cores without a GPU."""
    splits = [config.data.train] if isinstance(config.data.train, str) else list(config.data.train)
    tests = [] if config.data.test is None else [config.data.test]
    train = sum(_count(config.data.root, split) for split in splits)
    test = sum(_count(config.data.root, split) for split in tests)
    backbone = Backbone(config.backbone.name, config.backbone.stride)
    share = TIMED_CORES / cores
    cells = sum(_cells(s, backbone.geometry.stride) for s in config.backbone.scales)
    vector = num_bins(config.pyramid.levels) * backbone.channels
    search = SEARCH_SECONDS / cores
    at_688 = CONV5_SECONDS.get(config.backbone.name)
    conv = None if at_688 is None else at_688 * cells / _cells(688, 16) * share
    widths = {"pool5": (), "fc6": (vector, config.fc.width), "fc7": (vector, *[config.fc.width] * 2)}
    fc_weights = sum(a * b for a, b in pairwise(widths[config.fc.layer]))
    vectors = POOL_SECONDS * backbone.channels / 256 + FC6_SECONDS * fc_weights / (12800 * 4096)
    vectors *= share  # seconds an image, of pooling and fc layers
    first = next(layer for layer in backbone.layers.modules() if isinstance(layer, nn.Conv2d))
    side = config.backbone.scales[-1] / first.stride[0]
    largest = (
        2 * 4 * first.out_channels * TYPICAL * side**2 * cores / 1e9
    )  # in and out of a layer, a core each
    head = 4 * fc_weights / 1e9
    archives = sum(ARCHIVE_GB.get(split, 0) for split in {*splits, *tests})

    def hours(images: int, seconds: float | None) -> float | None:
        return None if seconds is None else images * seconds / 3600

    maps = train * cells * backbone.channels * 2 / 1e9  # GB
    costs = [
        Cost("download", 2 * archives, 0.5, archives * 1000 / MEGABYTES_A_SECOND / 3600),
        Cost(f"selective search, {train} images", train * 4 * 4 * 2000 / 1e9, BASE_GB, hours(train, search)),
        Cost(
            f"conv5 maps, half precision, {len(config.backbone.scales)} scales",
            maps,
            BASE_GB + largest,
            hours(train, conv),
        ),
    ]
    if config.finetune.enabled:
        tuning = config.finetune
        steps = tuning.steps + tuning.last_steps
        flops = 6 * tuning.batch * fc_weights * steps  # forward, and back to weights and inputs
        read = steps * tuning.images_per_step * maps / train / 1000
        stage = f"fine-tuning, {steps} steps, {read:.1f} TB of maps read"
        costs.append(Cost(stage, None, BASE_GB + 4 * head, flops / FLOPS * share / 3600))
    svm = BASE_GB + head + config.svm.memory_mb / 1000
    costs.append(Cost("SVMs: one pass, and fits (R: under 1 h in all)", None, svm, hours(train, vectors)))
    if config.bbox.enabled:
        examples = config.bbox.max_windows * (2 * vector + 8 * config.bbox.max_windows) / 1e9
        costs.append(Cost("box regression", None, BASE_GB + examples, None))
    whole = None if conv is None else search + conv + vectors
    # A thousand detections an image in JSON.
    costs.append(
        Cost(
            f"detection, {test} images", test * 1000 * 120 / 1e9, BASE_GB + head + largest, hours(test, whole)
        )
    )
    return costs


def _count(root: Path, split: str) -> int:
    try:
        return len(read_split(*locate_split(root, split)))
    except UserError:
        return IMAGES.get(split, 0)


def _cells(scale: int, stride: int) -> int:
    """The number of cells in the conv5 map of a typical photo."""
    return int(scale / stride) * int(TYPICAL * scale / stride)


def costs_table(config: Config, cores: int | None = None) -> Table:
    """`expected_costs` for the terminal; ``cores`` None stands for this machine's."""
    cores = cores or os.cpu_count() or 1
    title = f"Expected on {cores} cores without a GPU: computed from parts, not measured"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for name in ("disk, GB", "memory, GB", "hours"):
        table.add_column(name, justify="right")
    for cost in expected_costs(config, cores):
        table.add_row(cost.stage, _short(cost.disk), _short(cost.memory), _short(cost.hours))
    return table


@dataclass(frozen=True)
class Published:
    """A figure of a paper: mAP in per cent on VOC 2007 test by 11 points, trained on VOC 2007 trainval."""

    method: str
    network: str
    scales: int
    layer: str
    bbox: bool
    mAP: float  # noqa: N815
    source: str


PUBLISHED = (
    Published("SPP-net", "zf5", 1, "pool5", False, 43.0, "table 9"),
    Published("SPP-net", "zf5", 5, "pool5", False, 44.9, "table 9"),
    Published("R-CNN", "alexnet", 1, "pool5", False, 44.2, "table 9"),
    Published("SPP-net, fine-tuned", "zf5", 5, "fc7", False, 55.2, "table 9"),
    Published("SPP-net, fine-tuned", "zf5", 1, "fc7", True, 58.0, "table 9"),
    Published("SPP-net, fine-tuned", "zf5", 5, "fc7", True, 59.2, "table 9"),
    Published("R-CNN, fine-tuned", "alexnet", 1, "fc7", True, 58.5, "table 9"),
    Published("SPP-net, fine-tuned", "vgg16", 5, "fc7", True, 63.1, "Fast R-CNN"),
)
_LIKE = {"alexnet": "zf5"}  # five convolutional layers each: the nearest of which a figure is published


def counterpart(config: Config) -> Published | None:
    """The published figure of these settings; None where none was published."""
    if config.data.train != "VOC2007:trainval" or config.data.test != "VOC2007:test":
        return None
    is_rcnn = config.features == "rcnn"
    network = config.backbone.name if is_rcnn else _LIKE.get(config.backbone.name, config.backbone.name)
    scales = 1 if is_rcnn else len(config.backbone.scales)
    wanted = (is_rcnn, network, scales, config.fc.layer, config.bbox.enabled)
    rows = {(p.method.startswith("R-CNN"), p.network, p.scales, p.layer, p.bbox): p for p in PUBLISHED}
    return rows.get(wanted)


def comparison_table(name: str, config: Config, mAP_11point: float | None) -> Table:
    """A run's mAP, a fraction of 1 as `evaluate` returns it, beside the published figures, in per cent."""
    table = Table(title="Pascal VOC 2007 test, mAP by 11 points", title_justify="left")
    for column in ("method", "network", "scales", "features", "boxes"):
        table.add_column(column)
    table.add_column("mAP %", justify="right")
    table.add_column("source")
    against = counterpart(config)
    for row in PUBLISHED:
        boxes = "regressed" if row.bbox else "windows"
        cells = (row.method, row.network, str(row.scales), row.layer, boxes, f"{row.mAP:.1f}", row.source)
        table.add_row(*cells, style="bold" if row is against else None)
    table.add_section()
    scales = 1 if config.features == "rcnn" else len(config.backbone.scales)
    boxes = "regressed" if config.bbox.enabled else "windows"
    method, network = escape(name), config.backbone.name
    cells = (method, network, str(scales), config.fc.layer, boxes, percent(mAP_11point), "this run")
    table.add_row(*cells, style="bold green")
    if against is None:
        table.caption = "no figure has been published for these settings"
    elif mAP_11point is not None:
        table.caption = f"{100 * mAP_11point - against.mAP:+.1f} against {against.method}, {against.network}"
    return table


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 0.1 else "< 0.1"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=Path)
    parser.add_argument("overrides", metavar="section.key=value", nargs="*")
    parser.add_argument("--figures", metavar="FIGURES.json", type=Path, help="of spp-det evaluate --json")
    options = parser.parse_args(arguments)

    try:
        config = load_config(options.recipe, options.overrides)
        if options.figures is None:
            table = costs_table(config)
        else:
            figures = load_json(options.figures)
            table = comparison_table(options.recipe.stem, config, figures["voc"]["mAP_11point"])
    except UserError as error:
        print(f"voc07_report: {error}", file=sys.stderr)
        return 2
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
