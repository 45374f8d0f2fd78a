"""What `spp-det benchmark` measures of the stages, a function a topic, beside what each stage replaces.

Absolute times belong to the machine and to the moment; the ratios are what is claimed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torchvision.ops import roi_pool

from spp_det.commands.benchmark_inputs import (
    CLASSES,
    Job,
    Row,
    Sizes,
    detector,
    photo,
    random_cells,
    random_windows,
    row_of,
    seconds_of,
)
from spp_det.config.network import FC, Features
from spp_det.config.settings import Detection
from spp_det.config.values import Precision
from spp_det.data.records import Detections
from spp_det.images import RGB
from spp_det.model.detector import Detector, ranked
from spp_det.model.features import images_at_once
from spp_det.model.pyramid import DETECTION_LEVELS, pool_windows
from spp_det.model.rcnn import warp
from spp_det.model.suppression import ScoredBoxes, suppress
from spp_det.proposals import selective_search
from spp_det.proposals.grouping import group
from spp_det.proposals.presets import PRESETS, in_colour
from spp_det.proposals.regions import describe, texture_of
from spp_det.proposals.segmentation import agree, segment
from spp_det.runtime.devices import bfloat16_pays, fast_floats, has_bfloat16
from spp_det.runtime.opencv import cv2
from spp_det.runtime.threads import cores

T = TypeVar("T")


def pooling(device: str, sizes: Sizes) -> list[Row]:
    """`pool_windows` beside four calls of `roi_pool`, a loop over windows, and a copy of its own result."""
    count, (channels, height, width) = sizes.windows, sizes.conv5
    generator = torch.Generator().manual_seed(0)
    conv5 = torch.rand(channels, height, width, generator=generator).to(device)
    conv5 = conv5[None].contiguous(memory_format=torch.channels_last)[0]
    windows = random_cells(count, height, width)
    # roi_pool rounds coordinates and takes the last cell as inclusive.
    rois = torch.from_numpy(np.column_stack([np.zeros(count), windows - [0, 0, 1, 1]])).float().to(device)
    layers = [nn.AdaptiveMaxPool2d(n) for n in DETECTION_LEVELS]
    planes = conv5.contiguous()  # [C, h, w], the layout that suits roi_pool and the loop

    def four_calls() -> torch.Tensor:
        levels = [roi_pool(planes[None], rois, (n, n)).flatten(2).transpose(1, 2) for n in DETECTION_LEVELS]
        return torch.cat(levels, dim=1)

    def loop() -> torch.Tensor:
        vectors = []
        for x1, y1, x2, y2 in windows.tolist():
            crop = planes[:, y1:y2, x1:x2]
            vectors.append(torch.cat([layer(crop).flatten(1) for layer in layers], dim=1).T)
        return torch.stack(vectors)

    def ours() -> torch.Tensor:
        return pool_windows(conv5, windows)

    result = ours()
    seconds = seconds_of([ours, four_calls, loop, result.clone], device, sizes.repeats)
    equal = bool(torch.equal(result, loop()))
    return [
        row_of("pool_windows", seconds[0], bit_equal_to_the_loop=equal),
        row_of("4 x roi_pool", seconds[1], ratio=seconds[1] / seconds[0]),
        row_of("loop over windows", seconds[2], ratio=seconds[2] / seconds[0]),
        row_of("copy of the result", seconds[3], ratio=seconds[3] / seconds[0]),
    ]


def search_threads(sizes: Sizes) -> list[Row]:
    """Selective search on one core, two and all: ours and OpenCV's parts, beside OpenCV's own call.

    OpenCV's own call of its fast preset has one thread, however many there are.
    """
    image = photo(0, sizes.photo)
    bgr = np.ascontiguousarray(image[:, :, ::-1])

    def preset() -> None:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(bgr)
        search.switchToSelectiveSearchFast(150, 150, 0.8)
        search.process()

    jobs: dict[str, Job] = {"OpenCV's call": preset}
    for n in sorted({1, 2, cores()}):
        jobs[f"ours, {n} threads"] = partial(selective_search, image, threads=n)
        jobs[f"OpenCV's parts, {n} threads"] = partial(selective_search, image, threads=n, engine="opencv")
    whole, *others = seconds_of(list(jobs.values()), "cpu", min(3, sizes.repeats))
    name, *names = jobs
    return [row_of(name, whole), *(row_of(n, s, ratio=whole / s) for n, s in zip(names, others, strict=True))]


def search_parts(sizes: Sizes) -> list[Row]:
    """What the fast search spends its time on, on one core, all colour spaces together."""
    bgr, preset = np.ascontiguousarray(photo(0, sizes.photo)[:, :, ::-1]), PRESETS["fast"]
    rounds: list[dict[str, float]] = []

    def timed(name: str, function: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = function()
        rounds[-1][name] += time.perf_counter() - start
        return result

    for _ in range(1 + sizes.repeats):
        rounds.append(defaultdict(float))
        for colour in preset.colours:
            image = timed("colour", partial(in_colour, bgr, colour))
            least, most = min(preset.granularities), max(preset.granularities)
            graph = timed("blur, edges, their order", partial(agree, image, least, most))
            texture = timed("texture", partial(texture_of, image))
            for k in preset.granularities:
                labels, count = timed("segmentation", partial(segment, graph, k, preset.min_region(k)))
                regions = timed("describing regions", partial(describe, image, labels, count, texture))
                for strategy in preset.strategies:
                    timed("grouping", partial(group, regions, strategy, labels.size))
    medians = {name: float(np.median([each[name] for each in rounds[1:]])) for name in rounds[0]}
    whole = sum(medians.values())
    return [row_of("all parts", whole), *(row_of(f"   {n}", s, ratio=s / whole) for n, s in medians.items())]


def network(backbone: str, device: str, sizes: Sizes) -> list[Row]:
    """conv5 of a photo in each precision that the device has; the first one is what ``auto`` chooses."""
    place = torch.device(device)
    precisions: list[Precision] = ["float32", *dict.fromkeys(["bfloat16", fast_floats(place)])]
    precisions = precisions if has_bfloat16(place) else ["float32"]
    if bfloat16_pays(place)[0]:
        precisions.reverse()
    image = photo(0, sizes.photo)
    each = [detector(backbone, device, (sizes.scale,), precision=name).features for name in precisions]
    auto, *others = seconds_of([partial(features.maps, image) for features in each], device, sizes.repeats)
    rows = [row_of(f"conv5, {precisions[0]}, which is auto", auto)]
    return rows + [
        row_of(f"conv5, {name}", s, ratio=s / auto) for name, s in zip(precisions[1:], others, strict=True)
    ]


def after_proposals(backbone: str, device: str, sizes: Sizes, precision: Precision = "float32") -> list[Row]:
    """One photo from its windows to its detections: SPP-net at one and five scales, and R-CNN.

    First with SVMs on pool5, then on fc7, whole and compressed (Fast R-CNN section 3.1).
    """
    image = photo(0, sizes.photo)
    windows = random_windows(sizes.windows, sizes.photo)

    def make(
        scales: Sequence[int] = (sizes.scale,), features: Features = "spp", fc: FC | None = None
    ) -> Detector:
        return detector(backbone, device, scales, features, fc, precision)

    rcnn, jobs = make(features="rcnn"), dict[str, Job]()
    for title, spp in (("1 scale", one := make()), ("5 scales", make(scales=sizes.scales))):
        maps, limits = spp.features.maps(image), spp.settings.detection
        jobs |= {
            f"SPP-net, {title}": partial(spp.detect, image, windows),
            f"   conv5, {title}": partial(spp.features.maps, image),
            f"   pooling and scoring, {title}": partial(spp.score, maps, windows),
            f"   suppression and boxes, {title}": partial(
                _finish, spp, spp.scored_boxes(maps, windows, limits), limits, image
            ),
        }
    seconds = seconds_of(list(jobs.values()), device, sizes.repeats)
    rcnn.detect(
        image, windows[: min(64, sizes.windows // 2)]
    )  # warms up; the whole run is so long that one repeat is enough
    (warped,) = seconds_of([partial(rcnn.detect, image, windows)], device, repeats=1, warm=False)
    rows = [row_of(name, s, ratio=warped / s) for name, s in zip(jobs, seconds, strict=True)]
    rows.append(row_of("R-CNN", warped))
    fill = rcnn.features.backbone.mean.flatten().tolist()
    (warping,) = seconds_of([lambda: [warp(image, box, fill) for box in windows]], device, repeats=1)
    rows.append(row_of("   warping, R-CNN", warping))
    if (number := images_at_once(torch.device(device))) > 1:
        photos = [photo(seed, sizes.photo) for seed in range(number)]
        (batch,) = seconds_of([partial(one.features.maps_at, photos, 0)], device, min(3, sizes.repeats))
        rows.append(row_of(f"   conv5, 1 scale, {number} photos together, each", batch / number))
        (batch,) = seconds_of(
            [partial(one.detect_batch, photos, [windows] * number)], device, min(3, sizes.repeats)
        )
        each = batch / number
        rows.append(row_of(f"SPP-net, 1 scale, {number} photos together, each", each, ratio=warped / each))
    width = sizes.fc
    whole = FC(layer="fc7", weights="random", width=width)
    exact = make(fc=whole)
    small = make(fc=FC(layer="fc7", weights="random", width=width, rank=(width // 4, width // 16)))
    fc_jobs = [partial(each.detect, image, windows) for each in (exact, small)]
    seconds = seconds_of(fc_jobs, device, min(3, sizes.repeats))
    rcnn_fc = make(features="rcnn", fc=whole)
    (warped,) = seconds_of([partial(rcnn_fc.detect, image, windows)], device, repeats=1, warm=False)
    names = ("SPP-net, 1 scale, fc7", "SPP-net, 1 scale, fc7 compressed")
    rows += [row_of(name, s, ratio=warped / s) for name, s in zip(names, seconds, strict=True)]
    return [*rows, row_of("R-CNN, fc7", warped)]


def _finish(spp: Detector, found: ScoredBoxes, limits: Detection, image: RGB) -> Detections:
    kept, scores = suppress(found.boxes, found.labels, found.scores, limits)
    return ranked(spp.refined(found, kept), found.labels[kept], scores, image.shape[1], image.shape[0])


def growth_with_windows(backbone: str, device: str, sizes: Sizes) -> list[Row]:
    """Time after the proposals for growing numbers of windows of one photo."""
    image, spp = photo(0, sizes.photo), detector(backbone, device, (sizes.scale,))
    counts = [sizes.windows * factor // 4 for factor in (1, 2, 4, 8)]
    jobs = [partial(spp.detect, image, random_windows(n, sizes.photo)) for n in counts]
    seconds = seconds_of(jobs, device, min(3, sizes.repeats))
    return [row_of(f"{n} windows", s) for n, s in zip(counts, seconds, strict=True)]


def growth_with_classes(backbone: str, device: str, sizes: Sizes) -> list[Row]:
    """Time after the proposals for growing numbers of classes, beside the network alone.

    It is the worst case: two passes and soft-NMS, and nearly every window is above every class's threshold.
    """
    image, windows = photo(0, sizes.photo), random_windows(sizes.windows, sizes.photo)
    counts, soft = [CLASSES, 4 * CLASSES], Detection(soft_nms=0.3)
    make = partial(detector, backbone, device, (sizes.scale,), passing=0.99, detection=soft, passes=2)
    models = [make(classes=count) for count in counts]
    jobs: list[Job] = [partial(models[0].features.maps, image)]
    jobs += [partial(model.detect, image, windows) for model in models]
    alone, *whole = seconds_of(jobs, device, min(3, sizes.repeats))
    rows = [row_of(f"{n} classes", s, ratio=s / alone) for n, s in zip(counts, whole, strict=True)]
    return [row_of("the network alone", alone), *rows]
