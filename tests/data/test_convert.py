"""A data set in another format: what is written is read, box by box, in all directions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.coco import read_coco
from spp_det.data.convert import write_dataset
from spp_det.data.records import Dataset, Record
from spp_det.data.voc import read_voc
from spp_det.data.yolo import read_yolo
from spp_det.errors import UserError
from spp_det.images import read_image

FORMATS = ("voc", "coco", "yolo")


def read(root: Path, format_: str, split: str) -> Dataset:
    if format_ == "voc":
        return read_voc(root, split)
    if format_ == "yolo":
        return read_yolo(root, split)
    return read_coco(root / "annotations" / f"{split}.json", root / "images")


def named(record: Record, dataset: Dataset) -> list[str]:
    return [dataset.classes[label] for label in record.labels]


@pytest.fixture
def splits(tmp_path) -> dict[str, Dataset]:
    """Two splits that share a photo, one photo without objects, one turned by EXIF, two of one name."""
    generator = np.random.default_rng(0)

    def record(name: str, count: int, orientation: int = 1) -> Record:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = generator.integers(0, 255, (90, 120, 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=exif)
        corners = np.sort(generator.integers(0, 89, (count, 2, 2)), axis=1)
        corners[:, 1] += 1
        no = np.zeros(count, np.bool_)
        labels = generator.integers(0, 2, count)
        return Record(name, path, as_boxes(corners.reshape(-1, 4)), labels, no, no)

    shared = record("a.jpg", 4)
    return {
        "train": Dataset(("cat", "dog"), [shared, record("deep/b.png", 3, 6), record("b.png", 2)]),
        "test": Dataset(("dog", "cat"), [record("none.jpg", 0), replace(shared, labels=1 - shared.labels)]),
    }


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_boxes_and_splits_survive_from_any_format_to_any_other(splits, first, second, tmp_path, caplog):
    write_dataset(splits, tmp_path / "one", first)
    between = {split: read(tmp_path / "one", first, split) for split in splits}
    write_dataset(between, tmp_path / "two", second)
    for split, dataset in splits.items():
        found = read(tmp_path / "two", second, split)
        assert len(found) == len(dataset)
        photos = {record.path.read_bytes(): record for record in found.records}
        for before in dataset.records:
            after = photos[before.path.read_bytes()]
            assert named(after, found) == named(before, dataset)
            np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-3)
    assert not caplog.messages


def test_the_same_name_in_two_folders_is_two_photos(splits, tmp_path):
    write_dataset(splits, tmp_path / "out", "voc")
    assert sorted(path.name for path in (tmp_path / "out" / "JPEGImages").iterdir()) == [
        *("a.jpg", "b.png", "deep_b.png", "none.jpg")
    ]


def test_a_photo_that_cannot_be_read_is_left_out_with_a_word(splits, tmp_path, caplog):
    (tmp_path / "photos" / "a.jpg").write_bytes(b"damaged")
    write_dataset(splits, tmp_path / "out", "yolo")
    assert len(read_yolo(tmp_path / "out", "train")) == 2
    assert caplog.messages[0].startswith("2 photos cannot be read and are left out, the first:")


def test_flags_go_along_where_the_format_has_a_place_for_them(splits, tmp_path, caplog):
    flagged = splits["train"].records[0]
    flagged.difficult[1] = True
    write_dataset(splits, tmp_path / "voc", "voc")
    assert read_voc(tmp_path / "voc", "train").records[0].difficult.tolist() == [False, True, False, False]
    write_dataset(splits, tmp_path / "coco", "coco")
    assert read(tmp_path / "coco", "coco", "train").records[0].difficult.tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert not caplog.messages
    write_dataset(splits, tmp_path / "yolo", "yolo")
    assert caplog.messages[0].startswith("1 objects are difficult or crowds")


def test_nothing_is_written_where_something_is(splits, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(UserError, match="is there already"):
        write_dataset(splits, tmp_path / "out", "voc")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_turned_photo_is_read_upright_with_its_boxes(splits, tmp_path):
    write_dataset(splits, tmp_path / "out", "coco")
    record = read(tmp_path / "out", "coco", "train").records[1]
    assert record.size == (90, 120) == read_image(record.path).shape[1::-1]


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\ufffe"])
def test_a_class_that_xml_cannot_hold_is_refused_before_anything_is_written(splits, tmp_path, name):
    odd = {split: replace(part, classes=(name, *part.classes[1:])) for split, part in splits.items()}
    with pytest.raises(UserError, match="XML cannot hold"):
        write_dataset(odd, tmp_path / "out", "voc")
    assert not (tmp_path / "out").exists()
    write_dataset(odd, tmp_path / "coco", "coco")
