"""What `spp-det benchmark` measures, a function a topic, beside what each stage replaces.

Absolute times belong to the machine and to the moment; the ratios are what is claimed. All networks have
random weights, which cost what trained weights cost. All photos are generated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.ops import roi_pool

from spp_det.boxes import Boxes
from spp_det.commands.detect import detect_to_folder
from spp_det.commands.process import tune_process
from spp_det.commands.train import run_training
from spp_det.config.file import parse_config
from spp_det.config.network import FC, FIVE_SCALES, BackboneSettings, Features
from spp_det.config.settings import Detection
from spp_det.config.values import Precision
from spp_det.data.records import Detections
from spp_det.data.synthetic import generate_voc, scene
from spp_det.images import RGB, encode_jpeg, read_image
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector, ranked
from spp_det.model.features import images_at_once
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelSettings, features_of
from spp_det.model.pyramid import DETECTION_LEVELS, pool_windows
from spp_det.model.rcnn import warp
from spp_det.model.suppression import ScoredBoxes, suppress
from spp_det.model.svm import LinearSVMs
from spp_det.proposals import selective_search
from spp_det.runtime.devices import peak_memory
from spp_det.runtime.opencv import cv2
from spp_det.runtime.threads import ahead, cores

CLASSES = 20  # as many as Pascal VOC has

Row = dict[str, Any]
Job = Callable[[], object]


def pooling(device: str, count: int, channels: int = 256, height: int = 43, width: int = 57) -> list[Row]:
    """`pool_windows` beside four calls of `roi_pool`, a loop over windows, and a copy of its own result."""
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
    seconds = _seconds([ours, four_calls, loop, result.clone], device, repeats=5)
    equal = bool(torch.equal(result, loop()))
    return [
        _row("pool_windows", seconds[0], bit_equal_to_the_loop=equal),
        _row("4 x roi_pool", seconds[1], ratio=seconds[1] / seconds[0]),
        _row("loop over windows", seconds[2], ratio=seconds[2] / seconds[0]),
        _row("copy of the result", seconds[3], ratio=seconds[3] / seconds[0]),
    ]


def search_threads(size: tuple[int, int]) -> list[Row]:
    """Selective search on one core, two and all, beside OpenCV's own call of its fast preset."""
    image = photo(0, size)
    bgr = np.ascontiguousarray(image[:, :, ::-1])

    def preset() -> None:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(bgr)
        search.switchToSelectiveSearchFast(150, 150, 0.8)
        search.process()

    threads = sorted({1, 2, cores()})
    jobs: list[Job] = [preset, *(partial(selective_search, image, threads=n) for n in threads)]
    seconds = _seconds(jobs, "cpu", repeats=3)
    ours = [_row(f"{n} threads", s, ratio=seconds[0] / s) for n, s in zip(threads, seconds[1:], strict=True)]
    return [_row("OpenCV's call", seconds[0]), *ours]


def after_proposals(
    backbone: str, device: str, size: tuple[int, int], count: int, precision: Precision = "float32"
) -> list[Row]:
    """One photo from its windows to its detections: SPP-net at one and five scales, and R-CNN.

    First with SVMs on pool5, then on fc7, whole and compressed (Fast R-CNN section 3.1).
    """
    image = photo(0, size)
    windows = random_windows(count, size)

    def make(scales: Sequence[int] = (688,), features: Features = "spp", fc: FC | None = None) -> Detector:
        return detector(backbone, device, scales, features, fc, precision)

    rcnn, jobs = make(features="rcnn"), dict[str, Job]()
    for title, spp in (("1 scale", one := make()), ("5 scales", make(FIVE_SCALES))):
        maps, limits = spp.features.maps(image), spp.settings.detection
        jobs |= {
            f"SPP-net, {title}": partial(spp.detect, image, windows),
            f"   conv5, {title}": partial(spp.features.maps, image),
            f"   pooling and scoring, {title}": partial(spp.score, maps, windows),
            f"   suppression and boxes, {title}": partial(
                _finish, spp, spp.scored_boxes(maps, windows, limits), limits, image
            ),
        }
    seconds = _seconds(list(jobs.values()), device, repeats=7)
    rcnn.detect(image, windows[:64])  # warms up; the whole run is so long that one repeat is enough
    (warped,) = _seconds([partial(rcnn.detect, image, windows)], device, repeats=1, warm=False)
    rows = [_row(name, s, ratio=warped / s) for name, s in zip(jobs, seconds, strict=True)]
    rows.append(_row("R-CNN", warped))
    fill = rcnn.features.backbone.mean.flatten().tolist()
    (warping,) = _seconds([lambda: [warp(image, box, fill) for box in windows]], device, repeats=1)
    rows.append(_row("   warping, R-CNN", warping))
    if (number := images_at_once(torch.device(device))) > 1:
        photos = [photo(seed, size) for seed in range(number)]
        (batch,) = _seconds([partial(one.features.maps_at, photos, 0)], device, repeats=3)
        rows.append(_row(f"   conv5, 1 scale, {number} photos together, each", batch / number))
    width = 4096 if count > 1000 else 64
    whole = FC(layer="fc7", weights="random", width=width)
    exact = make(fc=whole)
    small = make(fc=FC(layer="fc7", weights="random", width=width, rank=(width // 4, width // 16)))
    fc_jobs = [partial(each.detect, image, windows) for each in (exact, small)]
    seconds = _seconds(fc_jobs, device, repeats=3)
    rcnn_fc = make(features="rcnn", fc=whole)
    (warped,) = _seconds([partial(rcnn_fc.detect, image, windows)], device, repeats=1, warm=False)
    names = ("SPP-net, 1 scale, fc7", "SPP-net, 1 scale, fc7 compressed")
    rows += [_row(name, s, ratio=warped / s) for name, s in zip(names, seconds, strict=True)]
    return [*rows, _row("R-CNN, fc7", warped)]


def _finish(spp: Detector, found: ScoredBoxes, limits: Detection, image: RGB) -> Detections:
    kept, scores = suppress(found.boxes, found.labels, found.scores, limits)
    return ranked(spp.refined(found, kept), found.labels[kept], scores, image)


def growth_with_windows(backbone: str, device: str, size: tuple[int, int], most: int) -> list[Row]:
    """Time after the proposals for growing numbers of windows of one photo."""
    image, spp = photo(0, size), detector(backbone, device)
    counts = [most // 4, most // 2, most, 2 * most]
    jobs = [partial(spp.detect, image, random_windows(n, size)) for n in counts]
    return [_row(f"{n} windows", s) for n, s in zip(counts, _seconds(jobs, device, repeats=3), strict=True)]


def growth_with_size(backbone: str, device: str, size: tuple[int, int], count: int) -> list[Row]:
    """Time of selective search, and of all stages after it, for growing photos."""
    spp, rows = detector(backbone, device), []
    for factor in (0.5, 1, 2):
        grown = round(size[0] * factor), round(size[1] * factor)
        image, windows = photo(0, grown), random_windows(count, grown)
        jobs: list[Job] = [partial(selective_search, image), partial(spp.detect, image, windows)]
        search, rest = _seconds(jobs, device, repeats=1)
        name = f"{grown[0]}x{grown[1]}"
        rows += [_row(f"{name}: search", search), _row(f"{name}: the rest", rest)]
    return rows


def whole_folder(backbone: str, device: str, size: tuple[int, int], count: int) -> list[Row]:
    """A folder of photos, from image files to the files of detections, beside its selective search alone."""
    workers = cores()
    with TemporaryDirectory() as place:
        paths = []
        for number in range(count):
            paths.append(Path(place) / f"{number}.jpg")
            paths[-1].write_bytes(encode_jpeg(photo(number, size)))
        model = Path(place) / "model.safetensors"
        detector(backbone, device).save(model)
        decoding, _ = _timed(lambda: [read_image(path) for path in paths], ())
        alone, _ = _timed(_search_files, (paths, 1))
        shared, _ = _timed(_search_files, (paths, workers))
        whole, memory = _in_process(_detect_files, model, paths, Path(place) / "found", device)
    return [
        _row("decoding, each photo", decoding / count),
        _row(f"selective search, {count} photos, 1 core", alone),
        _row(f"selective search, {workers} cores", shared, ratio=alone / shared),
        _row(
            "detection, all cores", whole, ratio=alone / whole, images_per_second=count / whole, memory=memory
        ),
        _row("   beside a perfect search", alone / workers, ratio=whole / (alone / workers)),
    ]


def growth_with_data(count: int, size: tuple[int, int]) -> list[Row]:
    """Training on growing numbers of small photos, without any cache, and its peak memory."""
    rows = []
    with TemporaryDirectory() as place:
        for photos in (count, 2 * count, 4 * count):
            root = Path(place) / str(photos)
            generate_voc(root, {"trainval": photos}, seed=0, sizes=(size,))
            seconds, memory = _in_process(_train, root)
            rows.append(_row(f"{photos} photos", seconds, images_per_second=photos / seconds, memory=memory))
    return rows


def _search_files(paths: Sequence[Path], workers: int) -> None:
    for _ in ahead(lambda path: selective_search(read_image(path), threads=1), paths, workers):
        pass


def _detect_files(model: Path, paths: Sequence[Path], folder: Path, device: str) -> None:
    detect_to_folder(Detector.load(model, device), paths, folder)


def _train(root: Path) -> None:
    tree = {
        "output": str(root / "run"),
        "data": {"root": str(root)},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [240]},
        "runtime": {"device": "cpu"},
    }
    run_training(parse_config(tree, "benchmark"))


def _in_process(job: Callable[..., None], *arguments: object) -> tuple[float, int | None]:
    """Seconds of a job in a process of its own, and the peak memory of that process in MiB."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=tune_process) as processes:
        return processes.submit(_timed, job, arguments).result()


def _timed(job: Callable[..., object], arguments: Sequence[object]) -> tuple[float, int | None]:
    start = time.perf_counter()
    job(*arguments)
    return time.perf_counter() - start, peak_memory()


def detector(
    backbone: str,
    device: str,
    scales: Sequence[int] = (688,),
    features: Features = "spp",
    fc: FC | None = None,
    precision: Precision = "float32",
) -> Detector:
    """A detector with random weights, of which about one window in a hundred passes a class's threshold."""
    fc = fc or FC()
    settings = ModelSettings(
        features=features, backbone=BackboneSettings(name=backbone, scales=tuple(scales)), fc=fc
    )
    described = features_of(Backbone(backbone).to(device).at(precision), settings)
    head = None if fc.layer == "pool5" else FCHead(fc.layer, described.dimension, fc.width)
    if head is not None and fc.rank is not None:
        head = head.compressed(fc.rank)
    dimension = described.dimension if head is None else head.dimension
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(CLASSES, dimension, generator=generator) / dimension
    weight -= weight.mean(dim=1, keepdim=True)
    regressor = BoxRegressor(torch.zeros(CLASSES, 4, described.dimension), torch.zeros(CLASSES, 4))
    names = [f"class {k}" for k in range(CLASSES)]
    made = Detector(names, described, head, LinearSVMs(weight, torch.zeros(CLASSES)), (regressor,), settings)
    vectors = described.vectors(described.maps(photo(1, (320, 240))), random_windows(100, (320, 240)))
    scores = vectors.through(made.head).scores(made.scorer).cpu()[vectors.of]
    bias = settings.detection.score_threshold - scores.quantile(0.99, dim=0)
    made.scorer = LinearSVMs(weight, bias).to(vectors.device)
    return made


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


def _seconds(jobs: Sequence[Job], device: str, repeats: int, warm: bool = True) -> list[float]:
    """The median time of each job. Jobs take turns, so that a slow moment of the machine affects all."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(-1 if warm else 0, repeats):
        for job, found in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            if turn >= 0:
                found.append(time.perf_counter() - start)
    return [float(np.median(found)) for found in times]


def _row(name: str, seconds: float, **more: Any) -> Row:
    return {"name": name, "seconds": seconds, **more}
