"""Which photos to label next, by the command line."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from tests.command_line import assert_one_line, spp_det


@pytest.fixture(scope="module")
def photos(cli_folder):
    return cli_folder / "voc" / "JPEGImages"


def suggested(out):
    return [row["file"] for row in json.loads(out.read_text())]


def test_labelled_photos_are_left_out_and_the_rest_is_ranked(model, split, photos, tmp_path):
    out = tmp_path / "next.json"
    ended = spp_det("suggest", model, photos, "--labelled", split, "--count", "4", "--out", out)
    assert ended.code == 0, ended.err
    rows = json.loads(out.read_text())
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert len({row["file"] for row in rows}) == 4
    assert all(str(photos / "trainval") in row["file"] for row in rows)
    assert all(row["doubt"] >= 0 and 0 <= row["novelty"] <= 1 and row["found"] >= 0 for row in rows)
    assert "Photos to label next" in ended.out
    again = spp_det("suggest", model, photos, "--labelled", split, "--count", "4", "--workers", "1")
    assert again.out == ended.out


def test_a_list_of_names_is_what_detect_reads_and_csv_has_all(model, photos, tmp_path):
    for suffix in ("txt", "csv", "json"):
        out = tmp_path / f"next.{suffix}"
        assert spp_det("suggest", model, photos, "--count", "3", "--out", out).code == 0
    names = (tmp_path / "next.txt").read_text().splitlines()
    assert names == suggested(tmp_path / "next.json")
    with (tmp_path / "next.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == names
    assert list(rows[0]) == ["rank", "file", "doubt", "novelty", "found"]
    ended = spp_det(
        "suggest", model, photos, "--labelled", tmp_path / "next.txt", "--out", tmp_path / "b.txt"
    )
    assert ended.code == 0, ended.err
    assert not set(names) & set((tmp_path / "b.txt").read_text().splitlines())


def test_copies_of_labelled_photos_are_known_by_their_bytes(model, photos, tmp_path):
    first = sorted(photos.iterdir())[0]
    shutil.copy(first, tmp_path / "another name.jpg")
    out = tmp_path / "next.txt"
    ended = spp_det("suggest", model, photos, "--labelled", tmp_path / "another name.jpg", "--out", out)
    assert ended.code == 0, ended.err
    assert str(first) not in out.read_text()
    assert len(out.read_text().splitlines()) == 8


def test_a_file_of_windows_needs_none_of_the_labelled_photos(model, split, photos, tmp_path):
    """Their objects are then not counted; with windows of theirs they are, and the order may change."""
    doubts = []
    for with_labelled in (False, True):
        names = [path.stem for path in sorted(photos.iterdir())]
        rest = [name for name in names if with_labelled or name.startswith("trainval")]
        windows = {name: [[5, 5, 60, 50], [20, 10, 90, 80]] for name in rest}
        (tmp_path / "windows.json").write_text(json.dumps(windows))
        out = tmp_path / "next.json"
        command = ("suggest", model, photos, "--labelled", split, "--proposals", tmp_path / "windows.json")
        ended = spp_det(*command, "--out", out)
        assert ended.code == 0, ended.err
        doubts.append({row["file"]: row["doubt"] for row in json.loads(out.read_text())})
    assert doubts[0].keys() == doubts[1].keys()
    gains = [doubt - doubts[1][file] for file, doubt in doubts[0].items()]
    assert min(gains) >= -1e-4
    assert max(gains) > 1e-4


def test_random_order_is_the_seed_s(model, photos, tmp_path):
    found = []
    for seed in (1, 1, 2):
        out = tmp_path / "next.json"
        ended = spp_det("suggest", model, photos, "--random", "--seed", seed, "--count", "9", "--out", out)
        assert ended.code == 0, ended.err
        assert json.loads(out.read_text())[0]["doubt"] is None
        found.append(suggested(out))
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == sorted(found[2])


def test_an_unreadable_photo_is_skipped_by_name(model, photos, tmp_path):
    (tmp_path / "broken.jpg").write_text("no photo")
    ended = spp_det("suggest", model, photos, tmp_path / "broken.jpg")
    assert ended.code == 0
    assert "skipped 1 files that could not be read" in ended.err
    assert "broken.jpg" not in ended.out


def test_what_cannot_be_is_refused_in_one_line(model, photos, tmp_path):
    (tmp_path / "broken.jpg").write_text("no photo")
    assert_one_line(spp_det("suggest", model, photos, "--labelled", photos), "have labels already")
    assert_one_line(spp_det("suggest", model, photos, "--out", tmp_path / "a.xlsx"), "must end in .json")
    assert_one_line(spp_det("suggest", tmp_path / "absent.safetensors", photos), "no such model")
    ended = spp_det("suggest", model, tmp_path / "broken.jpg")
    assert ended.code == 2
    assert "no photo could be read" in ended.err.splitlines()[-1]
