"""What the topics of `spp-det benchmark` share: how large the inputs are, the inputs, and the clock.

All networks have random weights, which cost what trained weights cost. All photos are generated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from spp_det.boxes import Boxes
from spp_det.config.network import FC, FIVE_SCALES, BackboneSettings, Features
from spp_det.config.settings import Detection
from spp_det.config.values import Precision
from spp_det.data.synthetic import scene
from spp_det.images import RGB
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelSettings, features_of
from spp_det.model.svm import LinearSVMs

CLASSES = 20  # as many as Pascal VOC has

Row = dict[str, Any]
Job = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """How large the inputs of the benchmark are, and how often each is measured.

    Attributes:
        photo: width and height in pixels; ``training_photo`` of those to learn from.
        windows: of a photo.
        scales: shorter sides for the network, one and five.
        fc: outputs of each fc layer.
        conv5: channels, height and width of the map that is pooled.
        folder: photos to detect in.
        training: photos to learn from, one training each.
        repeats: of what takes a second at most.
    """

    photo: tuple[int, int] = (640, 480)
    training_photo: tuple[int, int] = (320, 240)
    windows: int = 2000
    scale: int = 688
    scales: tuple[int, ...] = FIVE_SCALES
    fc: int = 4096
    conv5: tuple[int, int, int] = (256, 43, 57)
    folder: int = 100
    training: tuple[int, ...] = (25, 50, 100)
    repeats: int = 5


WHOLE = Sizes()
QUICK = Sizes((200, 192), (100, 96), 20, 96, (80, 96), 16, (8, 12, 16), 2, (2, 4), 1)


def detector(
    backbone: str,
    device: str,
    scales: Sequence[int] = (688,),
    features: Features = "spp",
    fc: FC | None = None,
    precision: Precision = "float32",
    *,
    classes: int = CLASSES,
    passing: float = 0.01,
    detection: Detection | None = None,
    passes: int = 1,
    sample: int = 100,
) -> Detector:
    """A detector with random weights. ``passing`` is the share of windows above a class's threshold, as far
    as a ``sample`` of so many windows tells.
    """
    fc = fc or FC()
    settings = ModelSettings(
        features=features,
        backbone=BackboneSettings(name=backbone, scales=tuple(scales)),
        fc=fc,
        detection=detection or Detection(),
    )
    described = features_of(_network(backbone, device, precision), settings)
    head = None if fc.layer == "pool5" else FCHead(fc.layer, described.dimension, fc.width)
    if head is not None and fc.rank is not None:
        head = head.compressed(fc.rank)
    dimension = described.dimension if head is None else head.dimension
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(classes, dimension, generator=generator) / dimension
    weight -= weight.mean(dim=1, keepdim=True)
    regressor = BoxRegressor(torch.zeros(classes, 4, described.dimension), torch.zeros(classes, 4))
    names = [f"class {k}" for k in range(classes)]
    scorer = LinearSVMs(weight, torch.zeros(classes))
    made = Detector(names, described, head, scorer, (regressor,) * passes, settings)
    size = (320, 240)
    vectors = described.vectors(described.maps(photo(1, size)), random_windows(sample, size))
    scores = vectors.through(made.head).scores(made.scorer).cpu()[vectors.of]
    bias = settings.detection.score_threshold - scores.quantile(1 - passing, dim=0)
    made.scorer = LinearSVMs(weight, bias).to(vectors.device)
    return made


@cache
def _network(name: str, device: str, precision: Precision) -> Backbone:
    """One for all detectors that have it."""
    return Backbone(name).to(device).at(precision)


def photo(seed: int, size: tuple[int, int]) -> RGB:
    """A generated photo, uint8 ``[H, W, 3]``; ``size`` is (width, height)."""
    return scene(np.random.default_rng(seed), sizes=(size,)).image


def random_windows(count: int, size: tuple[int, int]) -> Boxes:
    """Windows of all shapes at all places, float32 ``[N, 4]`` in pixels."""
    return random_cells(count, size[1], size[0]).astype(np.float32)


def random_cells(count: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rectangles of cells of all shapes at all places, int64 ``[N, 4]``, half-open."""
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.integers(0, width, (count, 2))), np.sort(rng.integers(0, height, (count, 2)))
    return np.stack([x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], axis=1).astype(np.int64)


def seconds_of(jobs: Sequence[Job], device: str, repeats: int, warm: bool = True) -> list[float]:
    """The median time of each job. Jobs take turns, so that a slow moment of the machine affects all."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(-1 if warm else 0, repeats):
        for job, found in zip(jobs, times, strict=True):
            wait_for(device)
            start = time.perf_counter()
            job()
            wait_for(device)
            if turn >= 0:
                found.append(time.perf_counter() - start)
    return [float(np.median(found)) for found in times]


def wait_for(device: str) -> None:
    """Until the device has done all that was queued: a call that returns has not yet computed there."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def device_memory(device: str) -> int | None:
    """The peak of the tensors on a CUDA device in MiB since this was last called; None on other devices."""
    if not device.startswith("cuda"):
        return None
    peak = torch.cuda.max_memory_allocated(device) // 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def row_of(name: str, seconds: float, **more: Any) -> Row:
    return {"name": name, "seconds": seconds, **more}
