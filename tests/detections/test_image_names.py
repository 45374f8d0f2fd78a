"""Files that were looked at, and the images of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.data.records import Dataset, Record
from spp_det.detections import image_names
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


def slowly(images: Dataset, file_names: list[str]) -> list[int | None]:
    """Which image is meant, by comparing every file with every image."""

    def parts(name: str) -> list[str]:
        return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]

    def fits(file: list[str], image: list[str]) -> bool:
        same = file[-1] == image[-1] or file[-1].rpartition(".")[0] == image[-1]
        return same and all(a == b for a, b in zip(file[-2::-1], image[-2::-1], strict=False))

    return [
        next(
            (i for i, record in enumerate(images.records) if fits(parts(name), parts(record.image_id))), None
        )
        for name in file_names
    ]


@settings(max_examples=300)
@given(st.data())
def test_it_is_the_image_that_a_comparison_of_all_with_all_finds(data):
    folders = st.lists(st.sampled_from("abc"), max_size=3)
    ids = st.builds(lambda path, name: "/".join([*path, name]), folders, st.sampled_from("12"))
    images = voc(*data.draw(st.lists(ids, unique=True, max_size=6)))
    names = [f"{one}.jpg" for one in data.draw(st.lists(ids, unique=True, max_size=3))]
    try:
        found = match_images(images, names)
    except UserError:
        return
    for index, expected in zip(found, slowly(images, names), strict=True):
        assert index is None or expected is not None


def test_files_of_one_name_in_many_folders_are_not_compared_with_one_another(monkeypatch):
    count = 3000
    images = voc(*(f"{number}/1" for number in range(count)))
    calls = []
    fit = image_names._fit
    monkeypatch.setattr(image_names, "_fit", lambda *given: calls.append(1) or fit(*given))
    assert match_images(images, [f"/data/{number}/1.jpg" for number in range(count)]) == list(range(count))
    assert len(calls) == count
    with pytest.raises(UserError, match="could be image"):
        match_images(images, ["1.jpg"] * count)
    calls.clear()
    assert match_images(voc(*(f"{number}/a/1" for number in range(count))), ["b/a/1.jpg"] * count)[0] is None
    assert len(calls) == 0


def test_images_that_differ_in_their_separators_alone_are_refused():
    ids = [f"a{'/' * number}1" for number in range(1, 200)]
    with pytest.raises(UserError, match="more than 100 images"):
        match_images(dataset(*ids), [])
