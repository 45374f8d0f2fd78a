"""What `spp-det benchmark` measures from end to end: growing photos, a folder of files, a training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from spp_det.commands.benchmark_inputs import (
    Job,
    Row,
    Sizes,
    detector,
    photo,
    random_windows,
    row_of,
    seconds_of,
)
from spp_det.commands.benchmark_process import in_process, timed
from spp_det.commands.detect import detect_to_folder
from spp_det.commands.train import run_training
from spp_det.config.file import parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.images import encode_jpeg, read_image
from spp_det.model.detector import Detector
from spp_det.proposals import selective_search
from spp_det.runtime.threads import ahead, cores


def growth_with_size(backbone: str, device: str, sizes: Sizes) -> list[Row]:
    """Time of selective search, and of all stages after it, for growing photos."""
    spp, rows = detector(backbone, device, (sizes.scale,)), []
    for factor in (0.5, 1, 2):
        grown = round(sizes.photo[0] * factor), round(sizes.photo[1] * factor)
        image, windows = photo(0, grown), random_windows(sizes.windows, grown)
        jobs: list[Job] = [partial(selective_search, image), partial(spp.detect, image, windows)]
        search, rest = seconds_of(jobs, device, repeats=1)
        name = f"{grown[0]}x{grown[1]}"
        rows += [row_of(f"{name}: search", search), row_of(f"{name}: the rest", rest)]
    return rows


def whole_folder(backbone: str, device: str, sizes: Sizes) -> list[Row]:
    """A folder of photos, from image files to the files of detections, beside its selective search alone."""
    workers, count = cores(), sizes.folder
    with TemporaryDirectory() as place:
        paths = []
        for number in range(count):
            paths.append(Path(place) / f"{number}.jpg")
            paths[-1].write_bytes(encode_jpeg(photo(number, sizes.photo)))
        model = Path(place) / "model.safetensors"
        detector(backbone, device, (sizes.scale,)).save(model)
        decoding, _ = timed(lambda: [read_image(path) for path in paths], ())
        alone, _ = timed(_search_files, (paths, 1))
        shared, _ = timed(_search_files, (paths, workers))
        whole, memory = in_process(_detect_files, model, paths, Path(place) / "found", device)
    return [
        row_of("decoding, each photo", decoding / count),
        row_of(f"selective search, {count} photos, 1 core", alone),
        row_of(f"selective search, {workers} cores", shared, ratio=alone / shared),
        row_of(
            "detection, all cores", whole, ratio=alone / whole, images_per_second=count / whole, memory=memory
        ),
        row_of("   beside a perfect search", alone / workers, ratio=whole / (alone / workers)),
    ]


def growth_with_data(sizes: Sizes) -> list[Row]:
    """Training from nothing on growing numbers of small photos, without any cache, and its peak memory."""
    rows = []
    with TemporaryDirectory() as place:
        for photos in sizes.training:
            root = Path(place) / str(photos)
            generate_voc(root, {"trainval": photos}, seed=0, sizes=(sizes.training_photo,))
            seconds, memory = in_process(_train, root, min(240, sizes.scale))
            rows.append(
                row_of(f"{photos} photos", seconds, images_per_second=photos / seconds, memory=memory)
            )
    return rows


def _search_files(paths: Sequence[Path], workers: int) -> None:
    for _ in ahead(lambda path: selective_search(read_image(path), threads=1), paths, workers):
        pass


def _detect_files(model: Path, paths: Sequence[Path], folder: Path, device: str) -> None:
    detect_to_folder(Detector.load(model, device), paths, folder)


def _train(root: Path, scale: int) -> None:
    tree = {
        "output": str(root / "run"),
        "data": {"root": str(root)},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [scale]},
        "runtime": {"device": "cpu"},
    }
    run_training(parse_config(tree, "benchmark"))
