"""Folders that are written to, with things planted in them; and pictures of extreme shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from spp_det.commands.process import log_to
from spp_det.data.coco import coco_instances
from spp_det.data.records import Dataset, Detections, Record
from spp_det.data.voc import write_voc
from spp_det.data.yolo import write_yolo
from spp_det.detections.output import FORMATS, Output
from spp_det.detections.types import DetectedImage
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, image_size, read_image
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.runtime.cache import Cache
from spp_det.runtime.run_folder import alone_in
from spp_det.runtime.whole_files import write_json
from tests.stress.corrupt import Rng
from tests.stress.data_sets import Reader

CLASSES = ("cat", "big dog")
KEY = "a" * 32
WANTED = (
    *("found/voc", "found/yolo", "found/pictures", "found/crops/cat", "found/detections.jsonl", "train.log"),
    *("found/.detections.jsonl.stale", "found/.images.json.partial", "found/.run.lock", "metrics.json"),
    *("cache/maps", "cache/maps/aa", f"cache/maps/aa/{KEY}.safetensors", "cache/maps/.partial", "cache"),
    *(
        "Annotations",
        "ImageSets/Main",
        "ImageSets/Main/test.txt",
        "Annotations/a.xml",
        "labels/test",
        "data.yaml",
    ),
    *(
        "found/devkit/comp4_det_test_cat.txt",
        "found/yolo/a.txt",
        "found/detections.csv",
        "found/detections.json",
    ),
)


def _found() -> Detections:
    return Detections(
        boxes=np.array([[0, 0, 9, 9], [3, 4, 20, 18]], np.float32),
        labels=np.array([0, 1]),
        scores=np.array([0.5, 0.25], np.float32),
    )


def write_outputs(folder: Path) -> None:
    """Everything that the package writes in folders, written once."""
    for attempt in _writes(folder):
        attempt()


def write_over(folder: Path, _out: Path) -> None:
    """Everything written again, over what was planted; each may be refused."""
    for attempt in _writes(folder):
        try:
            attempt()
        except (UserError, OSError) as error:  # of the system: one line at the command's door
            if isinstance(error, OSError) and error.strerror is None:
                raise


def _writes(folder: Path) -> tuple[Callable[[], object], ...]:
    paths = [folder / "photos" / name for name in ("a.jpg", "b c.png")]
    found, pixels = _found(), np.zeros((24, 32, 3), np.uint8)
    objects = (found["boxes"], found["labels"], *np.zeros((2, 2), bool), (32, 24))
    dataset = Dataset(CLASSES, tuple(Record(path.stem, path, *objects) for path in paths))

    def detections(resume: bool = False) -> None:
        with (
            alone_in(folder / "found"),
            DetectionWriter(folder / "found", CLASSES, paths, Output(FORMATS, True, True), resume) as writer,
        ):
            for path in paths[writer.done :]:
                writer.add(DetectedImage(path, pixels, found))

    def cache() -> None:
        kept = Cache(folder / "cache")
        kept.load_or_make("maps", KEY, lambda: {"cells": np.zeros(5)})
        kept.store("maps", KEY, {"cells": np.ones(5)})
        kept.sweep()
        kept.prune("maps")
        kept.store("maps", KEY, {"cells": np.ones(5)})

    return (
        lambda: detections(resume=True),
        detections,
        cache,
        lambda: write_voc(dataset, folder, "test"),
        lambda: write_yolo(dataset, folder, "test"),
        lambda: write_json(folder / "metrics.json", coco_instances(dataset)),
        lambda: log_to(folder / "train.log"),
    )


SHAPES = ((1, 100_000), (100_000, 1), (2, 60_000), (7, 9000), (9000, 11), (1, 1), (3, 2000), (200, 300))
SUFFIXES = (".png", ".jpg", ".webp", ".gif", ".tif", ".bmp", ".ppm", ".jp2")


def write_shapes(folder: Path) -> None:
    """The names of two pictures, which `extreme` draws."""
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), (200, 30, 10)).save(folder / name)


def extreme(rng: Rng, folder: Path) -> None:
    """Pictures of extreme shapes, of any format, some of them huge files, cut off or sparse."""
    height, width = SHAPES[rng.integers(len(SHAPES))]
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:: max(1, height // 7), :: max(1, width // 9)] = rng.integers(256, size=3)
    path = folder / f"a{SUFFIXES[rng.integers(len(SUFFIXES))]}"
    try:
        Image.fromarray(pixels).save(path)
    except Exception:  # the format holds no such side
        path = folder / "a.png"
        Image.fromarray(pixels).save(path)
    if rng.random() < 0.4:
        data = path.read_bytes()
        path.write_bytes(data[: max(2, int(len(data) * rng.random()))])
    if rng.random() < 0.4:
        with path.open("r+b") as file:
            file.truncate(int(2 ** rng.uniform(16, 33)))


def read_shapes(folder: Path, _out: Path) -> None:
    """Decode, and search by both engines; each picture is used or unreadable."""
    for path in sorted(folder.iterdir()):
        for read in (image_size, read_image):
            try:
                read(path)
            except UnreadableImageError:
                continue
        for engine in ("native", "opencv"):
            settings = proposals_of("fast").model_copy(update={"engine": engine})
            if engine == "opencv" and path.suffix == ".png":
                continue  # seconds a picture
            try:
                WindowSource(settings).windows_of_file(path, None, None)
            except UnreadableImageError:
                continue


OUTPUTS = {
    "outputs": Reader(
        *(write_outputs, write_over, ("**/*.*",), 0.3),
        in_place=True,
        links=True,
        folders=True,
        planted=1.0,
        beside=WANTED,
    ),
    "shapes": Reader(write_shapes, read_shapes, share=0.1, drawn=extreme),
}
