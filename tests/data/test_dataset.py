"""A folder of any format: what it is taken for, what is learned from it, and what is held out."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.config.settings import Data
from spp_det.data.convert import write_dataset
from spp_det.data.dataset import HELD_OUT, find_data, format_of, read_all, read_split, read_splits, read_test
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError

NAMES = [f"{number}.jpg" for number in range(10)]


def dataset(folder: Path, names: list[str]) -> Dataset:
    """Photos of a cat each, every second one with a dog."""
    records = []
    for index, name in enumerate(names):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (20 * index, 0, 0)).save(folder / name)
        labels = np.array([0, 1][: 1 + index % 2], np.int64)
        no = np.zeros(len(labels), np.bool_)
        boxes = as_boxes([[1, 2, 20, 30], [30, 5, 50, 39]][: len(labels)])
        records.append(Record(name, folder / name, boxes, labels, no, no, (60, 40)))
    return Dataset(("cat", "dog"), records)


@pytest.fixture
def splits(tmp_path) -> dict[str, Dataset]:
    whole = dataset(tmp_path / "photos", NAMES)
    return {
        "train": Dataset(whole.classes, whole.records[:6]),
        "test": Dataset(whole.classes, whole.records[6:]),
    }


def without_splits(root: Path, format_: str) -> Path:
    """A data set of ten photos as labelImg or Label Studio leave it."""
    write_dataset({"train": dataset(root.parent / "photos", NAMES)}, root, format_)
    if format_ == "voc":
        shutil.rmtree(root / "ImageSets")
    elif format_ == "yolo":
        (root / "data.yaml").unlink()
    else:
        (root / "annotations" / "train.json").rename(root / "result.json")
        (root / "annotations").rmdir()
    return root


@pytest.mark.parametrize("format_", ["voc", "coco", "yolo"])
def test_the_splits_of_a_data_set_are_its_own(tmp_path, splits, format_, caplog):
    caplog.set_level(logging.INFO, "spp_det")
    write_dataset(splits, tmp_path / "set", format_)
    assert format_of(tmp_path / "set") == format_
    found = read_splits(Data(root=tmp_path / "set"), seed=0)
    assert (len(found.train), found.test, found.held_out) == (6, None, ())
    (line,) = caplog.messages
    assert line.endswith(f"{tmp_path / 'set'}: train (6 photos, 2 classes)")
    found = read_splits(Data(root=tmp_path / "set", test="test"), seed=0)
    assert found.test is not None
    assert (len(found.test.dataset), found.test.instances is None) == (4, format_ != "coco")
    format_again, every = read_all(tmp_path / "set")
    assert format_again == format_
    assert {name: len(part) for name, part in every.items()} == {"train": 6, "test": 4}


@pytest.mark.parametrize("format_", ["voc", "coco", "yolo"])
def test_of_data_without_splits_a_fifth_is_held_out_by_names_and_seed(tmp_path, format_, caplog):
    caplog.set_level(logging.INFO, "spp_det")
    root = without_splits(tmp_path / "set", format_)
    assert format_of(root) == format_
    data = Data(root=root)
    found = read_splits(data, seed=0)
    assert found.test is not None
    assert (len(found.train), len(found.test.dataset), len(found.held_out)) == (8, 2, 2)
    assert "2 of its 10 photos are held out for the test (data.test=none learns from all)" in caplog.text
    assert found.held_out == read_splits(data, seed=0).held_out
    assert len({read_splits(data, seed=seed).held_out for seed in range(5)}) > 1
    if format_ == "coco":
        assert found.test.instances is not None
        assert len(found.test.instances["images"]) == 2
    for none in ("none", None):
        whole = read_splits(data.model_copy(update={"test": none}), seed=0)
        assert (len(whole.train), whole.test, whole.held_out) == (10, None, ())


@pytest.mark.parametrize("format_", ["voc", "coco", "yolo"])
def test_the_test_of_a_run_is_read_again_also_where_photos_came_later(tmp_path, format_):
    root = without_splits(tmp_path / "set", format_)
    data, run = Data(root=root), tmp_path / "run"
    run.mkdir()
    ids = read_splits(data, seed=3).held_out
    again = read_test(data, 3, run)
    assert again is not None
    assert tuple(record.image_id for record in again.dataset.records) == ids
    names = [record.image_id for record in read_splits(data, seed=3).train.records[:3]]
    (run / HELD_OUT).write_text("\n".join(names))
    listed = read_test(data, 3, run)
    assert listed is not None
    assert sorted(record.image_id for record in listed.dataset.records) == sorted(names)
    assert len(read_split(format_, root, str(run / HELD_OUT)).dataset) == 3 if format_ != "coco" else True


def test_classes_choose_in_every_format(tmp_path, splits, caplog):
    for format_ in ("voc", "coco", "yolo"):
        root = tmp_path / format_
        write_dataset(splits, root, format_)
        found = read_splits(Data(root=root, classes=("dog",), test="test"), seed=0)
        assert found.test is not None
        for part in (found.train, found.test.dataset):
            assert part.classes == ("dog",)
            assert sum(map(len, part.records)) == len(part) / 2
        if found.test.instances is not None:
            assert [entry["name"] for entry in found.test.instances["categories"]] == ["dog"]
            assert len(found.test.instances["annotations"]) == 2
        assert "objects of classes that were not chosen are left out: cat (6)" in caplog.text
        with pytest.raises(UserError, match="no object is of the class 'dgo'; did you mean 'dog'"):
            read_splits(Data(root=root, classes=("dgo",)), seed=0)


def test_a_declared_class_without_objects_is_left_out_with_a_warning(tmp_path, splits, caplog):
    for format_ in ("coco", "yolo"):
        caplog.clear()
        root = tmp_path / format_
        more = {name: Dataset((*part.classes, "emu"), part.records) for name, part in splits.items()}
        write_dataset(more, root, format_)
        assert read_splits(Data(root=root), seed=0).train.classes == ("cat", "dog")
        assert "classes without an object are left out: emu" in caplog.text


def test_a_file_of_coco_is_named_by_its_path_or_by_its_split(tmp_path, splits):
    root = tmp_path / "set"
    write_dataset(splits, root, "coco")
    for train in ("train", "annotations/train.json", str(root / "annotations" / "train.json")):
        data = Data(root=root, train=train)
        assert len(read_splits(data, 0).train) == 6
    assert find_data(Data(root=tmp_path, train="x.json")).format == "coco"
    with pytest.raises(UserError, match="has no COCO file of a split 'val'; it has: test, train"):
        read_splits(Data(root=root, train="val"), 0)
    with pytest.raises(UserError, match=r"no\.json: no such file"):
        read_splits(Data(root=root, train="no.json"), 0)


def test_what_is_no_data_set_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match="set: no such folder"):
        format_of(tmp_path / "set")
    (tmp_path / "notes.json").write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match="not a data set: it holds neither Pascal VOC's"):
        read_splits(Data(root=tmp_path), 0)


def test_several_splits_are_joined_in_voc_alone(tmp_path, splits):
    write_dataset(splits, tmp_path / "set", "voc")
    assert len(read_splits(Data(root=tmp_path / "set", train=("train", "test")), 0).train) == 10
    write_dataset(splits, tmp_path / "other", "yolo")
    with pytest.raises(UserError, match="only splits of Pascal VOC can be joined"):
        read_splits(Data(root=tmp_path / "other", train=("train", "test")), 0)
    with pytest.raises(UserError, match="only splits of Pascal VOC can be joined"):
        read_splits(Data(root=tmp_path / "set", format="coco", train=("a.json", "b.json")), 0)


def test_lists_of_one_class_and_of_all_are_no_splits_of_their_own(tmp_path, splits):
    root = tmp_path / "set"
    write_dataset({**splits, "val": splits["test"]}, root, "voc")
    lists = root / "ImageSets" / "Main"
    for name in ("trainval", "cat_train", "dog_test"):
        (lists / f"{name}.txt").write_text("0\n")
    assert list(read_all(root)[1]) == ["test", "train", "val"]
    assert len(read_splits(Data(root=root), 0).train) == 1  # of trainval, not of train


def test_a_test_of_photos_that_were_resized_is_refused_before_the_training(tmp_path, splits):
    for format_ in ("voc", "coco"):
        root = tmp_path / format_
        write_dataset(splits, root, format_)
        photo = next(root.rglob("7.jpg"))
        Image.new("RGB", (30, 20)).save(photo)
        assert len(read_splits(Data(root=root), 0).train) == 6
        with pytest.raises(UserError, match=r"7\.jpg: 30x20, labelled at 60x40"):
            read_splits(Data(root=root, test="test"), 0)


def test_a_voc_set_with_one_list_of_any_name_learns_from_that_and_holds_photos_out(tmp_path):
    whole = dataset(tmp_path / "photos", NAMES)
    write_dataset({"default": whole}, tmp_path / "set", "voc")  # as CVAT calls it
    found = read_splits(Data(root=tmp_path / "set"), seed=0)
    assert (len(found.train), len(found.held_out)) == (8, 2)
    assert find_data(Data(root=tmp_path / "set")).train == ("default",)
    (tmp_path / "set" / "ImageSets" / "Main" / "rest.txt").write_text("1\n")
    with pytest.raises(UserError, match=r"trainval\.txt: no such split; those of .* are: default, rest$"):
        read_splits(Data(root=tmp_path / "set"), seed=0)
