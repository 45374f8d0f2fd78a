"""The commands as functions: what they return, and that nothing is begun on a wrong request."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from spp_det.commands import Summary, detect_to_folder, run_training, windows_for
from spp_det.config import Config, Proposals
from spp_det.config_file import parse_config
from spp_det.data.coco import coco_instances
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, read_image
from spp_det.model.detector import Detector
from spp_det.proposals.files import write_proposals
from spp_det.proposing import write_windows
from spp_det.report.write import DetectionWriter


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


def test_a_finished_run_writes_the_same_model_again_without_training(folder, metrics, monkeypatch, caplog):
    """With other settings of how to run: those that compute nothing may differ."""
    monkeypatch.setattr("spp_det.training.mining.train_svms", None)
    monkeypatch.setattr("spp_det.training.regression.fit_ridge", None)
    model = folder / "run" / "model.safetensors"
    before = model.read_bytes()
    config = configure(folder, folder / "run").model_copy(update={"strict": True})
    config = config.model_copy(update={"data": config.data.model_copy(update={"follow_links": True})})
    caplog.set_level(logging.INFO, "spp_det")
    again = run_training(config)
    assert model.read_bytes() == before
    assert again["svm"] == metrics["svm"]
    assert "was trained before" in caplog.text


@pytest.mark.usefixtures("metrics")
def test_the_folder_of_another_configuration_is_refused_and_left_alone(folder):
    before = {path: path.read_bytes() for path in (folder / "run").iterdir()}
    other = configure(folder, folder / "run", train="test").model_copy(update={"seed": 3})
    with pytest.raises(UserError) as caught:
        run_training(other)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("config.yaml", "seed: 0 -> 3; data.train: trainval -> test", "another output", "remove"):
        assert part in message
    assert {path: path.read_bytes() for path in (folder / "run").iterdir()} == before


def test_a_configuration_that_cannot_be_read_is_not_overwritten(folder, tmp_path):
    (tmp_path / "config.yaml").write_text("svm: {D: 1}")
    with pytest.raises(
        UserError, match=r"config\.yaml: unknown key svm\.D.*; name another output, or remove"
    ):
        run_training(configure(folder, tmp_path))


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
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


@pytest.mark.parametrize("options", [{"only": "koala"}, {"only": ","}, {"formats": ["pdf"]}])
def test_a_wrong_request_makes_no_folder(detector, paths, tmp_path, options):
    with pytest.raises(UserError):
        detect_to_folder(detector, paths, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- windows from elsewhere


@pytest.fixture(scope="module")
def windows(folder) -> Path:
    """Those of fast, of both splits, in one file."""
    both = {}
    for split in ("trainval", "test"):
        dataset = read_voc(folder / "voc", split)
        done = write_windows(dataset, Proposals(), folder / "one.npz")
        both |= {record.image_id: boxes for record, boxes in zip(done.records, done.windows, strict=True)}
    write_proposals(folder / "windows.npz", both)
    return folder / "windows.npz"


def of_file(folder: Path, output: Path, windows: Path, **data: str) -> Config:
    config = configure(folder, output, **data)
    return config.model_copy(update={"proposals": Proposals(mode="file", file=windows)})


def test_training_on_a_file_of_the_same_windows_gives_the_same_detector(
    folder, tmp_path, windows, detector, paths
):
    metrics = run_training(of_file(folder, tmp_path, windows, test="test"))
    model = tmp_path / "model.safetensors"
    assert str(folder).encode() not in model.read_bytes()
    detect_to_folder(detector, paths, tmp_path / "searched")
    imported = Detector.load(model)
    assert imported.settings.proposals == Proposals(mode="file")
    source = windows_for(imported.settings.proposals, windows, None)
    detect_to_folder(imported, paths, tmp_path / "imported", source=source)
    detections = [
        (tmp_path / name / "detections.json").read_bytes() for name in ("searched", "imported", "test")
    ]
    assert detections[0] == detections[1] == detections[2]
    assert metrics["test"]["skipped"] == []


def test_a_file_that_lacks_the_test_images_is_refused_before_the_training(folder, tmp_path):
    train = read_voc(folder / "voc", "trainval")
    write_windows(train, Proposals(), tmp_path / "train.json")
    config = of_file(folder, tmp_path / "run", tmp_path / "train.json", test="test")
    config = config.model_copy(
        update={"runtime": config.runtime.model_copy(update={"cache": tmp_path / "cache"})}
    )
    with pytest.raises(UserError, match=r"train.json: has no windows for the image test_00000"):
        run_training(config)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_lacks_an_image_makes_no_folder(detector, paths, tmp_path):
    write_proposals(tmp_path / "a.json", {})
    source = windows_for(detector.settings.proposals, tmp_path / "a.json", None)
    with pytest.raises(UserError, match=r"a.json: has no windows for the image test_00000"):
        detect_to_folder(detector, paths, tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("trained", "file", "edge_model", "said"),
    [
        ({"mode": "file"}, None, None, "--proposals FILE"),
        ({"mode": "edgeboxes"}, None, None, "--edge-model FILE"),
        ({"mode": "fast"}, Path("a.npz"), Path("a.yml"), "not both"),
        ({"mode": "fast"}, Path("a.txt"), None, ".mat, .npz, .json"),
        ({"mode": "file"}, Path("a.npz"), None, "a.npz: No such file"),
        ({"mode": "edgeboxes"}, None, Path("a.yml"), "a.yml: No such file"),
    ],
)
def test_windows_from_elsewhere_are_asked_for(trained, file, edge_model, said):
    with pytest.raises(UserError) as caught:
        windows_for(Proposals(**trained), file, edge_model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_files_the_detector_searches_by_itself():
    assert windows_for(Proposals(mode="paper", max_side=500), None, None) is None


# ---------------------------------------------------------------- going on


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OPTIONS = {"formats": ("voc", "yolo", "csv", "devkit"), "draw": True, "score": -10.0}


@pytest.mark.parametrize("killed_at", [0, 3])
def test_an_interrupted_detection_goes_on_without_repeating_what_was_done(
    detector, paths, tmp_path, monkeypatch, killed_at
):
    (tmp_path / "text.jpg").write_text("not a photo")
    images = [paths[0], tmp_path / "text.jpg", *paths[1:]]
    whole = detect_to_folder(detector, images, tmp_path / "whole", **OPTIONS)
    write, read = DetectionWriter.add, []

    def interrupted(self, found):
        if self.done == killed_at:
            raise KeyboardInterrupt
        write(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            detect_to_folder(detector, images, tmp_path / "parts", workers=1, **OPTIONS)
    monkeypatch.setattr("spp_det.inference.read_image", lambda path: read.append(path) or read_image(path))
    parts = detect_to_folder(detector, images, tmp_path / "parts", resume=True, **OPTIONS)
    assert read == images[killed_at:]
    assert parts == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert detect_to_folder(detector, images, tmp_path / "parts", resume=True, **OPTIONS) == whole
    assert read == images[killed_at:]


def test_several_processes_go_on_with_what_one_left_and_the_first_one_writes(
    detector, paths, tmp_path, monkeypatch, in_ranks
):
    """All with the same rest, of which the first one alone knows: here each has a folder of its own."""
    whole = detect_to_folder(detector, paths, tmp_path / "whole", **OPTIONS)
    write = DetectionWriter.add

    def interrupted(self, found):
        if self.done == 1:
            raise KeyboardInterrupt
        write(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            detect_to_folder(detector, paths, tmp_path / "0", workers=1, **OPTIONS)

    def work(rank: int) -> Summary:
        return detect_to_folder(detector, paths, tmp_path / str(rank), workers=1, resume=True, **OPTIONS)

    assert in_ranks(3, work) == [whole, Summary(), Summary()]
    assert contents(tmp_path / "0") == contents(tmp_path / "whole")
    assert not (tmp_path / "1").exists()


def test_what_another_model_began_is_refused_in_one_line(folder, detector, paths, tmp_path):
    detect_to_folder(detector, paths[:1], tmp_path)
    other = Detector.load(folder / "run" / "model.safetensors")
    other.scorer.bias[0] += 1
    with pytest.raises(UserError, match=r"model was .* and is now ") as caught:
        detect_to_folder(other, paths[:1], tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--classes was "):
        detect_to_folder(detector, paths[:1], tmp_path, resume=True, only=detector.classes[0])
    write_proposals(tmp_path / "a.json", {paths[0].stem: np.float32([(0, 0, 50, 50)])})
    source = windows_for(detector.settings.proposals, tmp_path / "a.json", None)
    with pytest.raises(UserError, match='windows was "its own" and is now "file '):
        detect_to_folder(detector, paths[:1], tmp_path, resume=True, source=source)
