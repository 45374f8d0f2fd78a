"""The whole journey on generated photos: data, pre-training, training, detection, evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spp_det.commands.detect import detect_to_folder
from spp_det.commands.train import IDLE, train_and_score
from spp_det.config.settings import SVM, Backbone, BoxRegression, Config, Data, Pyramid
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.evaluation.results import evaluate, read_results
from spp_det.model.detector import Detector
from spp_det.pretraining.crops import pretrain_on_crops
from spp_det.pretraining.pretrain import save_backbone
from spp_det.report.page import write_page
from spp_det.runtime.cache import write_json
from spp_det.runtime.run_folder import claimed

logger = logging.getLogger(__name__)

SPLITS = {"pretrain": 700, "trainval": 240, "test": 60}
SCALES = (240, 400, 640)  # pre-trained on crops of 64 and 96 pixels: objects must come near that size


@dataclass(frozen=True)
class Demo:
    """Figures of the test images, and where everything lies."""

    figures: dict[str, Any]
    places: dict[str, Path]


def run_demo(folder: Path, seed: int = 0, begun: Callable[[], object] = lambda: None) -> Demo:
    """Run everything below one folder; a second call takes photos and proposals from the first.

    ``begun`` is called once the folder is this call's. Raises UserError where it is another configuration's
    or another run is at work there.
    """
    config = Config(
        output=folder,
        seed=seed,
        data=Data(root=folder / "data"),
        backbone=Backbone(name="zf5_small", weights=str(folder / "backbone.safetensors"), scales=SCALES),
        pyramid=Pyramid(normalize="hellinger"),
        svm=SVM(C=0.02, positive_iou=0.7),  # few objects, and features that tell these classes apart
        bbox=BoxRegression(ridge=1000.0),
    )
    with claimed(config, folder, IDLE):
        begun()
        return _journey(config)


def _journey(config: Config) -> Demo:
    """All of it, in the output of the configuration."""
    folder, data, seed = config.output, config.data.root, config.seed
    model = folder / "model.safetensors"
    logger.info("generating %s", ", ".join(f"{count} {name} photos" for name, count in SPLITS.items()))
    generate_voc(data, SPLITS, seed)
    classes = read_voc(data, "trainval").classes
    backbone = pretrain_on_crops(
        read_voc(data, "pretrain", classes),
        "zf5_small",
        sizes=(64, 96),
        epochs=10,
        learning_rate=1.5e-3,
        crops_per_object=2,
        seed=seed,
    )
    save_backbone(backbone, Path(config.backbone.weights))
    train_and_score(config)
    test = read_voc(data, "test", classes)
    found = folder / "found"
    detect_to_folder(Detector.load(model), [record.path for record in test.records], found, draw=True)
    evaluation = evaluate(test, read_results(found / "detections.json", test))
    figures = evaluation.figures()
    table, page = folder / "figures.json", folder / "report.html"
    write_json(table, figures)
    write_page(page, "demo", evaluation)
    places = {"photos": data, "pictures": found / "pictures", "report": page, "table": table, "model": model}
    return Demo(figures, places)
