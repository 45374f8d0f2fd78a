"""What machines and odd data do to a command: full disks, files that vanish, images of a pixel. One line."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spp_det.data.synthetic import generate_voc
from spp_det.data.voc_xml import annotation_xml
from spp_det.images import read_image
from spp_det.proposals.source import WindowSource
from spp_det.runtime.run_folder import alone_in
from tests.command_line import assert_last_line, assert_one_line, spp_det
from tests.stress.readers import READERS


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that has learned nothing, two photos in VOC's layout, and a recipe."""
    folder = tmp_path_factory.mktemp("faults")
    READERS["model"].write(folder)
    generate_voc(folder / "voc", {"trainval": 2}, seed=1, sizes=((112, 96),))
    recipe = {
        "data": {"root": str(folder / "voc")},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
        "bbox": {"enabled": False},
        "runtime": {"device": "cpu", "workers": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def detect(folder: Path, out: Path):
    images = folder / "voc" / "JPEGImages"
    return spp_det("detect", folder / "model.safetensors", images, "--out", out, "--draw", "--device", "cpu")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("room", [20, 1500])
def test_a_full_disk_ends_detection_in_one_line_and_leaves_no_half_file(folder, tmp_path, room):
    """First for the list, which is written a buffer at a time, then for a picture."""
    with room_for(room):
        ended = detect(folder, tmp_path)
    assert_one_line(ended, tmp_path, "File too large")
    assert "detections.json" not in files_below(tmp_path)
    assert not [name for name in files_below(tmp_path) if "partial" in name]
    assert detect(folder, tmp_path).code == 0
    assert {"detections.json", "images.json"} < set(files_below(tmp_path))


def test_a_full_disk_ends_training_in_one_line_and_leaves_only_whole_artefacts(folder, tmp_path):
    with room_for(3500):  # enough for the windows of one image, too little for those of the other
        ended = spp_det("train", folder / "recipe.yaml", f"output={tmp_path}")
    assert ended.code == 2
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}")
    assert last.endswith("File too large")
    kept = files_below(tmp_path / "cache")
    assert kept
    assert all(name.startswith("proposals/") and name.endswith(".safetensors") for name in kept)


def test_an_output_where_nobody_may_write_is_one_line(folder):
    """Below a file of the kernel's: there even root may not."""
    for ended in (
        detect(folder, Path("/dev/null/out")),
        spp_det("train", folder / "recipe.yaml", "output=/dev/null/out"),
    ):
        assert_last_line(ended, "/dev/null")


def relabelled(folder: Path, *names: str) -> str:
    """The override for a split of these photos, in which every object is a cat."""
    for path in (folder / "voc" / "Annotations").iterdir():
        path.write_text(re.sub("(<object>\\s*<name>)[^<]*", r"\1cat", path.read_text()))
    split = folder / "voc" / "ImageSets" / "Main" / "some.txt"
    split.write_text("".join(f"{name}\n" for name in names))
    return "data.train=some"


@pytest.fixture
def vanishing(folder, monkeypatch) -> Iterator[Path]:
    """A photo that is gone as soon as its windows have been found."""
    photo = folder / "voc" / "JPEGImages" / "trainval_00001.jpg"
    search, pixels = WindowSource.windows_of_file, photo.read_bytes()

    def found_and_lost(self, path, *rest):
        found = search(self, path, *rest)
        photo.unlink(missing_ok=True) if path == photo else None
        return found

    monkeypatch.setattr(WindowSource, "windows_of_file", found_and_lost)
    yield photo
    photo.write_bytes(pixels)


def test_an_image_that_vanishes_during_the_training_is_skipped_and_counted(folder, tmp_path, vanishing):
    """The model is that of the other images alone."""
    one_class = relabelled(folder, "trainval_00000", "trainval_00001")
    ended = spp_det("train", folder / "recipe.yaml", f"output={tmp_path / 'lost'}", one_class)
    assert ended.code == 0, ended.err
    assert f"skipped: {vanishing}: no such file or directory" in ended.err
    assert "skipped 1 files" in ended.err
    metrics = json.loads((tmp_path / "lost" / "metrics.json").read_text())
    assert metrics["images"] == 1
    assert metrics["skipped"] == [{"file": str(vanishing), "reason": "no such file or directory"}]
    rest = relabelled(folder, "trainval_00000")
    assert spp_det("train", folder / "recipe.yaml", f"output={tmp_path / 'rest'}", rest).code == 0
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("lost", "rest")]
    assert models[0] == models[1]


def test_an_image_that_vanishes_during_the_training_is_an_error_where_strict(folder, tmp_path, vanishing):
    one_class = relabelled(folder, "trainval_00000", "trainval_00001")
    ended = spp_det("train", folder / "recipe.yaml", f"output={tmp_path}", one_class, "--strict")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == f"error: {vanishing}: no such file or directory"
    log = (tmp_path / "train.log").read_text().splitlines()
    assert log[-1].endswith(f"ERROR spp_det: error: {vanishing}: no such file or directory")
    assert not (tmp_path / "model.safetensors").exists()


def test_an_image_that_vanishes_during_detection_is_skipped_and_counted(folder, tmp_path, monkeypatch):
    def vanishing(path):
        if path.name == "trainval_00001.jpg":
            path = path.with_name("gone.jpg")
        return read_image(path)

    monkeypatch.setattr("spp_det.inference.read_image", vanishing)
    ended = detect(folder, tmp_path)
    assert ended.code == 0
    assert "in 1 images" in ended.err
    assert "skipped 1 files" in ended.err


def test_a_class_without_a_positive_is_an_error_before_any_work(folder, tmp_path):
    ended = spp_det("train", folder / "recipe.yaml", f"output={tmp_path}", "data.classes=[koala]")
    assert ended.code == 2
    assert "koala" in ended.err
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- odd data, through the command line


@pytest.fixture
def odd(tmp_path) -> Path:
    """Four photos with cats, one of which the test may change, and a recipe."""
    generate_voc(tmp_path / "voc", {"trainval": 4}, seed=2, sizes=((112, 96),))
    names = [f"trainval_{index:05d}" for index in range(4)]
    relabelled(tmp_path, *names)
    recipe = {
        "data": {"root": str(tmp_path / "voc"), "train": "some"},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
        "bbox": {"enabled": False},
        "runtime": {"device": "cpu", "workers": 1},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def test_a_class_with_difficult_objects_alone_is_an_error_before_any_work(odd):
    for path in (odd / "voc" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    ended = spp_det("train", odd / "recipe.yaml")
    assert ended.code == 2
    assert "class 'cat' has no positive example" in ended.err.splitlines()[-1]
    assert not (odd / "run" / "cache").exists()


def test_a_class_whose_photos_are_all_unreadable_is_an_error(odd):
    annotation = odd / "voc" / "Annotations" / "trainval_00002.xml"
    annotation.write_text(annotation.read_text().replace(">cat<", ">dog<"))
    (odd / "voc" / "JPEGImages" / "trainval_00002.jpg").write_text("not a photo")
    ended = spp_det("train", odd / "recipe.yaml")
    assert ended.code == 2
    assert "class 'dog' has no positive example" in ended.err.splitlines()[-1]


def test_images_of_one_pixel_and_of_a_line_are_learnt_from_and_looked_at(odd):
    """Without objects, and the line with one as well."""
    for number, (size, boxed) in enumerate((((1, 1), False), ((3, 2000), True))):
        stem = f"trainval_{number:05d}"
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(odd / "voc" / "JPEGImages" / f"{stem}.jpg")
        boxes, names = (np.array([[0, 10, 3, 900]], np.float32), ["cat"]) if boxed else (np.zeros((0, 4)), [])
        text = annotation_xml(f"{stem}.jpg", *size, boxes, names)
        (odd / "voc" / "Annotations" / f"{stem}.xml").write_text(text)
    ended = spp_det("train", odd / "recipe.yaml", "data.test=some")
    assert ended.code == 0, ended.err
    assert json.loads((odd / "run" / "metrics.json").read_text())["images"] == 4
    photos = odd / "voc" / "JPEGImages"
    ended = spp_det("detect", odd / "run" / "model.safetensors", photos, "--out", odd / "found", "--draw")
    assert ended.code == 0, ended.err
    listing = json.loads((odd / "found" / "images.json").read_text())
    assert [(image["width"], image["height"]) for image in listing["images"][:2]] == [(1, 1), (3, 2000)]


def test_a_second_run_in_the_same_folder_is_one_line(folder, odd):
    with alone_in(odd / "run"):
        assert_last_line(spp_det("train", odd / "recipe.yaml"), "another run is at work in", odd / "run")
        assert_one_line(detect(folder, odd / "run"), "another run is at work in", odd / "run")
    assert list((odd / "run").iterdir()) == []


def test_a_refused_run_leaves_the_log_of_the_folder_s_own(odd):
    assert spp_det("train", odd / "recipe.yaml").code == 0
    log = (odd / "run" / "train.log").read_bytes()
    for command in (("train", odd / "recipe.yaml", "seed=1"), ("demo", "--out", odd / "run")):
        assert_last_line(spp_det(*command), "config.yaml is another configuration's")
    assert (odd / "run" / "train.log").read_bytes() == log
    assert not (odd / "run" / "data").exists()
