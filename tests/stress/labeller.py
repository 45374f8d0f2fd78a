"""A simulated labeller: ``python -m tests.stress.labeller RECIPE [section.key=value ...] --out FILE.json``.

The photos of the training split are labelled a few at a time: the first ones in random order, the next ones
in random order too, or as `spp-det suggest` wants them. After each step a detector is trained on what has
labels, and proposes boxes on the test photos, none of which is ever learnt from or chosen by. A box is
proposed where its probability is at least .5. Of the proposed boxes some need no correction (right class,
IoU .8 and more with an object), some are to be adjusted (IoU .5 to .8), some are to be removed; objects
without either are to be drawn. Without help every object is to be drawn.

Windows and maps are computed once for all steps, in ``runtime.cache``. Not collected by pytest.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.commands.suggest import suggestions
from spp_det.commands.train import train_and_score
from spp_det.config.file import load_config
from spp_det.config.settings import Config
from spp_det.data.classes import leave_out_empty
from spp_det.data.held_out import part
from spp_det.data.matching import Outcome, match_image
from spp_det.data.records import Dataset, Detections, select
from spp_det.evaluation.results import read_results
from spp_det.model.detector import Detector
from spp_det.model.informative import SHOWN, probabilities_of
from spp_det.proposals.source import WindowSource
from spp_det.runtime.run_folder import alone_in
from spp_det.training.inputs import read_inputs
from spp_det.training.stages import cache_of


def corrections(dataset: Dataset, found: Sequence[Detections]) -> dict[str, float]:
    """What a labeller does with the proposed boxes, as shares of the boxes and of the objects."""
    proposed = good = near = objects = 0
    for record, detections in zip(dataset.records, found, strict=True):
        objects += int((~(record.difficult | record.crowd)).sum())
        proposed += len(detections["scores"])
        hits = [(match_image(record, detections, iou).outcome == Outcome.TRUE).sum() for iou in (0.8, 0.5)]
        good, near = good + int(hits[0]), near + int(hits[1])
    return {
        "proposed": proposed,
        "no_correction": good / max(proposed, 1),
        "to_remove": (proposed - near) / max(proposed, 1),
        "objects": objects,
        "objects_done": good / max(objects, 1),
        "to_draw": (objects - near) / max(objects, 1),
    }


def step(config: Config, names: Sequence[str], output: Path) -> tuple[dict[str, Any], Detector]:
    """Train on some photos, by name: the figures on the test, and the detector."""
    start = time.perf_counter()
    inputs = read_inputs(config)
    chosen = leave_out_empty(part(inputs.splits.train, frozenset(names), inside=True), "labeller")
    config = config.model_copy(update={"output": output})
    with alone_in(output):
        splits = replace(inputs.splits, train=chosen)
        metrics = train_and_score(config, replace(inputs, splits=splits))
    detector = Detector.load(output / "model.safetensors")
    assert inputs.splits.test is not None
    test = inputs.splits.test.dataset
    found = read_results(output / "test" / "detections.json", test).detections
    curves = detector.probability and detector.probability.of_classes(detector.classes, test.classes)
    shown = [select(each, probabilities_of(each, curves) >= SHOWN) for each in found]
    figures = {
        "photos": len(names),
        "classes": len(detector.classes),
        "mAP50": metrics["test"]["voc"]["mAP_area"],
        **corrections(test, shown),
        "curves": detector.probability is not None,
        "training_seconds": round(sum(metrics["seconds"].values()), 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return figures, detector


def session(
    config: Config, order: str, steps: Sequence[int], seed: int, output: Path
) -> list[dict[str, Any]]:
    """Label all steps' photos in an order, and say what each step brings."""
    dataset = read_inputs(config).splits.train
    path_of = {record.image_id: record.path for record in dataset.records}
    id_of = {path: name for name, path in path_of.items()}
    drawn = np.random.default_rng(seed).permutation(len(dataset.records))
    labelled = [dataset.records[index].image_id for index in drawn[: steps[0]]]
    rows = []
    for number, count in enumerate(steps):
        figures, detector = step(config, labelled, output / f"{order}-{seed}-{count}")
        rows.append({"order": order, "seed": seed} | figures)
        print(json.dumps(rows[-1]), flush=True)
        more = steps[number + 1] - count if number + 1 < len(steps) else 0
        if order == "random":
            labelled = [dataset.records[index].image_id for index in drawn[: count + more]]
        elif more:
            rest = [path for name, path in path_of.items() if name not in labelled]
            known = [path_of[name] for name in labelled]
            source, cache = WindowSource(config.proposals), cache_of(config)
            found, _ = suggestions(detector, rest, known, more, source=source, cache=cache)
            labelled += [id_of[Path(row.file)] for row in found]
    return rows


def main() -> None:
    """Read the recipe, run the sessions, write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[12, 24, 48, 96])
    parser.add_argument("--orders", nargs="+", default=["random", "suggest"], choices=["random", "suggest"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    chosen = parser.parse_args()
    logging.getLogger("spp_det").setLevel(logging.ERROR)
    config = load_config(chosen.recipe, chosen.overrides)
    rows = []
    for seed in chosen.seeds:
        for order in chosen.orders:
            rows += session(config, order, chosen.steps, seed, config.output)
            chosen.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
