"""Files that were looked at, and the images of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spp_det.data.records import Dataset, Record
from spp_det.detections.image_names import match_images
from spp_det.errors import UserError


def dataset(*image_ids, folder="/data/JPEGImages", suffix=""):
    nothing = np.zeros(0, np.bool_)
    return Dataset(
        ("a",),
        [
            Record(
                name,
                Path(folder) / (name + suffix),
                np.zeros((0, 4), np.float32),
                np.zeros(0, np.int64),
                nothing,
                nothing,
            )
            for name in image_ids
        ],
    )


def voc(*image_ids):
    return dataset(*image_ids, suffix=".jpg")


@pytest.mark.parametrize(
    "file_name",
    [
        "000005.jpg",
        "000005.png",
        "JPEGImages/000005.jpg",
        "./JPEGImages/000005.jpg",
        "/elsewhere/000005.jpg",
        "C:\\photos\\000005.JPG",
        "000005",
    ],
)
def test_a_voc_id_fits_a_file_of_any_folder_and_ending(file_name):
    assert match_images(voc("000004", "000005"), [file_name]) == [1]


def test_a_voc_id_may_hold_dots():
    assert match_images(voc("photo_jpg.rf.1a", "photo_jpg.rf.2b"), ["photo_jpg.rf.2b.jpg"]) == [1]


def test_an_id_with_folders():
    images = voc("a/1", "b/1")
    assert match_images(images, ["a/1.jpg", "b/1.jpg"]) == [0, 1]
    assert match_images(images, ["/data/JPEGImages/b/1.jpg"]) == [1]
    assert match_images(images, ["c/1.jpg"]) == [None]


@pytest.mark.parametrize("file_name", ["val2017/7.jpg", "7.jpg", "/data/coco/val2017/7.jpg"])
def test_a_coco_file_name_fits_by_its_tail(file_name):
    assert match_images(dataset("val2017/7.jpg"), [file_name]) == [0]
    assert match_images(dataset("7.jpg"), [file_name]) == [0]


@pytest.mark.parametrize("file_name", ["train2017/7.jpg", "7.png", "17.jpg", "", "/"])
def test_another_image_fits_not(file_name):
    assert match_images(dataset("val2017/7.jpg"), [file_name]) == [None]


def test_the_longest_common_path_decides_between_files():
    assert match_images(voc("1"), ["flipped/1.jpg", "JPEGImages/1.jpg"]) == [None, 0]
    assert match_images(voc("1"), ["1.png", "1.jpg"]) == [None, 0]


def test_the_longest_common_path_decides_between_images():
    assert match_images(dataset("x/a/1.jpg", "y/a/1.jpg"), ["x/a/1.jpg"]) == [0]


def test_what_fits_equally_well_is_refused():
    with pytest.raises(
        UserError, match=r"^1\.jpg could be image a/1 or b/1 of the data set: write its folder too$"
    ):
        match_images(voc("a/1", "b/1"), ["1.jpg"])
    with pytest.raises(
        UserError, match=r"^x/1\.jpg and y/1\.jpg could both be image 1 of the data set: leave one"
    ):
        match_images(voc("1"), ["x/1.jpg", "y/1.jpg"])


def test_nothing_to_match():
    assert match_images(voc(), ["1.jpg"]) == [None]
    assert match_images(voc("1"), []) == []
