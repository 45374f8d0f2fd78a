"""How close a detector that learns photo by photo is to one that is trained on the same photos at once.

    python -m tests.stress.live RECIPE [section.key=value ...] [--photos 24 48 96] [--seeds 0 1]

The photos of the training split are annotated one after the other in random order. After so many of them, two
detectors are tested on the test split: one has learnt on all along (`spp_det.training.live`), the other is
trained by ``stages.train``. Windows and maps are computed once, in ``runtime.cache``.

Not collected by pytest.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spp_det.config.file import load_config
from spp_det.config.settings import Config
from spp_det.data.classes import leave_out_empty
from spp_det.data.held_out import part
from spp_det.data.records import Dataset
from spp_det.evaluation.voc import evaluate_voc
from spp_det.inference import detect_files
from spp_det.model.detector import Detector
from spp_det.proposals.source import WindowSource
from spp_det.runtime.threads import cores
from spp_det.training import stages
from spp_det.training.inputs import Inputs, read_inputs
from spp_det.training.live import LiveTraining


def figures(detector: Detector, test: Dataset, config: Config) -> dict[str, float]:
    """mAP in percent at IoU .5 and .75."""
    label_of = np.array([test.classes.index(name) for name in detector.classes])
    paths = [record.path for record in test.records]
    results = detect_files(detector, paths, cores(), WindowSource(config.proposals))
    found = []
    for result in results:
        assert result.detections is not None
        found.append({**result.detections, "labels": label_of[result.detections["labels"]]})
    each = {f"mAP{round(100 * iou)}": evaluate_voc(test, found, iou).mAP_area for iou in (0.5, 0.75)}
    return {name: round(100 * value, 2) for name, value in each.items()}


def session(config: Config, inputs: Inputs, counts: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Annotate the photos in one random order."""
    train, test = inputs.splits.train, inputs.splits.test
    assert test is not None
    order = np.random.default_rng(seed).permutation(len(train.records))
    names = [train.records[index].image_id for index in order[: max(counts)]]
    live = LiveTraining(config, stages.cache_of(config))
    rows = []
    for count in range(1, len(names) + 1):
        chosen = leave_out_empty(part(train, frozenset(names[:count]), inside=True), "live")
        start = time.perf_counter()
        grown = live.learn(chosen)
        seconds = time.perf_counter() - start
        if count not in counts or grown is None:
            continue
        splits = replace(inputs.splits, train=chosen)
        whole = stages.train(config, replace(read_inputs(config), splits=splits)).detector
        ours, theirs = (figures(each, test.dataset, config) for each in (grown, whole))
        about = {"photos": count, "seed": seed, "seconds_of_the_last": round(seconds, 1)}
        rows.append(about | {"grown": ours, "trained": theirs})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Read the recipe, run the sessions, print each row and the mean difference by the number of photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--photos", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    logging.getLogger("spp_det").setLevel(logging.ERROR)
    config = load_config(chosen.recipe, chosen.overrides)
    inputs = read_inputs(config)
    rows = [row for seed in chosen.seeds for row in session(config, inputs, chosen.photos, seed)]
    for count in chosen.photos:
        gains = [row["grown"]["mAP50"] - row["trained"]["mAP50"] for row in rows if row["photos"] == count]
        if gains:
            print(f"{count} photos: grown less trained {np.mean(gains):+.2f} mAP@.5")


if __name__ == "__main__":
    main()
