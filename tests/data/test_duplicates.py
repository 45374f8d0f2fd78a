"""Copies by their bytes and by their looks, and no copies where photos only resemble each other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from spp_det.data.duplicates import ROWS, groups, same_bytes, same_picture, shrunk
from spp_det.data.synthetic.scenes import scene


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{index}.png" for index in range(12)]
    for index, path in enumerate(paths):
        Image.fromarray(scene(np.random.default_rng(index), ((240, 180),), (0.0, 1.0)).image).save(path)
    return paths


def test_files_of_equal_bytes_are_paired_with_the_first(tmp_path):
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"three!", "e": b"one", "f": b"two"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in (*contents, "nowhere")]
    os.mkfifo(tmp_path / "pipe")
    assert sorted(same_bytes([*paths, tmp_path / "pipe"])) == [(0, 2), (0, 4), (1, 5)]


def test_only_files_of_equal_length_are_read(tmp_path, monkeypatch):
    for name, content in {"a": b"one", "b": b"two", "c": b"three"}.items():
        (tmp_path / name).write_bytes(content)
    read: list[str] = []
    monkeypatch.setattr(
        "spp_det.data.duplicates.file_digest", lambda path: read.append(path.name) or path.name
    )
    assert same_bytes([tmp_path / name for name in "abc"]) == []
    assert read == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda photo, path: photo.save(path.with_suffix(".jpg"), quality=40),
        lambda photo, path: photo.resize((120, 90)).save(path),
        lambda photo, path: photo.resize((300, 300)).save(path),
        lambda photo, path: ImageEnhance.Brightness(photo).enhance(0.9).save(path),
        lambda photo, path: photo.convert("L").save(path),
    ],
    ids=["quality", "half", "stretched", "darker", "grey"],
)
def test_a_copy_that_was_saved_again_looks_like_its_photo(photos, tmp_path, change):
    change(Image.open(photos[5]), tmp_path / "copy.png")
    (copy,) = tmp_path.iterdir()
    assert same_picture([*photos, copy]) == ([(5, 12)], {})
    assert same_bytes([*photos, copy]) == []


def test_different_photos_and_what_shows_nothing_are_no_copies(photos, tmp_path):
    plain = [tmp_path / f"{gray}.png" for gray in (0, 1, 200)]
    for path in plain:
        Image.new("RGB", (60, 40), (int(path.stem),) * 3).save(path)
    (tmp_path / "broken.png").write_bytes(b"no photo")
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    whole.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-2000])
    broken = [tmp_path / "broken.png", tmp_path / "nowhere.png", tmp_path / "cut.jpg"]
    pairs, damaged = same_picture([*photos, *plain, *broken])
    assert pairs == []
    assert damaged == {
        15: "not an image, or in a format that is not supported",
        16: "no such file or directory",
        17: "a part of the file is missing",
    }
    assert same_picture([]) == ([], {})


def test_more_photos_than_are_compared_at_a_time(monkeypatch, photos):
    monkeypatch.setattr("spp_det.data.duplicates.ROWS", 3)
    assert len(photos) < ROWS
    assert same_picture([*photos, photos[1], photos[11]])[0] == [(1, 12), (11, 13)]


def test_a_shrunk_photo_has_mean_0_and_norm_1(photos):
    one = shrunk(np.asarray(Image.open(photos[0])))
    assert one is not None
    assert one.shape == (1024,)
    np.testing.assert_allclose((one.mean(), np.linalg.norm(one)), (0, 1), atol=1e-5)


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_groups_are_what_pairs_connect(count, pairs):
    pairs = [pair for pair in pairs if max(pair) < count]
    joined = [{index} for index in range(count)]  # the slow way: merge until nothing changes
    for _ in range(count):
        for a, b in pairs:
            both = joined[a] | joined[b]
            for index in both:
                joined[index] = both
    expected = {tuple(sorted(group)) for group in joined if len(group) > 1}
    found = groups(count, pairs)
    assert {tuple(group) for group in found} == expected
    assert len(found) == len(expected)
