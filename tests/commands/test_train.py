"""A training with what comes before and after it: the folder it may have, the files it leaves, its score."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from spp_det.commands.detect import detect_to_folder, windows_for
from spp_det.commands.proposals import write_windows
from spp_det.commands.train import run_training
from spp_det.commands.truth import Truth, score
from spp_det.config.file import load_config
from spp_det.config.settings import Config, Proposals
from spp_det.data.coco import coco_instances
from spp_det.data.voc import read_voc
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.images import read_image
from spp_det.model.detector import Detector
from spp_det.proposals.files import write_proposals
from tests.command_line import assert_one_line, spp_det
from tests.small_run import configure


def test_training_without_a_test_split_returns_what_it_writes_and_scores_nothing(run_folder, run_metrics):
    assert json.loads((run_folder / "run" / "metrics.json").read_text()) == run_metrics
    assert "test" not in run_metrics
    assert not (run_folder / "run" / "test").exists()


def test_a_finished_run_writes_the_same_model_again_without_training(
    run_folder, run_metrics, monkeypatch, caplog
):
    """With other settings of how to run: those that compute nothing may differ."""
    monkeypatch.setattr("spp_det.training.stages.train_svms", None)
    monkeypatch.setattr("spp_det.training.regression.fit_ridge", None)
    model = run_folder / "run" / "model.safetensors"
    before = model.read_bytes()
    config = configure(run_folder, run_folder / "run").model_copy(update={"strict": True})
    config = config.model_copy(update={"data": config.data.model_copy(update={"follow_links": True})})
    caplog.set_level(logging.INFO, "spp_det")
    again = run_training(config)
    assert model.read_bytes() == before
    assert again["svm"] == run_metrics["svm"]
    assert "was trained before" in caplog.text


@pytest.mark.usefixtures("run_metrics")
def test_the_folder_of_another_configuration_is_refused_and_left_alone(run_folder):
    before = {path: path.read_bytes() for path in (run_folder / "run").iterdir()}
    other = configure(run_folder, run_folder / "run", train="test").model_copy(update={"seed": 3})
    with pytest.raises(UserError) as caught:
        run_training(other, lambda: pytest.fail("it was begun"))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("config.yaml", "seed: 0 -> 3; data.train: auto -> test", "another output", "remove"):
        assert part in message
    assert {path: path.read_bytes() for path in (run_folder / "run").iterdir()} == before


def test_a_configuration_that_cannot_be_read_is_not_overwritten(run_folder, tmp_path):
    (tmp_path / "config.yaml").write_text("svm: {D: 1}")
    with pytest.raises(
        UserError, match=r"config\.yaml: unknown key svm\.D.*; name another output, or remove"
    ):
        run_training(configure(run_folder, tmp_path))


def test_training_on_coco_files_scores_its_test_file(run_folder, tmp_path):
    classes = read_voc(run_folder / "voc", "trainval").classes
    for split in ("trainval", "test"):
        instances = coco_instances(read_voc(run_folder / "voc", split, classes))
        (tmp_path / f"{split}.json").write_text(json.dumps(instances))
    files = {"train": str(tmp_path / "trainval.json"), "test": str(tmp_path / "test.json")}
    root = str(run_folder / "voc" / "JPEGImages")
    coco = run_training(configure(run_folder, tmp_path / "coco", format="coco", root=root, **files))
    voc = run_training(configure(run_folder, tmp_path / "voc", test="test"))
    # the folder voc knows only the classes of its own test split, so the figures over classes may differ
    assert coco["test"]["coco"]["AP50"] > 0
    assert set(voc["test"]["voc"]["per_class"]) <= set(coco["test"]["voc"]["per_class"]) == set(classes)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("coco", "voc")]
    assert models[0] == models[1]


# ---------------------------------------------------------------- the test, interrupted


@pytest.fixture
def scored(run_folder, tmp_path) -> Config:
    """A run that was stopped amid the detection in its three test images, before the second."""
    config = configure(run_folder, tmp_path / "run", test="test")
    add = DetectionWriter.add

    def stopped(self, found):
        if self.done == 1:
            raise KeyboardInterrupt
        add(self, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionWriter, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_training(config)
    return config


def read_by(config: Config, monkeypatch) -> tuple[list[str], dict]:
    """The test images that another call reads, sorted, because threads read them in any order; and its
    figures of the test."""
    read = []
    monkeypatch.setattr(
        "spp_det.inference.read_image", lambda path: read.append(path.stem) or read_image(path)
    )
    figures = run_training(config)["test"]
    return sorted(read), figures


def test_a_run_that_was_stopped_in_its_test_goes_on_there(run_folder, scored, tmp_path, monkeypatch):
    read, figures = read_by(scored, monkeypatch)
    assert read == ["test_00001", "test_00002"]
    assert figures["timed_images"] == 2
    whole = run_training(configure(run_folder, tmp_path / "whole", test="test"))["test"]
    assert figures["voc"] == whole["voc"]
    files = [(tmp_path / run / "test" / "detections.json").read_bytes() for run in ("run", "whole")]
    assert files[0] == files[1]


def test_a_finished_run_keeps_what_it_has_found(scored, monkeypatch):
    _, figures = read_by(scored, monkeypatch)
    found = scored.output / "test" / "detections.json"
    before = found.read_bytes()
    read, again = read_by(scored, monkeypatch)
    assert read == []
    assert again["timed_images"] == 0
    assert again["voc"] == figures["voc"]
    assert found.read_bytes() == before


@pytest.mark.parametrize("change", ["another model", "another photo", "a damaged journal"])
def test_what_another_model_or_another_photo_gave_is_begun_anew(scored, monkeypatch, caplog, change):
    journal = scored.output / "test" / "detections.jsonl"
    photo = scored.data.root / "JPEGImages" / "test_00002.jpg"
    pixels = photo.read_bytes()
    if change == "another model":
        monkeypatch.setattr(Detector, "identity", lambda _: "another")
    elif change == "another photo":
        photo.write_bytes(photo.with_name("test_00001.jpg").read_bytes())
    else:
        journal.write_text(journal.read_text().replace('"found"', '"lost"'))
    caplog.set_level(logging.INFO, "spp_det")
    try:
        read, _ = read_by(scored, monkeypatch)
    finally:
        photo.write_bytes(pixels)
    assert read == ["test_00000", "test_00001", "test_00002"]
    assert "detecting anew: " in caplog.text


# ---------------------------------------------------------------- windows from elsewhere


@pytest.fixture(scope="module")
def windows(run_folder) -> Path:
    """Those of fast, of both splits, in one file."""
    both = {}
    for split in ("trainval", "test"):
        dataset = read_voc(run_folder / "voc", split)
        done = write_windows(dataset, Proposals(), run_folder / "one.npz")
        both |= {record.image_id: boxes for record, boxes in zip(done.records, done.windows, strict=True)}
    write_proposals(run_folder / "windows.npz", both)
    return run_folder / "windows.npz"


def of_file(folder: Path, output: Path, windows: Path, **data: str) -> Config:
    config = configure(folder, output, **data)
    return config.model_copy(update={"proposals": Proposals(mode="file", file=windows)})


def test_training_on_a_file_of_the_same_windows_gives_the_same_detector(
    run_folder, tmp_path, windows, run_detector, run_paths
):
    metrics = run_training(of_file(run_folder, tmp_path, windows, test="test"))
    model = tmp_path / "model.safetensors"
    assert str(run_folder).encode() not in model.read_bytes()
    detect_to_folder(run_detector, run_paths, tmp_path / "searched")
    imported = Detector.load(model)
    assert imported.settings.proposals == Proposals(mode="file")
    source = windows_for(imported.searches, windows)
    detect_to_folder(imported, run_paths, tmp_path / "imported", source=source)
    detections = [
        (tmp_path / name / "detections.json").read_bytes() for name in ("searched", "imported", "test")
    ]
    assert detections[0] == detections[1] == detections[2]
    assert metrics["test"]["skipped"] == []


def test_a_file_that_lacks_the_test_images_is_refused_before_the_training(run_folder, tmp_path):
    train = read_voc(run_folder / "voc", "trainval")
    write_windows(train, Proposals(), tmp_path / "train.json")
    config = of_file(run_folder, tmp_path / "run", tmp_path / "train.json", test="test")
    config = config.model_copy(
        update={"runtime": config.runtime.model_copy(update={"cache": tmp_path / "cache"})}
    )
    with pytest.raises(UserError, match=r"train.json: has no windows for the image test_00000"):
        run_training(config)
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- the command


def test_training_leaves_a_model_the_settings_the_figures_and_a_log(cli_folder, trained, model):
    run = cli_folder / "run"
    assert {"model.safetensors", "config.yaml", "metrics.json", "train.log", "test"} <= {
        path.name for path in run.iterdir()
    }
    assert Detector.load(model).classes == read_voc(cli_folder / "voc", "trainval").classes
    overrides = ["data.test=test"]
    metrics = json.loads((run / "metrics.json").read_text())
    overrides += [f"runtime.precision={metrics['precision']}", "svm.memory_mb=896"]
    assert load_config(run / "config.yaml") == load_config(cli_folder / "recipe.yaml", overrides)
    assert metrics["images"] == 6
    assert metrics["skipped"] == []
    log = (run / "train.log").read_text()
    assert "WARNING spp_det.model.backbone: backbone.weights: random" in log
    assert "INFO spp_det.training.stages: svm took" in log
    told = [line.split("train: ")[1] for line in log.splitlines() if "INFO spp_det.commands.train: " in line]
    assert told[0].startswith("counts: training 6 photos with ")
    assert "; test 3 photos with " in told[0]
    assert told[1].startswith("sizes of objects: <16 px ")
    assert told[2].startswith("odd: training has fewer than 10 objects of ")
    assert "(spp-det inspect-data shows it)" in told[2]
    assert len(told) == 3
    assert f"trained on 6 images in {sum(metrics['seconds'].values()):.0f} s: {model}" in trained.err
    assert "AP50" in trained.out


def test_an_unknown_key_is_named_with_the_one_that_was_meant(cli_folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((cli_folder / "recipe.yaml").read_text() + "detection: {nsm: 0.5}\n")
    assert_one_line(spp_det("train", recipe), recipe, "detection.nsm", "did you mean detection.nms")
    assert_one_line(spp_det("train", cli_folder / "recipe.yaml", "svm.c=1"), "unknown key svm.c")


def test_a_missing_recipe_or_split_is_named_before_any_work(cli_folder, tmp_path):
    assert_one_line(spp_det("train", tmp_path / "none.yaml"), "none.yaml")
    for key in ("train", "test"):
        ended = spp_det("train", cli_folder / "recipe.yaml", f"data.{key}=nosuch", f"output={tmp_path / key}")
        assert_one_line(ended, "nosuch.txt", "those of", "test, trainval")
        assert not (tmp_path / key / "cache").exists()


def test_a_run_goes_on_at_the_precision_that_auto_chose_when_it_began(
    run_folder, tmp_path, monkeypatch, caplog
):
    """Also on a machine that would choose the other one: nothing is computed again, the model is the same."""
    caplog.set_level(logging.INFO, "spp_det")

    def run(pays: bool, output: Path) -> bytes:
        answer = pays, "it is that kind"
        monkeypatch.setattr("spp_det.model.backbone.bfloat16_pays", lambda _device: answer)
        config = configure(run_folder, output)
        config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"cache": tmp_path})})
        metrics = run_training(config)
        recorded = (output / "config.yaml").read_text()
        assert f"precision: {metrics['precision']}\n" in recorded
        return (output / "model.safetensors").read_bytes()

    rounded = run(True, tmp_path / "a")
    assert "zf5_small computes in bfloat16: it is that kind" in caplog.text
    monkeypatch.setattr("spp_det.training.stages.train_svms", None)
    assert run(False, tmp_path / "a") == rounded
    monkeypatch.undo()
    assert run(False, tmp_path / "b") != rounded


@pytest.mark.parametrize(
    "slip",
    [
        "data.root=JPEGImages",
        "data.train=trian",
        "data.test=tset",
        "backbone.weights=no.pth",
        "data.classes=[emu]",
    ],
)
def test_a_run_that_computed_nothing_leaves_no_claim(cli_folder, tmp_path, slip):
    """Everybody's first command has a slip in it, and the second one is to go on in the same folder."""
    slip = slip.replace("JPEGImages", str(cli_folder / "voc" / "JPEGImages"))
    ended = spp_det("train", cli_folder / "recipe.yaml", f"output={tmp_path / 'out'}", slip)
    assert ended.code == 2
    assert not (tmp_path / "out").exists()


def test_photos_that_were_held_out_are_named_and_scored_again(run_folder, tmp_path):
    root = shutil.copytree(run_folder / "voc", tmp_path / "photos")
    shutil.rmtree(root / "ImageSets")
    metrics = run_training(configure(run_folder, tmp_path / "run", root=str(root)))
    ids = (tmp_path / "run" / "held_out.txt").read_text().split()
    assert (metrics["images"], len(ids)) == (7, 2)
    assert len(json.loads((tmp_path / "run" / "test" / "images.json").read_text())["images"]) == 2
    found = tmp_path / "run" / "test"
    figures = score(found, Truth(), tmp_path / "run").figures()
    assert figures == {name: metrics["test"][name] for name in figures}
    listed = Truth(voc=root, split=str(tmp_path / "run" / "held_out.txt"))
    assert score(found, listed).figures()["coco"] == metrics["test"]["coco"]


def test_what_was_said_before_the_folder_was_claimed_is_in_its_log(cli_folder, trained):
    assert trained.code == 0
    assert "data: Pascal VOC" in (cli_folder / "run" / "train.log").read_text()
