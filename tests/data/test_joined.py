"""Several splits as one data set: nothing is mixed up, lost or read twice."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from spp_det.boxes import as_boxes
from spp_det.config.settings import Data
from spp_det.data.dataset import read_splits
from spp_det.data.joined import locate_split, read_voc_splits
from spp_det.data.records import Dataset, Record
from spp_det.data.voc import read_voc, write_voc
from spp_det.errors import UserError

SEVERAL = ("VOC2007:trainval", "VOC2012:trainval")


def write(root: Path, split: str, objects: dict[str, tuple[str, ...]]) -> None:
    """A split of images 50x40 whose objects have those names; image files are not needed."""
    classes = tuple(sorted({name for names in objects.values() for name in names}))
    records = []
    for image_id, names in objects.items():
        none = np.zeros(len(names), np.bool_)
        labels = np.array([classes.index(name) for name in names], np.int64)
        boxes = as_boxes([[i, 0, i + 5, 8] for i in range(len(names))])
        path = root / "JPEGImages" / f"{image_id}.jpg"
        records.append(Record(image_id, path, boxes, labels, none, none, (50, 40)))
    write_voc(Dataset(classes, records), root, split)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two years that share an id, and each of which knows a class that the other lacks."""
    write(tmp_path / "VOC2007", "trainval", {"000001": ("dog", "person"), "000002": ("cat",)})
    write(tmp_path / "VOC2007", "test", {"000003": ("dog",), "000001": ("dog", "person")})
    write(tmp_path / "VOC2012", "trainval", {"000001": ("person", "bird"), "2008_000008": ()})
    return tmp_path


def named(dataset: Dataset) -> dict[str, list[str]]:
    return {r.image_id: [dataset.classes[label] for label in r.labels] for r in dataset.records}


def test_a_split_is_named_by_its_folder_and_itself():
    assert locate_split("root", "trainval") == (Path("root"), "trainval")
    assert locate_split(Path("root"), "VOC2012:train") == (Path("root/VOC2012"), "train")
    assert locate_split("root", "/data/VOC2012:train") == (Path("/data/VOC2012"), "train")


def test_two_years_are_one_data_set_with_all_images_and_all_classes(root):
    dataset = read_voc_splits(root, SEVERAL)
    assert dataset.classes == ("bird", "cat", "dog", "person")
    assert named(dataset) == {
        "VOC2007/000001": ["dog", "person"],
        "VOC2007/000002": ["cat"],
        "VOC2012/000001": ["person", "bird"],
        "VOC2012/2008_000008": [],
    }
    assert [record.path.relative_to(root).parts[0] for record in dataset.records] == [
        *["VOC2007"] * 2,
        *["VOC2012"] * 2,
    ]
    assert all(record.labels.dtype == np.int64 for record in dataset.records)


def test_given_classes_keep_their_order_and_others_are_left_out_with_a_word(root, caplog):
    classes = ("person", "dog", "cat", "bird")
    dataset = read_voc_splits(root, SEVERAL, classes)
    assert dataset.classes == classes
    assert named(dataset)["VOC2012/000001"] == ["person", "bird"]
    assert not caplog.messages
    assert named(read_voc_splits(root, SEVERAL, classes[:3]))["VOC2012/000001"] == ["person"]
    assert "objects of classes that were not chosen are left out: bird (1)" in caplog.text


def test_one_split_is_what_the_reader_makes_of_it(root):
    for split, folder in (("VOC2007:trainval", root / "VOC2007"), (f"{root / 'VOC2007'}:trainval", root)):
        dataset, expected = read_voc_splits(folder.parent, [split]), read_voc(root / "VOC2007", "trainval")
        assert dataset.classes == expected.classes
        assert named(dataset) == named(expected)


def test_splits_of_one_folder_keep_their_ids_and_a_shared_image_is_read_once(root, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = read_voc_splits(root / "VOC2007", ["trainval", "test"])
    assert list(named(dataset)) == ["000001", "000002", "000003"]
    (message,) = caplog.messages
    assert "test: 1 images are in an earlier split" in message


def test_a_folder_or_split_that_is_not_there_is_named(root):
    with pytest.raises(UserError, match=r"VOC2011: not a Pascal VOC data set"):
        read_voc_splits(root, ["VOC2007:trainval", "VOC2011:trainval"])
    with pytest.raises(UserError, match=r"no such split; those of .*VOC2012 are: trainval"):
        read_voc_splits(root, ["VOC2007:test", "VOC2012:test"])


def test_a_config_names_them(root):
    data = Data(root=root, train=SEVERAL, test="VOC2007:test")
    splits = read_splits(data, seed=0)
    assert len(splits.train) == 4
    assert splits.test is not None
    assert list(named(splits.test.dataset)) == ["000003", "000001"]
