"""``spp-det demo``: from generated photos by pre-training, training and detection to the report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands.detect import detect_to_folder
from spp_det.commands.process import log_to
from spp_det.commands.terminal import say, show_figures
from spp_det.commands.train import IDLE, read_checked, train_and_score

logger = logging.getLogger(__name__)

SPLITS = {"pretrain": 700, "trainval": 240, "test": 60}  # numbers of photos
SCALES = (240, 400, 640)  # bring objects near the sizes of the pre-training's crops, 64 and 96 pixels


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data, the model and the pictures.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate photos, pre-train a small network, train, detect and evaluate: minutes, no download."""
    result = run_demo(out, seed, lambda: log_to(out / "train.log"))
    show_figures(result.figures)
    say("These photos are [bold]generated[/]: the figures test the pipeline and promise nothing for yours.")
    for name, path in result.places.items():
        say(f"{name:<9} {escape(str(path))}")


@dataclass(frozen=True)
class Demo:
    """The figures of the test images, and the paths of all results by name."""

    figures: dict[str, Any]
    places: dict[str, Path]


def run_demo(folder: Path, seed: int = 0, begun: Callable[[], object] = lambda: None) -> Demo:
    """Run the demo in one folder. A second call takes the photos and the proposals of the first.

    ``begun`` is called once the folder is claimed. Raises UserError where the folder is another
    configuration's, or another run is at work there.
    """
    from spp_det.config.network import BackboneSettings, Pyramid
    from spp_det.config.settings import SVM, BoxRegression, Config, Data
    from spp_det.data.synthetic import generate_voc
    from spp_det.data.voc import read_voc
    from spp_det.detections.output import Output
    from spp_det.evaluation.results import evaluate, read_results
    from spp_det.model.detector import Detector
    from spp_det.pretraining.crops import pretrain_on_crops
    from spp_det.pretraining.pretrain import save_backbone
    from spp_det.report.page import write_page
    from spp_det.runtime.files import unlinked
    from spp_det.runtime.run_folder import claimed
    from spp_det.runtime.whole_files import write_json

    data, found = unlinked(folder, "data"), unlinked(folder, "found")
    weights, model = folder / "backbone.safetensors", folder / "model.safetensors"
    table, page = folder / "figures.json", folder / "report.html"
    config = Config(
        output=folder,
        seed=seed,
        data=Data(root=data),
        backbone=BackboneSettings(name="zf5_small", weights=str(weights), scales=SCALES),
        pyramid=Pyramid(normalize="hellinger"),
        svm=SVM(C=0.02, positive_iou=0.7),  # suits few objects, and features pre-trained on these classes
        bbox=BoxRegression(ridge=1000.0),
    )
    with claimed(config, folder, IDLE) as config:
        begun()
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
        save_backbone(backbone, weights)
        train_and_score(config, read_checked(config))
        test = read_voc(data, "test", classes)
        paths = [record.path for record in test.records]
        detect_to_folder(Detector.load(model), paths, found, Output(draw=True))
        evaluation = evaluate(test, read_results(found / "detections.json", test))
        figures = evaluation.figures()
        write_json(table, figures)
        write_page(page, "demo", evaluation)
    places = {"photos": data, "pictures": found / "pictures", "report": page, "table": table, "model": model}
    return Demo(figures, places)
