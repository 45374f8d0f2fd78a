"""A data set in another format, by the command line."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from spp_det.data.dataset import format_of, read_all
from tests.command_line import assert_one_line, spp_det


def boxes_of(root):
    """Boxes and class names by split and photo, in a fixed order."""
    return {
        (split, record.path.stem): sorted(
            (dataset.classes[label], *map(round, box))
            for label, box in zip(record.labels, record.boxes.tolist(), strict=True)
        )
        for split, dataset in read_all(root)[1].items()
        for record in dataset.records
    }


@pytest.mark.parametrize(("first", "second"), [*itertools.product(("voc", "coco", "yolo"), repeat=2)])
def test_all_nine_directions_keep_every_box_to_a_pixel(cli_folder, tmp_path, first, second):
    for source, out, format_ in (
        (cli_folder / "voc", tmp_path / "one", first),
        (tmp_path / "one", tmp_path / "two", second),
    ):
        ended = spp_det("convert", source, out, "--format", format_)
        assert ended.code == 0, ended.err
        assert format_of(out) == format_
    one, two = boxes_of(tmp_path / "one"), boxes_of(tmp_path / "two")
    plain = {("train" if split == "trainval" else split, stem): rows for (split, stem), rows in one.items()}
    again = {("train" if split == "trainval" else split, stem): rows for (split, stem), rows in two.items()}
    assert plain.keys() == again.keys()
    for key, rows in plain.items():
        assert [row[0] for row in rows] == [row[0] for row in again[key]]
        np.testing.assert_allclose([row[1:] for row in rows], [row[1:] for row in again[key]], atol=1)


def test_a_folder_that_holds_something_and_a_folder_without_data_are_refused(cli_folder, tmp_path):
    (tmp_path / "note").write_text("x")
    assert_one_line(spp_det("convert", cli_folder / "voc", tmp_path, "--format", "yolo"), "is there already")
    assert_one_line(spp_det("convert", tmp_path, tmp_path / "new", "--format", "coco"), "not a data set")


# ---------------------------------------------------------------- what annotation tools send back


@pytest.mark.parametrize("format_", ["cvat", "label-studio"])
def test_pre_labels_come_back_as_a_data_set_to_train_on(cli_folder, model, tmp_path, format_):
    """Accepted as they are; CVAT exports what it was given, Label Studio turns predictions to annotations."""
    photos, found = cli_folder / "voc" / "JPEGImages", tmp_path / "found"
    ended = spp_det("detect", model, photos, "--out", found, "--format", format_, "--score=-1")
    assert ended.code == 0, ended.err
    path = found / "cvat.xml"
    if format_ == "label-studio":
        path = tmp_path / "export.json"
        tasks = json.loads((found / "label-studio.json").read_text())
        for task in tasks:
            (prediction,) = task.pop("predictions")
            assert all(0 <= result["score"] <= 1 for result in prediction["result"])
            task["annotations"] = [{"was_cancelled": False, "result": prediction["result"]}]
        path.write_text(json.dumps(tasks))
    ended = spp_det("convert", path, tmp_path / "set", "--format", "coco", "--photos", photos)
    assert ended.code == 0, ended.err
    listing = json.loads((found / "images.json").read_text())
    names = {entry["id"]: entry["name"] for entry in listing["categories"]}
    stems = {entry["id"]: entry["file_name"].removesuffix(".jpg") for entry in listing["images"]}
    expected = {("train", stem): [] for stem in stems.values()}
    for row in json.loads((found / "detections.json").read_text()):
        x, y, w, h = row["bbox"]
        expected["train", stems[row["image_id"]]].append((names[row["category_id"]], x, y, x + w, y + h))
    back = boxes_of(tmp_path / "set")
    assert back.keys() == expected.keys()
    assert sum(map(len, expected.values())) > 0
    for key, rows in expected.items():
        assert len(rows) == len(back[key])
        ours = sorted((name, *map(round, box)) for name, *box in rows)
        assert [row[0] for row in ours] == [row[0] for row in back[key]]
        np.testing.assert_allclose([row[1:] for row in ours], [row[1:] for row in back[key]], atol=1)


def test_without_a_score_a_labeller_sees_what_pictures_show(cli_folder, model, tmp_path):
    photos, found = cli_folder / "voc" / "JPEGImages", tmp_path / "found"
    assert spp_det("detect", model, photos, "--out", found, "--format", "cvat").code == 0
    rows = json.loads((found / "detections.json").read_text())
    likely = sum(row["score"] >= 0 for row in rows)
    assert (found / "cvat.xml").read_text().count("<box ") == likely < len(rows)


def test_files_and_folders_that_do_not_go_together_are_refused(cli_folder, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.xml").write_text("<annotation/>")
    photos = cli_folder / "voc" / "JPEGImages"
    for source, more, message in (
        (tmp_path / "a.txt", [], "neither a data set's folder, nor CVAT's XML"),
        (tmp_path / "a.xml", ["--photos", tmp_path / "absent"], "no such folder"),
        (tmp_path / "a.xml", ["--photos", photos], "not CVAT's XML"),
        (cli_folder / "voc", ["--photos", photos], "is of an exported file"),
    ):
        ended = spp_det("convert", source, tmp_path / "out", "--format", "voc", *more)
        assert_one_line(ended, message)
    assert not (tmp_path / "out").exists()
