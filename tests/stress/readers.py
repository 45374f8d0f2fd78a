"""Everything that reads files from elsewhere, each with valid files to damage and a call that reads them.

A reader may refuse its input by UserError and may use it; anything else that it raises is a bug.
"""

from __future__ import annotations

import atexit
import gzip
import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from PIL import Image
from PIL import features as pillow
from safetensors.torch import save
from scipy.io import savemat

from spp_det.boxes import as_boxes
from spp_det.commands import ablate as ablation
from spp_det.commands.report import run_report
from spp_det.commands.train import run_training
from spp_det.commands.truth import Truth
from spp_det.config.file import dump_config, load_config, parse_config
from spp_det.config.pretrain import PretrainConfig, Training
from spp_det.config.settings import Config
from spp_det.data.class_folder import read_class_folder
from spp_det.data.coco import coco_instances, read_coco
from spp_det.data.coco_file import load_json
from spp_det.data.folder import find_images
from spp_det.data.records import Dataset, Detections, Record
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.detections.output import FORMATS, Output
from spp_det.detections.types import DetectedImage
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.evaluation.results import evaluate, evaluate_files, read_results
from spp_det.images import UnreadableImageError, image_size, read_image
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.head import FCHead
from spp_det.model.head_weights import LEVELS_KEY
from spp_det.model.model_file import ModelSettings, features_of
from spp_det.model.svm import Hinge, LinearSVMs
from spp_det.pretraining.checkpoint import load_checkpoint, save_checkpoint
from spp_det.pretraining.class_images import readable
from spp_det.pretraining.learning import Progress, learn
from spp_det.pretraining.pretrain import save_backbone
from spp_det.proposals.edges import EdgeBoxes
from spp_det.proposals.files import write_proposals
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.report.tables import ablation_table
from spp_det.runtime.cache import Cache
from spp_det.runtime.sharing import share
from spp_det.training.checkpoint import Checkpoint
from spp_det.training.mining import Mining
from spp_det.training.stages import train
from spp_det.training.table9 import table_rows
from tests.proposals.conftest import edge_model_text
from tests.stress.data_sets import DATA_SETS, Reader, write_voc
from tests.stress.endpoints import ENDPOINTS
from tests.stress.outputs import OUTPUTS

SHAPE = (24, 32, 3)  # of the images here


def _picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)
    return Image.fromarray(pixels).resize((32, 24), Image.Resampling.BOX)


def _write_coco(folder: Path) -> None:
    write_voc(folder)
    dataset = read_voc(folder, "trainval")
    instances = coco_instances(dataset)
    for image in instances["images"]:
        image["file_name"] = f"JPEGImages/{image['file_name']}"
    (folder / "instances.json").write_text(json.dumps(instances))
    rows = [
        {"image_id": 1 + i % 2, "category_id": 1, "bbox": [1.0, 2.0, 20.0, 10.0 + i], "score": 0.1 * i}
        for i in range(4)
    ]
    (folder / "detections.json").write_text(json.dumps(rows))
    (folder / "images.json").write_text(json.dumps({k: instances[k] for k in ("images", "categories")}))


def _read_coco(folder: Path, _out: Path) -> None:
    for record in read_coco(folder / "instances.json").records:
        try:
            read_image(record.path)
        except UnreadableImageError:
            continue


def _read_results(folder: Path, _out: Path) -> None:
    dataset = read_coco(folder / "instances.json")
    found = read_results(folder / "detections.json", dataset)
    evaluate(dataset, found, load_json(folder / "instances.json")).figures()


_CLASSES = ("cat", "big dog")


def _write_found(folder: Path) -> None:
    """Detections in every format, of two images, and what they are compared with."""
    (folder / "photos").mkdir()
    paths = [folder / "photos" / name for name in ("a.jpg", "b c.png")]
    for number, path in enumerate(paths):
        _picture(number).save(path)
    found = Detections(
        boxes=np.array([[0, 0, 9, 9], [3.25, 4.5, 20, 18]], np.float32),
        labels=np.array([0, 1]),
        scores=np.array([0.5, -0.25], np.float32),
    )
    with DetectionWriter(folder / "found", _CLASSES, paths, Output(FORMATS, crops=True)) as writer:
        for path in paths:
            writer.add(DetectedImage(path, read_image(path), found))
    shutil.rmtree(folder / "found" / "crops")  # are not read
    truth = [
        Record(path.name, path, found["boxes"], found["labels"], *np.zeros((2, 2), bool), (32, 24))
        for path in paths
    ]
    (folder / "instances.json").write_text(json.dumps(coco_instances(Dataset(_CLASSES, tuple(truth)))))


def _reads_found(name: str, listed: bool = True) -> Callable[[Path, Path], None]:
    def read(folder: Path, _out: Path) -> None:
        if not listed:
            (folder / "found" / "images.json").unlink(missing_ok=True)
        dataset = read_coco(folder / "instances.json")
        evaluate(dataset, read_results(folder / "found" / name, dataset)).figures()

    return read


def _resume(folder: Path, _out: Path) -> None:
    """Go on with a run whose journal is damaged, and then begin it anew over what that left."""
    paths = [folder / "photos" / name for name in ("a.jpg", "b c.png")]
    nothing = Detections(boxes=as_boxes([]), labels=np.zeros(0, np.int64), scores=np.zeros(0, np.float32))
    for resume in (True, False):
        try:
            output = Output(FORMATS, crops=True)
            with DetectionWriter(folder / "found", _CLASSES, paths, output, resume) as writer:
                for path in paths[writer.done :]:
                    writer.add(DetectedImage(path, np.zeros(SHAPE, np.uint8), nothing))
        except UserError:
            if not resume:
                raise


def _read_any_results(folder: Path, _out: Path) -> None:
    evaluate_files(folder / "instances.json", folder / "detections.json")


def _write_configs(folder: Path) -> None:
    (folder / "train.yaml").write_text(dump_config(Config()))
    (folder / "pretrain.yaml").write_text(dump_config(PretrainConfig()))


def _read_configs(folder: Path, _out: Path) -> None:
    dump_config(load_config(folder / "train.yaml", ["svm.C=0.5"]))
    load_config(folder / "pretrain.yaml", (), PretrainConfig)


def _settings() -> ModelSettings:
    tree = {
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
        "pyramid": {"levels": [1]},
    }
    config = parse_config(tree, "fuzz")
    return ModelSettings(proposals=config.proposals, backbone=config.backbone, pyramid=config.pyramid)


def _write_model(folder: Path) -> None:
    settings = _settings()
    features = features_of(Backbone("zf5_small"), settings)
    scorer = LinearSVMs(torch.ones(2, features.dimension) * 0.01, torch.zeros(2))
    passes = [BoxRegressor(torch.zeros(2, 4, features.dimension), torch.zeros(2, 4)) for _ in range(2)]
    Detector(("a", "b"), features, None, scorer, passes, settings).save(folder / "model.safetensors")


def _read_model(folder: Path, _out: Path) -> None:
    detector = Detector.load(folder / "model.safetensors")
    settings = detector.settings
    if max(settings.backbone.scales) <= 128 and sum(settings.pyramid.levels) < 100:
        detector.detect(np.zeros(SHAPE, np.uint8), np.array([[0, 0, 9, 9]], np.float32))


def _write_weights(folder: Path) -> None:
    save_backbone(Backbone("zf5_small"), folder / "weights.safetensors")
    state = {f"features.{k}": v for k, v in Backbone("zf5_small").layers.state_dict().items()}
    torch.save(state, folder / "weights.pth")


def _read_weights(folder: Path, _out: Path) -> None:
    for path in sorted(folder.iterdir(), reverse=True):
        Backbone("zf5_small").load_weights(str(path))


def _write_windows(folder: Path) -> None:
    boxes = np.array([[0, 0, 9, 9], [3, 4, 20, 18]], np.float32)
    for suffix in (".npz", ".json"):
        write_proposals(folder / f"windows{suffix}", {"a": boxes, "b": boxes[:1]})
    images, cells = np.array([["a", "b"]], object), np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = boxes[:, [1, 0, 3, 2]] + 1, np.ones((1, 4))
    savemat(folder / "windows.mat", {"images": images, "boxes": cells})
    savemat(folder / "small.mat", {"images": images, "boxes": cells}, do_compression=True)


def _reads_windows(name: str) -> Callable[[Path, Path], None]:
    def read(folder: Path, _out: Path) -> None:
        source = WindowSource(proposals_of("file", file=folder / name))
        source.check([(folder / "a.jpg", "a")])
        source.windows(np.zeros(SHAPE, np.uint8), folder / "a.jpg", "a")

    return read


_FORMATS = {
    "a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WEBP", "d.tif": "TIFF", "e.bmp": "BMP", "f.gif": "GIF",
    "g.ppm": "PPM", "h.jp2": "JPEG2000", "i.avif": "AVIF",
}  # fmt: skip


def _write_images(folder: Path) -> None:
    for name, kind in _FORMATS.items():
        if kind != "AVIF" or "avif" in pillow.modules:
            _picture().save(folder / name, kind)
    _picture().convert("CMYK").save(folder / "j.jpg")
    _picture().convert("P").save(folder / "k.png", transparency=3)
    _picture().convert("I;16").save(folder / "l.png")
    _picture().convert("F").save(folder / "m.tif", compression="tiff_lzw")
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture().save(folder / "n.jpg", exif=exif, progressive=True)


def _read_images(folder: Path, _out: Path) -> None:
    for path in find_images([folder]):
        for read in (read_image, image_size):
            try:
                read(path)
            except UnreadableImageError:
                continue


def _write_cache(folder: Path) -> None:
    Cache(folder).store("maps", "a" * 32, {"cells": np.arange(60.0).reshape(3, 4, 5), "size": np.ones(2)})


def _read_cache(folder: Path, _out: Path) -> None:
    """What is damaged is absent; what is found is what was stored."""
    found = Cache(folder).load("maps", "a" * 32)
    if found is not None:
        np.testing.assert_array_equal(found["cells"], np.arange(60.0).reshape(3, 4, 5))


_MINED = parse_config({"svm": {"memory_mb": 16}}, "fuzz").svm


def _write_mining(folder: Path) -> None:
    state = Mining.begin(6, 2, _MINED)
    state.pool.add(torch.ones(3, 6), np.array([[1, 0], [0, 1], [-1, -1]], np.int8))
    Cache(folder).store("mining", "b" * 32, state.arrays())


def _read_mining(folder: Path, _out: Path) -> None:
    checkpoint = Checkpoint(Cache(folder), "mining", "b" * 32)
    state = checkpoint.resume(partial(Mining.of, dimension=6, classes=2, settings=_MINED))
    if state is not None:
        state.remake([(torch.ones(state.pool.size, 6), np.zeros(0, np.int8))], share([]))
        state.pool.fit(Hinge(_MINED.C, _MINED.bias, _MINED.positive_weight), 0.1)
        state.pool.evict(state.svms, _MINED.evict_score)


@cache
def _run() -> Path:
    """A small training with fine-tuning, its test and its cache, in ``voc`` and ``run`` of a folder."""
    folder = Path(mkdtemp(prefix="readers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generate_voc(folder / "voc", {"trainval": 3, "test": 2}, seed=1, sizes=((112, 96),))
    run_training(_run_config(folder))
    return folder


def _run_config(folder: Path) -> Config:
    tree = {
        "output": str(folder / "run"),
        "data": {"root": str(folder / "voc"), "test": "test"},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
        "pyramid": {"levels": [1]},
        "fc": {"layer": "fc6", "weights": "random", "width": 8},
        "finetune": {"enabled": True, "steps": 2, "last_steps": 1, "batch": 8, "held_out": 0},
        "bbox": {"passes": 2},
        "runtime": {"device": "cpu", "workers": 1},
    }
    return parse_config(tree, "fuzz")


def _write_run(folder: Path) -> None:
    """Without the model, so that a call makes it anew from the artefacts."""
    shutil.copytree(_run(), folder, dirs_exist_ok=True)


_made: list[Path] = []


def _read_run(folder: Path, _out: Path) -> None:
    if not _made:  # once all of it, undamaged: numba loads its kernels, which are its own affair
        _made.append(folder)
        for stage in ("finetune", "norms", "svms", "regressors"):
            Cache(folder / "run" / "cache").prune(stage)
    train(_run_config(folder))


def _read_report(folder: Path, out: Path) -> None:
    run_report(folder / "run", Truth(voc=folder / "voc"), out / "report.html")


def _write_table(folder: Path) -> None:
    """Of an ablation; each row's model is there, by its name alone."""
    config = _table_config(folder)
    rows = table_rows(config)
    figures = {"mAP50": 0.5, "mAP75": None, "train_seconds": 2.0, "detect_seconds": 0.1, "seconds": {}}
    for row in rows:
        row.config.output.mkdir(parents=True)
        (row.config.output / "model.safetensors").touch()
    ablation._write(config, rows, {row.name: ablation._described(row) | figures for row in rows})


def _table_config(folder: Path) -> Config:
    return parse_config({"output": str(folder / "table"), "data": {"test": "test"}}, "fuzz")


def _read_table(folder: Path, out: Path) -> None:
    config = _table_config(folder)
    rows = table_rows(config)
    kept = ablation._kept(config, rows)
    figures = ablation._write(config.model_copy(update={"output": out}), rows, kept)
    ablation_table(figures)


def _write_fc(folder: Path) -> None:
    """fc6 and fc7 of a network that is called alexnet, but narrow; with and without the levels it saw."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "classifier.1.weight": torch.randn(6, 256 * 5, generator=generator),
        "classifier.1.bias": torch.zeros(6),
        "classifier.4.weight": torch.randn(6, 6, generator=generator),
        "classifier.4.bias": torch.zeros(6),
        LEVELS_KEY: torch.tensor([2, 1]),
    }
    (folder / "weights.safetensors").write_bytes(save(state))
    torch.save(state, folder / "weights.pth")


def _read_fc(folder: Path, _out: Path) -> None:
    for path in sorted(folder.iterdir()):
        head = FCHead("fc7", 256 * 5, 6, seed=None)
        head.load_weights(str(path), "alexnet", (2, 1), 256)


def _write_list(folder: Path) -> None:
    (folder / "photos").mkdir()
    names = [f"photos/{number}.jpg" for number in range(3)]
    for number, name in enumerate(names):
        _picture(number).save(folder / name)
    (folder / "list.txt").write_text("\n".join(["", *names, ""]))


def _read_list(folder: Path, _out: Path) -> None:
    for path in find_images([folder / "list.txt"]):
        path.is_absolute()  # a list may name anything: what it names is the reader's affair


def _write_classes(folder: Path) -> None:
    for number, name in enumerate(("train/cat/a.jpg", "train/cat/b.png", "train/dog/c.webp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _picture(number).save(folder / name)


def _read_classes(folder: Path, _out: Path) -> None:
    readable(read_class_folder(folder, "train"), workers=1, strict=False)


def _network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 2))


_SETTINGS = {"seed": 1}


def _write_checkpoint(folder: Path) -> None:
    def keep(progress: Progress) -> None:
        save_checkpoint(folder / "checkpoint.safetensors", network, progress, _SETTINGS)

    network = _network()
    batch = (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
    learn(network, lambda _epoch, _size: iter([batch]), 1, Training(epochs=1), Progress([]), keep)


def _read_checkpoint(folder: Path, _out: Path) -> None:
    load_checkpoint(folder / "checkpoint.safetensors", _network(), _SETTINGS)


def _write_edges(folder: Path) -> None:
    (folder / "model.yml").write_text(edge_model_text())
    (folder / "model.yml.gz").write_bytes(gzip.compress(edge_model_text().encode()))


def _reads_edges(name: str) -> Callable[[Path, Path], None]:
    def read(folder: Path, _out: Path) -> None:
        EdgeBoxes(folder / name)(np.asarray(_picture().resize((64, 48))))

    return read


_COCO = ("instances.json", "detections.json", "images.json")
READERS = {
    **DATA_SETS,
    **OUTPUTS,
    **ENDPOINTS,
    "coco": Reader(_write_coco, _read_coco, ("instances.json",)),
    "detections": Reader(_write_coco, _read_results, _COCO),
    "coco_eval": Reader(_write_coco, _read_any_results, _COCO[:2]),
    "config": Reader(_write_configs, _read_configs),
    "model": Reader(_write_model, _read_model, share=0.5),
    "weights": Reader(_write_weights, _read_weights, share=0.5),
    **{
        f"windows {name}": Reader(_write_windows, _reads_windows(name), (name,))
        for name in ("windows.npz", "windows.json", "windows.mat", "small.mat")
    },
    "images": Reader(_write_images, _read_images),
    **{
        f"found {name}": Reader(_write_found, _reads_found(name), patterns, links="/*" in patterns[0])
        for name, patterns in (
            ("detections.csv", ("found/detections.csv", "found/images.json")),
            ("voc", ("found/voc/*.xml",)),
            ("yolo", ("found/yolo/*.txt", "found/images.json")),
            ("devkit", ("found/devkit/*.txt",)),
        )
    },
    **{
        f"unlisted {name}": Reader(_write_found, _reads_found(name, listed=False), patterns, in_place=True)
        for name, patterns in (
            ("detections.csv", ("found/detections.csv",)),
            ("voc", ("found/voc/*.xml",)),
        )
    },
    "journal": Reader(_write_found, _resume, ("found/detections.jsonl",), in_place=True, links=True),
    "cache": Reader(_write_cache, _read_cache, in_place=True),
    "mining": Reader(_write_mining, _read_mining, in_place=True),
    **{
        f"artefacts {stage}": Reader(
            _write_run, _read_run, (f"run/cache/{stage}/**/*.safetensors",), 0.05, in_place=True
        )
        for stage in ("finetune", "svms", "regressors", "norms")
    },
    "report": Reader(
        _write_run,
        _read_report,
        ("run/test/detections.json", "run/test/images.json"),
        0.2,
        links=True,
        folders=True,
    ),
    "ablation": Reader(_write_table, _read_table, ("table/ablation.json",)),
    "fc": Reader(_write_fc, _read_fc),
    "list": Reader(_write_list, _read_list, ("list.txt",)),
    "classes": Reader(_write_classes, _read_classes, links=True),
    "checkpoint": Reader(_write_checkpoint, _read_checkpoint),
    **{f"edges {n}": Reader(_write_edges, _reads_edges(n), (n,), 0.2) for n in ("model.yml", "model.yml.gz")},
}
