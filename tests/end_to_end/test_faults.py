"""What machines do to a run: full disks, folders nobody may write to, files that vanish. One line each."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from spp_det.data.synthetic import generate_voc
from spp_det.images import read_image
from spp_det.proposals.source import WindowSource
from tests.command_line import assert_one_line, spp_det
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
        assert_one_line(ended, "/dev/null")


def test_an_image_that_vanishes_during_the_training_is_named(folder, tmp_path, monkeypatch):
    photo = folder / "voc" / "JPEGImages" / "trainval_00001.jpg"
    search, pixels = WindowSource.windows_of_file, photo.read_bytes()

    def vanishing(self, path, *rest):
        found = search(self, path, *rest)
        photo.unlink(missing_ok=True) if path == photo else None
        return found

    monkeypatch.setattr(WindowSource, "windows_of_file", vanishing)
    try:
        ended = spp_det("train", folder / "recipe.yaml", f"output={tmp_path}")
    finally:
        photo.write_bytes(pixels)
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == f"error: {photo}: no such file or directory"
    assert "Traceback" not in ended.err
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
