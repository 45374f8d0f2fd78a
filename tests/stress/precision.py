"""Which stage of detection loses accuracy in less than float32: one stage at a time is exchanged.

    python -m tests.stress.precision MODEL VOC [--split test] [--device cuda] [--out FILE.json]

VOC is a data set in Pascal VOC's layout. Every row detects in the same windows of the same photos and says
what COCO's AP, AP50 and AP75 are then, in percent, and how far AP75 is from the row in float32. Numbers are
rounded to bfloat16 (8 bits) or float16 (11 bits) where a stage begins or ends; sums stay in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from spp_det.boxes import Boxes
from spp_det.config.values import Precision
from spp_det.data.coco import coco_instances, xywh
from spp_det.data.records import Dataset, Detections
from spp_det.data.voc import read_voc
from spp_det.evaluation.coco import evaluate_coco
from spp_det.images import RGB, read_image
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector, own_windows
from spp_det.model.features import PooledVectors, images_at_once
from spp_det.model.svm import LinearSVMs
from spp_det.model.vectors import WindowVectors
from spp_det.runtime.threads import ahead, cores

HALF, BRAIN = torch.float16, torch.bfloat16
Change = Callable[[Detector, ExitStack], None]


def rounded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    return numbers.to(dtype).float()


def network(detector: Detector, _: ExitStack, precision: Precision = "bfloat16") -> None:
    """The network in the device's own arithmetic."""
    detector.features.backbone.at(precision)


def layers(detector: Detector, stack: ExitStack, dtype: torch.dtype = BRAIN) -> None:
    """The network in float32, but the weights and the outputs of its convolutions rounded."""
    for layer in detector.features.backbone.layers.modules():
        if isinstance(layer, nn.Conv2d):
            stack.callback(layer.weight.data.copy_, layer.weight.data.clone())
            layer.weight.data = rounded(layer.weight.data, dtype)
            hook = layer.register_forward_hook(lambda _layer, _inputs, made: rounded(made, dtype))
            stack.callback(hook.remove)


def maps(detector: Detector, stack: ExitStack, dtype: torch.dtype = BRAIN) -> None:
    """conv5 rounded, when it is done."""
    whole = detector.features.backbone.forward
    stack.enter_context(
        patch.object(detector.features.backbone, "forward", lambda images: rounded(whole(images), dtype))
    )


def vectors(_: Detector, stack: ExitStack, dtype: torch.dtype = BRAIN) -> None:
    """Pooled vectors rounded: for scores and for regression. Only where detection is on the CPU."""
    make = PooledVectors.make
    stack.enter_context(
        patch.object(PooledVectors, "make", lambda self, rows: rounded(make(self, rows), dtype))
    )
    stack.enter_context(patch.object(PooledVectors, "linear", WindowVectors.linear))


def scoring(detector: Detector, _: ExitStack, dtype: torch.dtype = BRAIN) -> None:
    """The weights of the SVMs rounded."""
    assert isinstance(detector.scorer, LinearSVMs)
    detector.scorer = LinearSVMs(rounded(detector.scorer.weight, dtype), detector.scorer.bias)


def regression(detector: Detector, _: ExitStack, dtype: torch.dtype = BRAIN) -> None:
    """The weights of the box regressors rounded."""
    every = detector.regressors
    detector.regressors = tuple(BoxRegressor(rounded(each.weight, dtype), each.bias) for each in every)


ROWS: dict[str, list[Change]] = {
    "float32": [],
    "network in bfloat16": [network],
    "network in float16": [partial(network, precision="float16")],
    "convolutions rounded to bfloat16": [layers],
    "convolutions rounded to float16": [partial(layers, dtype=HALF)],
    "conv5 rounded to bfloat16": [maps],
    "conv5 rounded to float16": [partial(maps, dtype=HALF)],
    "vectors rounded to bfloat16": [vectors],
    "SVMs rounded to bfloat16": [scoring],
    "regressors rounded to bfloat16": [regression],
}


@contextmanager
def changed(model: Path, device: str, changes: Sequence[Change]) -> Iterator[Detector]:
    with ExitStack() as stack:
        detector = Detector.load(model, device, "float32")
        for change in changes:
            change(detector, stack)
        yield detector


def detect(detector: Detector, photos: Sequence[RGB], windows: Sequence[Boxes]) -> list[Detections]:
    """On a CPU each core takes a photo; a GPU gets them in batches."""
    size = images_at_once(detector.device)
    parts = [slice(start, start + size) for start in range(0, len(photos), size)]
    found = ahead(
        lambda part: detector.detect_batch(photos[part], windows[part]), parts, cores() if size == 1 else 1
    )
    return [each for part in found for each in part]


def accuracy(dataset: Dataset, found: Sequence[Detections]) -> dict[str, float]:
    instances = coco_instances(dataset)
    results = [
        {"image_id": id_, "category_id": label + 1, "bbox": xywh(tuple(box)), "score": score}
        for id_, each in zip(dataset.coco_ids, found, strict=True)
        for label, score, box in zip(
            *(each[key].tolist() for key in ("labels", "scores", "boxes")), strict=True
        )
    ]
    figures, _ = evaluate_coco(instances, results)
    return {name: 100 * figures[name] for name in ("AP", "AP50", "AP75")}


def measure(
    model: Path,
    root: Path,
    split: str,
    device: str,
    most: int | None = None,
    names: Sequence[str] = tuple(ROWS),
) -> dict[str, dict[str, float]]:
    """The figures of every row, and the seconds that its detection took."""
    with changed(model, "cpu", []) as searcher:
        dataset = read_voc(root, split, searcher.classes)
        dataset = Dataset(dataset.classes, dataset.records[:most])
        photos = [read_image(record.path) for record in dataset.records]
        windows = list(ahead(partial(own_windows, searcher), photos, cores()))
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        changes = ROWS[name]
        if device != "cpu" and vectors in changes:
            continue
        with changed(model, device, changes) as detector:
            start = time.perf_counter()
            found = detect(detector, photos, windows)
            seconds = time.perf_counter() - start
        figures = accuracy(dataset, found)
        figures |= {"AP75 beside float32": figures["AP75"] - rows.get("float32", figures)["AP75"]}
        rows[name] = figures | {"seconds": seconds}
        print(name, ", ".join(f"{key} {value:.2f}" for key, value in rows[name].items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--photos", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = measure(given.model, given.root, given.split, given.device, given.photos)
    if given.out is not None:
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
