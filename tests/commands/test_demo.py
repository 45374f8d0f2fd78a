"""The demo in miniature: a few photos and one epoch, yet everything that it promises is there."""

from __future__ import annotations

import json
import math

import pytest

from spp_det import Detector
from spp_det.commands import demo
from spp_det.data.voc import read_voc
from spp_det.pretraining import crops
from spp_det.pretraining.crops import pretrain_on_crops


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The demo's folder and what it returned."""
    folder = tmp_path_factory.mktemp("demo")

    def hastily(dataset, name, **options):
        return pretrain_on_crops(dataset, name, **(options | {"epochs": 1, "crops_per_object": 1}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SPLITS", {"pretrain": 8, "trainval": 7, "test": 4})
        patch.setattr(demo, "SCALES", (160,))
        patch.setattr(crops, "pretrain_on_crops", hastily)
        return folder, demo.run_demo(folder, seed=0)


def test_every_place_it_names_is_there(ran):
    folder, result = ran
    assert result.places == {
        "photos": folder / "data",
        "pictures": folder / "found" / "pictures",
        "report": folder / "report.html",
        "table": folder / "figures.json",
        "model": folder / "model.safetensors",
    }
    assert len(list((folder / "data" / "JPEGImages").iterdir())) == 8 + 7 + 4
    assert result.places["report"].read_text().count('id="picture-') == 4
    names = sorted(path.name for path in result.places["pictures"].iterdir())
    assert names == [f"test_{i:05d}.jpg" for i in range(4)]


def test_the_figures_are_written_down_as_they_are_returned(ran):
    _, result = ran
    assert json.loads(result.places["table"].read_text()) == result.figures
    assert {"coco", "voc", "thresholds", "errors"} <= set(result.figures)
    defined = [value for value in result.figures["coco"].values() if value is not None]
    assert len(defined) > 3
    assert all(math.isfinite(value) for value in defined)


def test_the_model_knows_the_classes_and_holds_the_pretrained_weights(ran):
    folder, result = ran
    detector = Detector.load(result.places["model"])
    assert detector.classes == read_voc(folder / "data", "trainval").classes
    weights = str(folder / "backbone.safetensors")
    backbone = detector.features.backbone
    again = type(backbone)(backbone.name).load_weights(weights).at("auto")  # as the detector was loaded
    assert again.digest() == backbone.digest()
    assert backbone.digest() != type(backbone)(backbone.name).digest()
