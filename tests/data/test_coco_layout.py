"""COCO's files and photos are found where each tool puts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spp_det.data.coco_layout import coco_files, photo_folder, training_file
from spp_det.errors import UserError

EMPTY = {"images": [], "annotations": [], "categories": []}


def write(path: Path, content: object = EMPTY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("names", "splits", "training"),
    [
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], ["train", "valid"], "train"),
        (["annotations/instances_train2017.json", "annotations/instances_val2017.json",
          "annotations/captions_train2017.json"], ["train2017", "val2017"], "train2017"),
        (["annotations/instances_default.json"], ["default"], "default"),
        (["annotations/test.json", "annotations/trainval.json"], ["test", "trainval"], "trainval"),
        (["result.json"], ["result"], "result"),
    ],
)  # fmt: skip
def test_the_files_of_each_tool(tmp_path, names, splits, training):
    for name in names:
        write(tmp_path / name)
    write(tmp_path / "notes.json", {"categories": [], "info": {}})
    files = coco_files(tmp_path)
    assert list(files) == splits
    assert training_file(tmp_path, files) == training


def test_a_folder_of_one_roboflow_split_is_called_like_the_folder(tmp_path):
    path = write(tmp_path / "train" / "_annotations.coco.json")
    assert coco_files(tmp_path / "train") == {"train": path}


@pytest.mark.parametrize("names", [[], ["a.json", "b.json"], ["train_a.json", "train_b.json"]])
def test_a_training_that_no_file_or_several_could_be_is_refused_with_their_names(tmp_path, names):
    for name in names:
        write(tmp_path / name)
    with pytest.raises(
        UserError, match="data.train=FILE.json; its COCO files: " + (", ".join(names) or "none")
    ):
        training_file(tmp_path, coco_files(tmp_path))


@pytest.mark.parametrize(
    ("file", "photo", "folder"),
    [
        ("annotations/instances_train.json", "images/train/a.jpg", "images/train"),
        ("annotations/instances_train2017.json", "train2017/a.jpg", "train2017"),
        ("annotations/test.json", "images/a.jpg", "images"),
        ("valid/_annotations.coco.json", "valid/a.jpg", "valid"),
        ("result.json", "a.jpg", "."),
        ("result.json", "nowhere/a.jpg", "."),
    ],
)
def test_the_folder_of_the_photos(tmp_path, file, photo, folder):
    (tmp_path / photo).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / photo).write_text("")
    for name in ("a.jpg", "gone.jpg"):
        content = {**EMPTY, "images": [{"id": 1, "file_name": name}]}
        expected = tmp_path / (folder if name == "a.jpg" else ".")
        assert photo_folder(tmp_path, write(tmp_path / file, content), content) == expected


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", None, "\0"])
def test_a_path_that_leads_out_tells_nothing(tmp_path, name):
    content = {**EMPTY, "images": [{"id": 1, "file_name": name}]}
    assert photo_folder(tmp_path, tmp_path / "x" / "train.json", content) == tmp_path
