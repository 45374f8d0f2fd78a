"""What a user would pick instead: torchvision's Faster R-CNN, for as many minutes as a training here takes.

    python -m tests.stress.faster_rcnn RECIPE [section.key=value ...] --minutes M [--times 1 2 4 8]

It has the recipe's network and ImageNet weights, learns from the same photos on the same machine, and is
tested on the same ones. M is what ``spp-det train`` takes for them from nothing. There is one learning for
each multiple of it, with a schedule of its own that ends with its time.

All layers learn. The optimiser is AdamW with a short warm-up and a cosine to zero, two photos a step, half of
them mirrored; batch normalisation keeps ImageNet's statistics. Anchors have five sizes and three shapes.
Not collected by pytest.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from spp_det.config.file import load_config
from spp_det.config.settings import Config
from spp_det.data.records import Dataset, Detections, Record
from spp_det.evaluation.voc import evaluate_voc
from spp_det.images import read_image
from spp_det.model.backbone import Backbone
from spp_det.training.inputs import read_inputs

SIZES = (32, 64, 128, 256, 512)  # pixels, sides of the anchors
SHAPES = (0.5, 1.0, 2.0)
BATCH = 2
WARM_UP = 0.05  # part of the time
DECAY = 1e-4
CLIP = 10.0  # norm of the gradient


class Maps(nn.Module):
    """conv5 by the name that `FasterRCNN` wants, and its channels."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.layers, self.out_channels = network.layers, network.channels

    def train(self, mode: bool = True) -> Maps:
        """Batch normalisation stays as it is in use."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(conv5=self.layers(images))


def build(network: Backbone, classes: int, config: Config) -> FasterRCNN:
    """torchvision's detector with its own defaults, at the recipe's scale."""
    return FasterRCNN(
        Maps(network.requires_grad_(True)),
        classes + 1,
        min_size=config.backbone.scales[0],
        max_size=config.backbone.max_side,
        image_mean=network.recipe.mean,
        image_std=network.recipe.std,
        rpn_anchor_generator=AnchorGenerator((SIZES,), (SHAPES,)),
        box_roi_pool=MultiScaleRoIAlign(["conv5"], output_size=7, sampling_ratio=2),
        box_score_thresh=0.01,
        box_detections_per_img=config.detection.max_per_image,
    )


def pixels(record: Record) -> Tensor:
    """``[3, H, W]``, RGB in [0, 1]."""
    return torch.from_numpy(read_image(record.path)).permute(2, 0, 1).float() / 255


def target(record: Record, mirrored: bool, width: int) -> dict[str, Tensor]:
    """Objects that are not difficult, labels from 1."""
    chosen = ~(record.difficult | record.crowd)
    boxes = torch.from_numpy(record.boxes[chosen]).clone()
    if mirrored:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return {"boxes": boxes, "labels": torch.from_numpy(record.labels[chosen]).long() + 1}


def batches(dataset: Dataset, seed: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Pairs of photos without an end, each photo once a round."""
    rng = np.random.default_rng(seed)
    records = [record for record in dataset.records if (~(record.difficult | record.crowd)).any()]
    while True:
        order = rng.permutation(len(records))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            images, targets = [], []
            for index in order[start : start + BATCH]:
                image, mirrored = pixels(records[index]), bool(rng.random() < 0.5)
                images.append(image.flip(2) if mirrored else image)
                targets.append(target(records[index], mirrored, image.shape[2]))
            yield images, targets


def learn(model: FasterRCNN, dataset: Dataset, seconds: float, rate: float, seed: int) -> int:
    """Learn for so long; returns the number of steps."""
    weights = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(weights, rate, weight_decay=DECAY)
    model.train()
    steps, start = 0, time.perf_counter()
    for images, targets in batches(dataset, seed):
        part = (time.perf_counter() - start) / seconds
        if part >= 1:
            break
        warm = min(1.0, (part + 1e-3) / WARM_UP)
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * (1 + math.cos(math.pi * part)) / 2
        optimiser.zero_grad()
        loss = sum(model(images, targets).values())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()
        steps += 1
    return steps


@torch.inference_mode()
def detect(model: FasterRCNN, dataset: Dataset) -> list[Detections]:
    """What it finds in each photo, one after the other."""
    model.eval()
    found = []
    for record in dataset.records:
        (result,) = model([pixels(record)])
        arrays = {name: result[name].numpy() for name in ("boxes", "scores", "labels")}
        found.append(Detections(**(arrays | {"labels": arrays["labels"].astype(np.int64) - 1})))
    return found


def figures(config: Config, seconds: float, rate: float) -> dict[str, Any]:
    """One learning of so many seconds, and its figures on the test split."""
    torch.manual_seed(config.seed)
    inputs = read_inputs(config)
    assert inputs.splits.test is not None
    train, test = inputs.splits.train, inputs.splits.test.dataset
    model = build(inputs.network, len(train.classes), config)
    steps = learn(model, train, seconds, rate, config.seed)
    begun = time.perf_counter()
    found = detect(model, test)
    took = (time.perf_counter() - begun) / len(test.records)
    mean = {f"mAP{round(100 * iou)}": 100 * evaluate_voc(test, found, iou).mAP_area for iou in (0.5, 0.75)}
    rounds = steps * BATCH / len(train.records)
    about = {"seconds": seconds, "rate": rate, "steps": steps, "rounds": rounds}
    return about | mean | {"seconds_a_photo": took}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the recipe, do one learning for each multiple and rate, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    config = load_config(chosen.recipe, chosen.overrides)
    rows = []
    for times in chosen.times:
        for rate in chosen.rates:
            rows.append({"times": times} | figures(config, 60 * chosen.minutes * times, rate))
            print(json.dumps(rows[-1]), flush=True)
            if chosen.out:
                chosen.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
