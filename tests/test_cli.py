"""Each command from photos to figures, and how it answers mistakes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spp_det import Detector
from spp_det.config.file import load_config
from spp_det.data.class_folder import write_class_folder
from spp_det.data.synthetic import CLASSES, generate_voc
from spp_det.data.voc import read_annotation, read_voc
from spp_det.runtime.cache import Cache
from spp_det.version import __version__
from tests.command_line import Ended, assert_one_line, spp_det


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Nine small photos in VOC's layout, a recipe, and what the commands leave."""
    folder = tmp_path_factory.mktemp("cli")
    generate_voc(folder / "voc", {"trainval": 6, "test": 3}, seed=1, sizes=((130, 110),))
    recipe = {
        "output": str(folder / "run"),
        "data": {"root": str(folder / "voc")},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "runtime": {"device": "cpu"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> Ended:
    return spp_det("train", folder / "recipe.yaml", "data.test=test")


@pytest.fixture(scope="module")
def model(folder, trained) -> Path:
    assert trained.code == 0, trained.err
    return folder / "run" / "model.safetensors"


@pytest.fixture(scope="module")
def split(folder) -> Path:
    return folder / "voc" / "ImageSets" / "Main" / "test.txt"


@pytest.fixture(scope="module")
def detected(folder, model, split) -> Ended:
    formats = [word for name in ("voc", "yolo", "csv", "devkit") for word in ("--format", name)]
    return spp_det("detect", model, split, "--out", folder / "found", "--draw", *formats, "--device", "cpu")


@pytest.fixture(scope="module")
def found(folder, detected) -> Path:
    assert detected.code == 0, detected.err
    return folder / "found"


def rows_of(folder: Path):
    return json.loads((folder / "detections.json").read_text())


def names_of(folder: Path):
    return [image["file_name"] for image in json.loads((folder / "images.json").read_text())["images"]]


def test_training_leaves_a_model_the_settings_the_figures_and_a_log(folder, trained, model):
    run = folder / "run"
    assert {"model.safetensors", "config.yaml", "metrics.json", "train.log", "test"} <= {
        path.name for path in run.iterdir()
    }
    assert Detector.load(model).classes == read_voc(folder / "voc", "trainval").classes
    overrides = ["data.test=test"]
    assert load_config(run / "config.yaml") == load_config(folder / "recipe.yaml", overrides)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 6
    assert metrics["skipped"] == []
    log = (run / "train.log").read_text()
    assert "WARNING spp_det.model.backbone: backbone.weights: random" in log
    assert "INFO spp_det.training.stages: svm took" in log
    assert f"trained on 6 images in {sum(metrics['seconds'].values()):.0f} s: {model}" in trained.err
    assert "AP50" in trained.out


def test_detection_writes_every_format_that_was_asked_for(detected, found):
    names = [f"test_{i:05d}" for i in range(3)]
    for kind, suffix in (("voc", "xml"), ("yolo", "txt"), ("pictures", "jpg")):
        assert sorted(path.name for path in (found / kind).iterdir()) == [
            f"{name}.{suffix}" for name in names
        ]
    assert names_of(found) == [f"{name}.jpg" for name in names]
    rows = rows_of(found)
    assert len(rows) > 10  # or the tests below say little
    assert len((found / "detections.csv").read_text().splitlines()) == len(rows) + 1
    for number, name in enumerate(names, 1):
        mine = sum(row["image_id"] == number for row in rows)
        assert len((found / "yolo" / f"{name}.txt").read_text().splitlines()) == mine
        assert len(read_annotation(found / "voc" / f"{name}.xml").boxes) == mine
        assert Image.open(found / "pictures" / f"{name}.jpg").size == (130, 110)
    assert f"found {len(rows)} detections in 3 images: {found}" in detected.err


def test_the_folder_holds_what_the_detector_finds(folder, model, found):
    detector = Detector.load(model)
    rows = [row for row in rows_of(found) if row["image_id"] == 2]
    mine = detector(folder / "voc" / "JPEGImages" / "test_00001.jpg")
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), mine["scores"])
    np.testing.assert_array_equal([row["category_id"] - 1 for row in rows], mine["labels"])
    np.testing.assert_array_equal(np.float32([row["bbox"][:2] for row in rows]), mine["boxes"][:, :2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_network_computes_at_the_precision_that_is_asked_for(folder, model, split, tmp_path, precision):
    options = ("--device", "cpu", "--precision", precision)
    assert spp_det("detect", model, split, "--out", tmp_path / "out", *options).code == 0
    rows = [row for row in rows_of(tmp_path / "out") if row["image_id"] == 2]
    photo = folder / "voc" / "JPEGImages" / "test_00001.jpg"
    mine, other = (
        Detector.load(model, precision=p)(photo)["scores"]
        for p in (precision, {"float32": "bfloat16", "bfloat16": "float32"}[precision])
    )
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), mine)
    assert not np.array_equal(mine, other)


def test_without_options_only_the_coco_files_and_the_journal_are_written(model, split, tmp_path):
    assert spp_det("detect", model, split, "--out", tmp_path / "out", "--device", "cpu").code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("detections.json", "images.json", "detections.jsonl")
    }


def test_evaluation_prints_and_writes_the_figures_that_training_ended_with(folder, found, tmp_path):
    ended = spp_det(
        *("evaluate", found / "detections.json", "--voc", folder / "voc", "--split", "test"),
        *("--json", tmp_path / "figures.json", "--html", tmp_path / "page.html"),
    )
    assert ended.code == 0, ended.err
    page = (tmp_path / "page.html").read_text()
    assert page.count('id="picture-') == 3
    assert "<h1>found</h1>" in page
    figures = json.loads((tmp_path / "figures.json").read_text())
    after_training = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert figures == {name: after_training[name] for name in figures}
    assert {"coco", "voc"} <= set(figures)
    assert figures["coco"]["AP50"] > 0
    assert "AP50" in ended.out
    assert f"{100 * figures['voc']['mAP_area']:.1f}" in ended.out


def test_evaluation_takes_any_format_and_writes_json_csv_and_markdown(folder, found, tmp_path):
    everything = []
    for place in ("detections.json", "detections.csv", "voc", "yolo", "devkit", ""):
        outputs = [tmp_path / f"figures.{suffix}" for suffix in ("json", "csv", "md")]
        ended = spp_det(
            *("evaluate", found / place, "--voc", folder / "voc", "--iou", 0.75, "--max-dets", 300),
            *("--json", outputs[0], "--csv", outputs[1], "--markdown", outputs[2]),
        )
        assert ended.code == 0, ended.err
        assert "AR300" in ended.out
        assert "AP at IoU 0.75" in ended.out
        assert "best F1 at" in ended.out
        assert "background" in ended.out
        everything.append([path.read_text() for path in outputs])
    assert all(one == everything[0] for one in everything)
    figures = json.loads(everything[0][0])
    assert figures["voc_at"]["0.75"]["mAP_area"] < figures["voc"]["mAP_area"]
    assert f"voc,0.5,,mAP_area,{figures['voc']['mAP_area']}" in everything[0][1]
    missed = figures["errors"][CLASSES[0]]["missed"]
    assert f"errors,0.5,{CLASSES[0]},missed,{missed}" in everything[0][1]
    assert "## Best F1" in everything[0][2]
    assert "| AP@0.75 11-point |" in everything[0][2]


def test_several_processes_take_no_list_from_standard_input(model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(spp_det("detect", model, "-", "--out", tmp_path), "stdin", "file")


@pytest.mark.parametrize("command", ["ablate", "evaluate"])
def test_what_one_process_does_is_refused_to_several(folder, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(spp_det(command, folder / "recipe.yaml"), command, "without torchrun")


def test_images_of_standard_input_are_gone_on_with(folder, model, split, tmp_path, monkeypatch):
    names = "".join(f"{folder}/voc/JPEGImages/test_{i:05d}.jpg\n" for i in range(3))
    words = ("detect", model, "-", "--out", tmp_path / "out", "--device", "cpu", "--resume")
    words = (*words, "--save-crops", "--score", -9)
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
        ended = spp_det(*words)
        assert ended.code == 0, ended.err
        assert "in 3 images" in ended.err
    assert any((tmp_path / "out" / "crops").rglob("*.jpg"))
    other = spp_det("detect", model, split, "--out", tmp_path / "out", "--resume", "--classes", CLASSES[0])
    assert_one_line(other, tmp_path / "out", "--classes", "--resume")


def test_the_report_of_a_folder_is_a_page_in_it(folder, found):
    ended = spp_det("report", found, "--voc", folder / "voc")
    assert ended.code == 0, ended.err
    assert str(found / "report.html") in ended.err
    assert (found / "report.html").read_text().startswith("<!doctype html>")
    assert_one_line(spp_det("report", folder / "voc"), folder / "voc", "holds neither")


@pytest.mark.parametrize(
    ("command", "options", "parts"),
    [
        ("report", ("--split", "val"), ("--split val", "--voc")),
        ("report", ("--images", "photos"), ("--images photos", "--coco")),
        ("evaluate", ("--voc", "voc", "--images", "photos"), ("--images photos", "--coco")),
        ("evaluate", ("--coco", "x.json", "--split", "test"), ("--split test", "--voc")),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(tmp_path, command, options, parts):
    assert_one_line(spp_det(command, tmp_path, *options), *parts)


def test_score_leaves_out_exactly_what_scores_less(model, split, found, tmp_path):
    scores = sorted(row["score"] for row in rows_of(found))
    limit = scores[len(scores) // 2]
    ended = spp_det("detect", model, split, "--out", tmp_path, "--score", limit, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert rows_of(tmp_path) == [row for row in rows_of(found) if row["score"] >= limit]


def test_classes_leaves_out_exactly_the_others(model, split, found, tmp_path):
    wanted = sorted({row["category_id"] for row in rows_of(found)})[:2]
    names = ", ".join(Detector.load(model).classes[i - 1] for i in wanted)
    ended = spp_det("detect", model, split, "--out", tmp_path, "--classes", names, "--device", "cpu")
    assert ended.code == 0, ended.err
    kept = [row for row in rows_of(found) if row["category_id"] in wanted]
    assert rows_of(tmp_path) == kept
    assert 0 < len(kept) < len(rows_of(found))


def test_several_models_are_combined(model, split, found, tmp_path):
    """Leading arguments that are models; of a model and itself, what it finds alone."""
    copy = shutil.copy(model, tmp_path / "copy.safetensors")
    ended = spp_det("detect", model, copy, model, split, "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert rows_of(tmp_path / "out") == rows_of(found)


def test_models_that_do_not_fit_together_or_have_nothing_to_look_at_are_an_error(model, split, tmp_path):
    strange = Detector.load(model)
    strange.classes = ("koala", *strange.classes[1:])
    strange.save(tmp_path / "strange.safetensors")
    ended = spp_det("detect", model, tmp_path / "strange.safetensors", split, "--out", tmp_path / "out")
    assert_one_line(ended, "model 2", "same classes", "koala")
    ended = spp_det("detect", model, tmp_path / "strange.safetensors", "--out", tmp_path / "out")
    assert_one_line(ended, "which images")
    ended = spp_det("detect", model, tmp_path / "none.safetensors", split, "--out", tmp_path / "out")
    assert_one_line(ended, "no such model", tmp_path / "none.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def photos(folder, tmp_path) -> Path:
    """A folder of two photos with a text file between them that calls itself a photo."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, name in enumerate(("a.jpg", "c.jpg")):
        shutil.copy(folder / "voc" / "JPEGImages" / f"test_{index:05d}.jpg", photos / name)
    (photos / "b.jpg").write_text("not a photo")
    return photos


def test_an_unreadable_image_is_skipped_and_counted(model, photos, found, tmp_path):
    ended = spp_det("detect", model, photos, "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert f"skipped 1 files that could not be read, the first: {photos / 'b.jpg'}" in ended.err
    assert "in 2 images" in ended.err
    assert names_of(tmp_path / "out") == ["a.jpg", "c.jpg"]
    assert rows_of(tmp_path / "out") == [row for row in rows_of(found) if row["image_id"] <= 2]


def test_strict_makes_an_unreadable_image_an_error_and_leaves_no_list(model, photos, tmp_path):
    ended = spp_det("detect", model, photos, "--out", tmp_path / "out", "--device", "cpu", "--strict")
    assert_one_line(ended, photos / "b.jpg")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


def test_names_in_brackets_are_shown_as_they_are(model, split, tmp_path):
    """Brackets are markup to the library that prints."""
    out = tmp_path / "found[red]"
    ended = spp_det("detect", model, split, "--out", out, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert f"3 images: {out}" in ended.err


def test_an_unknown_key_is_named_with_the_one_that_was_meant(folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((folder / "recipe.yaml").read_text() + "detection: {nsm: 0.5}\n")
    assert_one_line(spp_det("train", recipe), recipe, "detection.nsm", "did you mean detection.nms")
    assert_one_line(spp_det("train", folder / "recipe.yaml", "svm.c=1"), "unknown key svm.c")


def test_a_missing_recipe_or_split_is_named_before_any_work(folder, tmp_path):
    assert_one_line(spp_det("train", tmp_path / "none.yaml"), "none.yaml")
    for key in ("train", "test"):
        ended = spp_det("train", folder / "recipe.yaml", f"data.{key}=nosuch", f"output={tmp_path / key}")
        assert_one_line(ended, "nosuch.txt", "those of", "test, trainval")
        assert not (tmp_path / key / "cache").exists()


def test_a_missing_model_or_image_is_named(split, model, tmp_path):
    ended = spp_det("detect", tmp_path / "none.safetensors", split, "--out", tmp_path / "out")
    assert_one_line(ended, "no such model", tmp_path / "none.safetensors")
    ended = spp_det("detect", model, tmp_path / "none.jpg", "--out", tmp_path / "out")
    assert_one_line(ended, tmp_path / "none.jpg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["half", "flipped", "text", "empty"])
def test_a_damaged_model_is_refused(model, split, tmp_path, damage):
    data = bytearray(model.read_bytes())
    flipped = data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]  # one bit of one weight
    broken = {"half": data[: len(data) // 2], "flipped": flipped, "text": b"hello there", "empty": b""}
    path = tmp_path / "model.safetensors"
    path.write_bytes(broken[damage])
    ended = spp_det("detect", path, split, "--out", tmp_path / "out", "--device", "cpu")
    assert_one_line(ended, path, "damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--classes", "koala", ("koala", "it knows")),
        ("--classes", "", ("no class ''",)),
        ("--format", "pdf", ("pdf", "coco, voc, yolo, csv")),
        ("--device", "abacus", ("abacus", "cpu")),
    ],
)
def test_an_option_that_means_nothing_is_named(model, split, tmp_path, option, value, parts):
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", option, value)
    assert_one_line(ended, *parts)
    assert not (tmp_path / "out").exists()


def test_a_precision_that_there_is_not_names_those_there_are(model, split, tmp_path):
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--precision", "half")
    assert_one_line(ended, "--precision", "half", "auto", "float32", "bfloat16", "detect --help")
    assert not (tmp_path / "out").exists()


def test_no_command_at_all_shows_the_help():
    ended = spp_det()
    assert ended.code == 2
    assert "evaluate" in ended.out


def test_an_output_that_is_a_file_is_an_error(model, split, tmp_path):
    (tmp_path / "out").write_text("mine")
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--device", "cpu")
    assert_one_line(ended, tmp_path / "out", "exists")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("score", ["NaN", "Infinity", '"high"', "null"])
def test_a_score_that_is_no_number_is_an_error(folder, found, tmp_path, score):
    shutil.copy(found / "images.json", tmp_path)
    row = f'{{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": {score}}}'
    (tmp_path / "detections.json").write_text(f"[{row}]")
    ended = spp_det("evaluate", tmp_path / "detections.json", "--voc", folder / "voc")
    assert_one_line(ended, tmp_path / "detections.json", "score")


def test_a_download_of_what_is_there_needs_no_network_and_another_names_what_there_is(folder, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    shutil.copytree(folder / "voc", tmp_path / "VOCdevkit" / "VOC2007")
    ended = spp_det("download", tmp_path)
    assert ended.code == 0, ended.err
    assert f"VOC2007:test is in {tmp_path / 'VOCdevkit'}" in ended.err
    assert_one_line(spp_det("download", tmp_path, "VOC2012:test"), "VOC2012:test", "VOC2012:trainval")


def test_evaluation_wants_one_ground_truth_that_exists(folder, found, tmp_path):
    detections = found / "detections.json"
    assert_one_line(spp_det("evaluate", detections), "--voc", "--coco")
    both = spp_det("evaluate", detections, "--voc", folder / "voc", "--coco", tmp_path / "x.json")
    assert_one_line(both, "--voc", "--coco")
    assert_one_line(spp_det("evaluate", detections, "--coco", tmp_path / "x.json"), tmp_path / "x.json")
    missing = spp_det("evaluate", detections, "--voc", folder / "voc", "--split", "val")
    assert_one_line(missing, "val.txt", "test, trainval")
    none = spp_det("evaluate", tmp_path / "none.json", "--voc", folder / "voc")
    assert_one_line(none, tmp_path / "none.json")


@pytest.fixture(scope="module")
def pretrained(folder) -> Ended:
    for split in ("train", "test"):
        dataset = read_voc(folder / "voc", {"train": "trainval"}.get(split, split), CLASSES)
        write_class_folder(dataset, folder / "objects" / split, smallest=30)
    recipe = {
        "output": str(folder / "pretrained"),
        "data": {"root": str(folder / "objects")},
        "backbone": {"name": "zf5_small"},
        "fc": {"layers": 1, "width": 8},
        "train": {"sizes": [32, 40], "epochs": 2, "batch": 8},
        "test": {"sizes": [36]},
        "runtime": {"device": "cpu"},
    }
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    return spp_det("pretrain", folder / "pretrain.yaml")


def test_pretraining_leaves_a_backbone_that_train_takes(folder, pretrained, tmp_path):
    assert pretrained.code == 0, pretrained.err
    run = folder / "pretrained"
    assert {"backbone.safetensors", "checkpoint.safetensors", "config.yaml", "metrics.json", "train.log"} == {
        path.name for path in run.iterdir()
    }
    assert "multi_view" in pretrained.out
    assert f"backbone.name=zf5_small backbone.weights={run / 'backbone.safetensors'}" in pretrained.err
    assert "epoch 2 of 2: size 40" in (run / "train.log").read_text()
    weights = f"backbone.weights={run / 'backbone.safetensors'}"
    ended = spp_det("train", folder / "recipe.yaml", weights, f"output={tmp_path}")
    assert ended.code == 0, ended.err


def test_mistakes_of_pretraining_end_in_one_line(folder, pretrained, tmp_path):
    assert pretrained.code == 0
    recipe = folder / "pretrain.yaml"
    assert_one_line(spp_det("pretrain", recipe, "train.size=[32]"), "did you mean train.sizes?")
    changed = spp_det("pretrain", recipe, "train.epochs=3")
    assert_one_line(changed, "train.epochs: 2 -> 3", "name another output")
    missing = spp_det("pretrain", recipe, f"data.root={tmp_path}", f"output={tmp_path / 'out'}")
    assert_one_line(missing, tmp_path / "train", "one folder of images a class")


@pytest.fixture(scope="module")
def written(folder) -> Path:
    """The windows of the test photos in a file, of the mode that the model was trained with."""
    out = folder / "windows.npz"
    ended = spp_det("proposals", "--voc", folder / "voc", "--split", "test", "--out", out)
    assert ended.code == 0, ended.err
    assert f"windows of 3 images: {out}" in ended.err
    return out


def test_detection_in_windows_that_were_written_finds_the_same(model, split, found, written, tmp_path):
    ended = spp_det("detect", model, split, "--out", tmp_path, "--proposals", written, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert rows_of(tmp_path) == rows_of(found)


def test_detection_by_edge_boxes_wants_a_model_of_edges(model, split, tmp_path):
    (tmp_path / "model.yml").write_text("hello")
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--edge-model", tmp_path / "model.yml")
    assert_one_line(ended, tmp_path / "model.yml", "structured edges")
    assert not (tmp_path / "out").exists()


def test_recall_is_printed_and_written(folder, model, tmp_path):
    assert model.exists()  # so the training's cache holds the windows of fast
    ended = spp_det(
        *("proposals", "--voc", folder / "voc", "--split", "trainval", "--recall"),
        *("--mode", "fast", "--mode", "paper", "--cache", folder / "run" / "cache"),
        *("--out", tmp_path / "recall.json"),
    )
    assert ended.code == 0, ended.err
    modes = json.loads((tmp_path / "recall.json").read_text())["modes"]
    assert list(modes) == ["fast", "paper"]
    assert modes["fast"]["seconds"] is None
    assert modes["paper"]["seconds"] > 0
    assert f"{100 * modes['fast']['recall']['0.5']:.1f}" in ended.out
    assert "Recall of proposals, 6 images" in ended.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("--out FILE.npz",)),
        (("--out", "a.mat"), ("a.mat", ".npz or .json")),
        (("--mode", "fast", "--mode", "paper", "--out", "a.npz"), ("one --mode",)),
        (("--recall", "--mode", "slow"), ("proposals.mode", "slow", "paper")),
        (("--recall", "--mode", "file"), ("--proposals FILE",)),
        (("--recall", "--max-side", "8"), ("proposals.max_side = 8",)),
        (("--recall", "--out", "a.npz"), ("a.npz", ".json")),
        (("--split", "nosuch", "--recall"), ("nosuch.txt",)),
        (("--recall", "--proposals", "none.mat"), ("none.mat", "No such file")),
    ],
)
def test_a_wrong_request_for_proposals_is_one_line(folder, words, parts):
    assert_one_line(spp_det("proposals", "--voc", folder / "voc", *words), *parts)


def test_the_ablation_prints_its_table_and_what_is_missing(folder, model, tmp_path):
    assert model.exists()  # so the cache holds the proposals and maps
    cache = f"runtime.cache={folder / 'run' / 'cache'}"
    words = ("data.test=test", f"output={tmp_path}", cache, "--rows", "pool5-1sc,fc6-1sc")
    ended = spp_det("ablate", folder / "recipe.yaml", *words)
    assert ended.code == 0, ended.err
    assert "pool5-1sc" in ended.out
    assert "fc6-1sc: torchvision has no fc6 of zf5_small" in ended.err
    assert {"ablation.json", "ablation.md", "train.log", "pool5-1sc"} == {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "pool5-1sc" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("data.test = None",)),
        (("data.test=test", "--rows", "pool6"), ("--rows", "'pool6'", "ft-fc7+bb")),
        (("data.test=test", "--five", "480,many"), ("--five", "480,many")),
        (("data.test=test", "--five", "480"), ("--five", "at least two")),
        (("data.test=test", "--five", "576,480"), ("[576, 480]", "must ascend")),
        (("data.test=test", "--rows", "fc6"), ("no row could be had", "fc6-1sc", "zf5_small")),
    ],
)
def test_a_wrong_request_for_an_ablation_is_one_line(folder, tmp_path, words, parts):
    cache = f"runtime.cache={folder / 'run' / 'cache'}"
    ended = spp_det("ablate", folder / "recipe.yaml", f"output={tmp_path}", cache, *words)
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert all(part in ended.err.splitlines()[-1] for part in parts)


@pytest.mark.usefixtures("model")
def test_the_cache_is_shown_and_pruned(folder, tmp_path):
    kept = tmp_path / "cache"
    shutil.copytree(folder / "run" / "cache", kept)
    shown = spp_det("cache", kept)
    assert shown.code == 0
    stages = ("maps", "norms", "proposals", "regressors", "svms")
    assert all(stage in shown.out for stage in (*stages, "MiB", "all"))
    assert "mining" not in shown.out  # the checkpoint has gone
    assert Cache(kept).stages() == stages
    assert spp_det("cache", kept, "--prune", "maps", "--older-than", "1").code == 0
    assert Cache(kept).stages() == stages
    pruned = spp_det("cache", kept, "--prune", "maps")
    assert "removed 6 artefacts of maps" in pruned.err
    assert Cache(kept).stages() == stages[1:]
    assert_one_line(spp_det("cache", kept, "--prune", "maps"), "maps", "norms, proposals")
    assert_one_line(spp_det("cache", kept, "--older-than", "1"), "--prune")
    assert_one_line(spp_det("cache", tmp_path / "nosuch"), "nosuch")
    assert spp_det("cache", kept, "--prune", "all").code == 0
    assert Cache(kept).stages() == ()


def test_version_and_help():
    assert spp_det("--version").out == f"spp_det {__version__}\n"
    ended = spp_det("--help")
    assert ended.code == 0
    for command in ("train", "detect", "evaluate", "proposals", "inspect", "demo", "pretrain", "ablate"):
        assert command in ended.out


# ---------------------------------------------------------------- inspect


def test_an_image_is_inspected(folder, model, split):
    photo, out = next((folder / "voc" / "JPEGImages").iterdir()), folder / "inspected"
    ended = spp_det(
        *("inspect", photo, "--model", model, "--out", out, "--over", split, "--device", "cpu"),
        *("--filters", "5,17", "--window", "10,10,90,80", "--class", CLASSES[1]),
    )
    assert ended.code == 0, ended.err
    assert f"window 10, 10, 90, 80: {CLASSES[1]}" in ended.err
    for name in ("filters", "window", "contributions"):
        assert Image.open(out / f"{name}.png").size[0] > 600
        assert f"{name}.png" in ended.err.replace("\n", "")
    numbers = json.loads((out / "inspection.json").read_text())
    assert [len(entry["strongest"]) for entry in numbers["filters"]] == [3, 3]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--filters", "3,x"), ("--filters 3,x", "3,17")),
        (("--window", "1,2,three,4"), ("--window", "x1,y1,x2,y2")),
        (("--window", "500,500,600,600"), ("--window 500,500,600,600", "covers nothing")),
        (("--class", "horse"), ("'horse'", CLASSES[0])),
        (("--over", "nowhere"), ("nowhere",)),
    ],
)
def test_a_wrong_wish_to_inspect_is_one_line(folder, model, options, parts):
    photo = next((folder / "voc" / "JPEGImages").iterdir())
    out = folder / "never"
    assert_one_line(
        spp_det("inspect", photo, "--model", model, "--out", out, "--device", "cpu", *options), *parts
    )
    assert not out.exists()
