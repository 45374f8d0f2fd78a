"""A hundred photos, ten of them hostile: the other ninety are detected in as if these were not there."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.data.synthetic import scene
from spp_det.images import encode_jpeg
from tests.command_line import names_of, rows_of, spp_det

SOUND = 90


def flat(path: Path, width: int, height: int) -> None:
    Image.new("RGB", (width, height), (90, 120, 30)).save(path)


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # without an end
    except PermissionError:  # for all but root
        os.mkfifo(path)


def sparse(path: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff\xe0")
    os.truncate(path, 2**32)


def cut(path: Path, share: float) -> None:
    flat(path, 400, 300)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {  # what it is, and what is said of it
    "h0.png": (lambda path: flat(path, 200_000, 1), ""),
    "h1.png": (lambda path: flat(path, 1, 65_000), ""),
    "h2.png": (lambda path: cut(path, 0.3), "truncated"),
    "h3.jpg": (lambda path: path.write_bytes(encode_jpeg(np.zeros((9, 9, 3), np.uint8))[:40]), "h3"),
    "h4.jpg": (os.mkfifo, "a pipe or a device"),
    "h5.jpg": (device, "a pipe or a device"),
    "h6.jpg": (lambda path: path.symlink_to("/etc/passwd"), "leads out"),
    "h7.jpg": (lambda path: path.write_text("not a photo"), "not an image"),
    "h8.jpg": (lambda path: path.touch(), "empty"),
    "h9.jpg": (sparse, "larger than"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Ninety sound photos, and a hundred."""
    base = tmp_path_factory.mktemp("hundred")
    sound, whole = base / "sound", base / "whole"
    sound.mkdir()
    scenes = [scene(np.random.default_rng(seed), sizes=((112, 96),)).image for seed in range(SOUND // 10)]
    for number in range(SOUND):
        pixels = np.roll(scenes[number // 10], 9 * (number % 10), axis=1)  # each photo is another one
        (sound / f"a{number:02}.jpg").write_bytes(encode_jpeg(pixels))
    shutil.copytree(sound, whole)
    for name, (make, _) in HOSTILE.items():
        make(whole / name)
    return sound, whole


def found_in(folder: Path) -> dict[str, list[object]]:
    """The detections of each photo by its name."""
    names = names_of(folder)
    found: dict[str, list[object]] = {name: [] for name in names}
    for row in rows_of(folder):
        found[names[row["image_id"] - 1]].append((row["category_id"], row["bbox"], row["score"]))
    return found


@pytest.mark.usefixtures("run_metrics")
def test_ninety_photos_are_detected_in_and_ten_are_named(folders, run_folder, tmp_path):
    sound, whole = folders
    model = run_folder / "run" / "model.safetensors"
    ended = {}
    for folder in (sound, whole):
        ended[folder] = spp_det("detect", model, folder, "--out", tmp_path / folder.name, "--device", "cpu")
        assert ended[folder].code == 0, ended[folder].err
    expected, found = found_in(tmp_path / "sound"), found_in(tmp_path / "whole")
    assert len(expected) == SOUND
    assert sum(map(len, expected.values())) > SOUND
    assert {name: found[name] for name in expected} == expected
    lines = ended[whole].err.splitlines()
    used = found.keys() - expected.keys()
    assert used <= HOSTILE.keys()
    for name, (_, said) in HOSTILE.items():
        if name not in used:
            (line,) = [line for line in lines if f"/{name}: " in line and line.startswith("warning: skipped")]
            assert said in line
    assert used == {"h0.png", "h1.png"}
    listed = json.loads((tmp_path / "whole" / "images.json").read_text())["skipped"]
    assert {Path(each["file"]).name for each in listed} | {"h6.jpg"} | used == HOSTILE.keys()
    assert any(line.startswith("skipped 8 files") for line in lines)


@pytest.mark.parametrize("name", ["h4.jpg", "h6.jpg", "h9.jpg"])
@pytest.mark.usefixtures("run_metrics")
def test_each_of_them_is_an_error_where_all_photos_must_be_read(folders, run_folder, tmp_path, name):
    (tmp_path / "photos").mkdir()
    shutil.copy(folders[0] / "a00.jpg", tmp_path / "photos")
    HOSTILE[name][0](tmp_path / "photos" / name)
    model = run_folder / "run" / "model.safetensors"
    ended = spp_det(
        "detect", model, tmp_path / "photos", "--out", tmp_path / "out", "--strict", "--device", "cpu"
    )
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert name in ended.err.splitlines()[-1]
