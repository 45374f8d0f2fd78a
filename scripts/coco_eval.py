#!/usr/bin/env python3
"""Score any COCO results file: the 12 COCO figures, Pascal VOC's AP@.5 of every class, errors by kind.

python scripts/coco_eval.py INSTANCES.json RESULTS.json [--json OUT]
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from spp_det.commands.terminal import show_figures
from spp_det.errors import UserError
from spp_det.evaluation.results import evaluate_files
from spp_det.runtime.whole_files import write_json


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "instances", metavar="INSTANCES.json", type=Path, help="ground truth in COCO's format"
    )
    parser.add_argument("results", metavar="RESULTS.json", type=Path, help="detections, a COCO results list")
    parser.add_argument("--json", metavar="OUT", type=Path, help="write all figures there, fractions of 1")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")

    try:
        figures = evaluate_files(options.instances, options.results)
        if options.json:
            write_json(options.json, figures)
    except (UserError, OSError) as error:
        print(f"coco_eval: {error}", file=sys.stderr)
        return 2

    show_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
