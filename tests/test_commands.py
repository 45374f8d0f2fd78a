"""The commands as functions: what they return, and that nothing is begun on a wrong request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spp_det.commands import detect_to_folder, run_training
from spp_det.config import Config, parse_config
from spp_det.data.coco import coco_instances
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError
from spp_det.model.detector import Detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    generate_voc(folder / "voc", {"trainval": 6, "test": 3}, seed=1, sizes=((130, 110),))
    return folder


def configure(folder: Path, output: Path, **data: str) -> Config:
    tree = {
        "output": str(output),
        "data": {"root": str(folder / "voc"), **data},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "runtime": {"device": "cpu", "cache": str(folder / "cache")},
    }
    return parse_config(tree, "test")


@pytest.fixture(scope="module")
def metrics(folder):
    return run_training(configure(folder, folder / "run"))


@pytest.fixture(scope="module")
def detector(folder, metrics):
    assert metrics["images"] == 6
    return Detector.load(folder / "run" / "model.safetensors")


@pytest.fixture(scope="module")
def paths(folder) -> list[Path]:
    return [record.path for record in read_voc(folder / "voc", "test").records]


def test_training_without_a_test_split_returns_what_it_writes_and_scores_nothing(folder, metrics):
    assert json.loads((folder / "run" / "metrics.json").read_text()) == metrics
    assert "test" not in metrics
    assert not (folder / "run" / "test").exists()


def test_training_on_coco_files_scores_its_test_file(folder, tmp_path):
    classes = read_voc(folder / "voc", "trainval").classes
    for split in ("trainval", "test"):
        instances = coco_instances(read_voc(folder / "voc", split, classes))
        (tmp_path / f"{split}.json").write_text(json.dumps(instances))
    files = {"train": str(tmp_path / "trainval.json"), "test": str(tmp_path / "test.json")}
    root = str(folder / "voc" / "JPEGImages")
    coco = run_training(configure(folder, tmp_path / "coco", format="coco", root=root, **files))
    voc = run_training(configure(folder, tmp_path / "voc", test="test"))
    # the folder voc knows only the classes of its own test split, so the figures over classes may differ
    assert coco["test"]["coco"]["AP50"] > 0
    assert set(voc["test"]["voc"]["per_class"]) <= set(coco["test"]["voc"]["per_class"]) == set(classes)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("coco", "voc")]
    assert models[0] == models[1]


def test_the_summary_counts_what_the_folder_holds(detector, paths, tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    summary = detect_to_folder(detector, [paths[0], tmp_path / "text.jpg", paths[1]], tmp_path / "out")
    assert (summary.images, summary.skipped) == (2, [str(tmp_path / "text.jpg")])
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert summary.found == len(rows) > 0
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 2


def test_the_number_of_workers_changes_no_byte(detector, paths, tmp_path):
    for workers in (1, 3):
        detect_to_folder(detector, paths, tmp_path / str(workers), workers=workers, formats=["csv"])
    for name in ("detections.json", "images.json", "detections.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_strict_raises_and_leaves_no_list(detector, paths, tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(UnreadableImageError, match=r"text\.jpg"):
        detect_to_folder(detector, [paths[0], tmp_path / "text.jpg"], tmp_path / "out", strict=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("options", [{"only": "koala"}, {"only": ","}, {"formats": ["pdf"]}])
def test_a_wrong_request_makes_no_folder(detector, paths, tmp_path, options):
    with pytest.raises(UserError):
        detect_to_folder(detector, paths, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
