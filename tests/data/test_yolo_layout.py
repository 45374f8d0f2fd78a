"""Where a YOLO data set's names, splits and label files lie, as the tools that write them lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from spp_det.data.names import Links
from spp_det.data.yolo_layout import is_yolo, label_file, photos_of, read_layout
from spp_det.errors import UserError


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def layout_of(root: Path):
    return read_layout(root, Links(root))


def photos(root: Path, split: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in photos_of(layout_of(root), split, Links(root))]


# ---------------------------------------------------------------- class names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [cat, dog]\n", {0: "cat", 1: "dog"}),
        ("names:\n  0: cat\n  3: dog\n", {0: "cat", 3: "dog"}),
        ("names:\n  '0': cat\n", {0: "cat"}),
        ("\ufeffnc: 2\nnames:\n- 7\n- ' dog '\n", {0: "7", 1: "dog"}),
    ],
)
def test_names_are_a_list_or_a_mapping(tmp_path, text, names):
    write(tmp_path / "data.yaml", text)
    assert layout_of(tmp_path).names == names


@pytest.mark.parametrize("where", ["classes.txt", "labels/classes.txt", "train/_darknet.labels", "obj.names"])
def test_plain_names_lie_beside_the_labels_or_above_them(tmp_path, where):
    write(tmp_path / where, "\ufeffcat\r\n\r\ndog\r\n")
    assert is_yolo(tmp_path)
    assert layout_of(tmp_path).names == {0: "cat", 1: "dog"}


def test_darknets_file_of_names_is_found_by_what_obj_data_says(tmp_path):
    write(tmp_path / "obj.names", "cat\ndog\n")
    write(tmp_path / "obj.data", "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\n")
    assert layout_of(tmp_path).names == {0: "cat", 1: "dog"}
    assert layout_of(tmp_path).splits == {}  # there is no train.txt


def test_other_yaml_files_and_folders_are_no_yolo_data_set(tmp_path):
    write(tmp_path / "recipe.yaml", "svm: {C: 1}\n")
    assert not is_yolo(tmp_path)
    with pytest.raises(UserError, match="not a YOLO data set"):
        layout_of(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.yaml")
    os.mkfifo(tmp_path / "classes.txt")
    assert not is_yolo(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: []\n", "names no class"),
        ("names: [cat, cat]\n", "two classes have the name 'cat'"),
        ("names: [cat, '']\n", "class 1 has the name ''"),
        ("names: [cat, [dog]]\n", "which is no text"),
        ("names: {a: cat}\n", "no number of a class"),
        ("names: {1: cat, '1': dog}\n", "two classes of the same number"),
        ("names: cat\n", "must be a list or a mapping"),
        ("names: [cat\n", "not readable as YAML"),
        ("names: [cat]\ntrain: {a: b}\n", "train must be a path or a list of paths"),
        ("names: [cat]\nnames: [dog]\n", "the key 'names' is in line 1 already"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [cat]\ntrain: [*b, *b]\n", "it has an alias"),
        (f"names: [{'x' * 300}]\n", "a name of 300 characters"),
    ],
)
def test_names_that_are_none_are_refused_in_one_line(tmp_path, text, message):
    write(tmp_path / "data.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        layout_of(tmp_path)
    assert "\n" not in str(caught.value)
    assert "data.yaml" in str(caught.value)


def test_two_files_of_plain_names_must_agree(tmp_path):
    write(tmp_path / "a" / "classes.txt", "cat\n")
    write(tmp_path / "b" / "classes.txt", "cat\n")
    assert layout_of(tmp_path).names == {0: "cat"}
    write(tmp_path / "b" / "classes.txt", "dog\n")
    with pytest.raises(UserError, match="name different classes"):
        layout_of(tmp_path)


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    "said",
    [
        "train/images",
        "./train/images",
        "../train/images",
        "/content/set/train/images",
        "C:\\set\\train\\images",
    ],
)
def test_a_folder_is_found_inside_the_root_however_its_path_was_written(tmp_path, said):
    photo(tmp_path / "train" / "images" / "2.jpg")
    photo(tmp_path / "train" / "images" / "10.jpg")
    photo(tmp_path / "val" / "images" / "3.jpg")
    write(
        tmp_path / "data.yaml", f"names: [cat]\ntrain: '{said}'\nval: ../val/images\ntest: ../test/images\n"
    )
    assert photos(tmp_path, "train") == ["train/images/2.jpg", "train/images/10.jpg"]
    assert set(layout_of(tmp_path).splits) == {"train", "val"}  # tools name a test that they did not export


def test_a_missing_folder_is_not_taken_for_another_of_the_same_last_name(tmp_path):
    photo(tmp_path / "images" / "1.jpg")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: ../train/images\n")
    with pytest.raises(UserError, match="has no split 'train'; its splits are: none"):
        photos(tmp_path, "train")


def test_path_is_the_folder_of_the_splits_and_a_list_joins_several(tmp_path):
    photo(tmp_path / "set" / "images" / "a" / "1.jpg")
    photo(tmp_path / "set" / "images" / "b" / "2.jpg")
    write(tmp_path / "data.yaml", "path: set\nnames: [cat]\ntrain: [images/b, images/a]\nval: images/a\n")
    assert photos(tmp_path, "train") == ["set/images/b/2.jpg", "set/images/a/1.jpg"]
    assert photos(tmp_path, "val") == ["set/images/a/1.jpg"]


def test_valid_is_val(tmp_path):
    photo(tmp_path / "valid" / "images" / "1.jpg")
    write(tmp_path / "data.yaml", "names: [cat]\nvalid: valid/images\n")
    assert photos(tmp_path, "val") == ["valid/images/1.jpg"]


def test_a_list_of_photos_is_read_relative_to_itself_to_the_root_or_by_name(tmp_path):
    photo(tmp_path / "obj_train_data" / "1.jpg")
    photo(tmp_path / "obj_train_data" / "deep" / "2.jpg")
    photo(tmp_path / "obj_train_data" / "3.jpg")
    write(tmp_path / "obj.names", "cat\n")
    write(tmp_path / "obj.data", "names = obj.names\ntrain = data/train.txt\n")
    write(
        tmp_path / "train.txt", "\ufeffdata/obj_train_data/1.jpg\n/home/me/2.jpg\n\n./obj_train_data/3.jpg\n"
    )
    assert photos(tmp_path, "train") == [
        "obj_train_data/1.jpg",
        "obj_train_data/deep/2.jpg",
        "obj_train_data/3.jpg",
    ]


def test_two_photos_of_a_listed_name_and_none_are_errors(tmp_path):
    photo(tmp_path / "a" / "1.jpg")
    photo(tmp_path / "b" / "1.jpg")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: train.txt\nval: val.txt\n")
    write(tmp_path / "train.txt", "/elsewhere/1.jpg\n")
    write(tmp_path / "val.txt", "/elsewhere/2.jpg\n")
    with pytest.raises(UserError, match=r"leads to no file, and two photos .*a/1.jpg and .*b/1.jpg: write"):
        photos(tmp_path, "train")
    with pytest.raises(UserError, match="no such photo is inside"):
        photos(tmp_path, "val")


def test_a_path_that_leads_out_is_never_opened(tmp_path):
    secret = photo(tmp_path / "secret" / "1.jpg")
    root = tmp_path / "set"
    write(root / "data.yaml", f"names: [cat]\ntrain: ../secret\nval: {secret.parent}\n")
    assert layout_of(root).splits == {}
    (root / "images").symlink_to(secret.parent)
    write(root / "data.yaml", "names: [cat]\ntrain: images\n")
    with pytest.raises(UserError, match="leads out"):
        photos(root, "train")


# ---------------------------------------------------------------- label files


@pytest.mark.parametrize(
    ("where", "label"),
    [
        ("images/1.jpg", "labels/1.txt"),
        ("images/train/1.jpg", "labels/train/1.txt"),
        ("train/images/1.jpg", "train/labels/1.txt"),
        ("images/images/1.jpg", "images/labels/1.txt"),
        ("photos/1.jpg", "photos/1.txt"),
        ("1.jpg", "1.txt"),
        ("photos/1.jpg", "labels/1.txt"),
        ("train/images/1.jpg", "train/annotations/1.txt"),
        ("photos/1.jpg", "txt/1.txt"),
    ],
)
def test_a_label_file_mirrors_its_photo_or_lies_beside_it(tmp_path, where, label):
    path = photo(tmp_path / where)
    write(tmp_path / "txt" / "classes.txt", "cat\n")
    layout = layout_of(tmp_path)
    assert label_file(layout, path) is None
    assert label_file(layout, path) != write(tmp_path / label, "")
    assert label_file(layout, path) == tmp_path / label
