#!/usr/bin/env python3
"""The figure of a Pascal VOC recipe beside the published ones; before its run, without a figure.

python scripts/voc07_report.py RECIPE.yaml [section.key=value ...] [--figures FIGURES.json]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spp_det.config.file import load_config
from spp_det.config.settings import Config
from spp_det.data.coco_file import load_json
from spp_det.errors import UserError
from spp_det.report.tables import percent


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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=Path)
    parser.add_argument("overrides", metavar="section.key=value", nargs="*")
    parser.add_argument("--figures", metavar="FIGURES.json", type=Path, help="of spp-det evaluate --json")
    options = parser.parse_args(arguments)

    try:
        config = load_config(options.recipe, options.overrides)
        mAP = None if options.figures is None else load_json(options.figures)["voc"]["mAP_11point"]
    except UserError as error:
        print(f"voc07_report: {error}", file=sys.stderr)
        return 2
    Console().print(comparison_table(options.recipe.stem, config, mAP))
    return 0


if __name__ == "__main__":
    sys.exit(main())
