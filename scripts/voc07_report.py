#!/usr/bin/env python3
"""What a Pascal VOC recipe is expected to cost, or its figures beside the published ones.

python scripts/voc07_report.py RECIPE.yaml [section.key=value ...] [--figures FIGURES.json]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from spp_det.config.file import load_config
from spp_det.detections.reader import read_json
from spp_det.errors import UserError
from spp_det.report.reproduction import comparison_table, costs_table


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
            figures = read_json(options.figures)
            table = comparison_table(options.recipe.stem, config, figures["voc"]["mAP_11point"])
    except UserError as error:
        print(f"voc07_report: {error}", file=sys.stderr)
        return 2
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
