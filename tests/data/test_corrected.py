"""Exported files and the photos that they mean: by path, by name, by Label Studio's addresses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from spp_det.data.corrected import Labelled, dataset_of
from spp_det.errors import UserError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("a.jpg", "in/b c.jpg", "one/same.jpg", "two/same.jpg", "0123abcd-d.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    return folder


def read(photos, *labelled: Labelled, classes=()):
    return dataset_of(labelled, classes, photos, "export", follow_links=False)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("C:\\tmp\\a.jpg", "a.jpg"),
        ("elsewhere/a.jpg", "a.jpg"),
        ("/data/upload/3/deadbeef-a.jpg", "a.jpg"),
        ("/data/upload/3/0123abcd-d.jpg", "0123abcd-d.jpg"),  # its own name begins so
        ("/data/local-files/?d=in/b%20c.jpg", "in/b c.jpg"),
        ("https://host/bucket/in/b%20c.jpg?sign=1", "in/b c.jpg"),
        ("two/same.jpg", "two/same.jpg"),
        ("/data/local-files/?d=photos/one/same.jpg", "one/same.jpg"),
    ],
)
def test_a_stated_name_means_the_photo_that_it_ends_in(photos, stated, expected):
    dataset = read(photos, Labelled("task 1", stated, None))
    assert [record.image_id for record in dataset.records] == [expected]
    assert dataset.records[0].path == photos / expected


def test_classes_are_the_declared_ones_and_then_the_others(photos):
    boxes = [(1, 2, 11, 12), (3, 4, 60, 20)]
    dataset = read(
        photos, Labelled("task 1", "a.jpg", (40, 30), boxes, ["new", "cat"]), classes=["cat", "dog"]
    )
    assert dataset.classes == ("cat", "dog", "new")
    (record,) = dataset.records
    assert record.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(record.boxes, [(1, 2, 11, 12), (3, 4, 40, 20)])  # clipped
    assert not record.difficult.any()


@pytest.mark.parametrize(
    ("labelled", "message"),
    [
        (Labelled("task 1", "same.jpg", None), "may be .*one/same.jpg or .*two/same.jpg"),
        (
            Labelled("task 1", "absent.jpg", None),
            "none of its 1 photos lies in .*task 1 .'absent.jpg'.*--photos",
        ),
        (Labelled("task 1", "", None), "which no file can have"),
        (Labelled("task 1", "a\0.jpg", None), "which no file can have"),
        (Labelled("task 1", "a.jpg", None, [(9, 0, 3, 4)], ["cat"]), "task 1 has an inverted box"),
        (Labelled("task 1", "a.jpg", None, [(0, 0, 1e9, 4)], ["cat"]), "no number of pixels"),
        (Labelled("task 1", "a.jpg", None, [(0, 0, 3, float("nan"))], ["cat"]), "no number of pixels"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(photos, labelled, message):
    with pytest.raises(UserError, match=message) as caught:
        read(photos, labelled)
    assert "\n" not in str(caught.value)


def test_one_photo_under_two_names_is_refused(photos):
    with pytest.raises(UserError, match=r"second: its photo .*a\.jpg is that of first, too"):
        read(photos, Labelled("first", "a.jpg", None), Labelled("second", "x/a.jpg", None))


def test_missing_photos_are_counted(photos, caplog):
    dataset = read(photos, *(Labelled(f"task {name}", f"{name}.jpg", None) for name in "axy"))
    assert len(dataset) == 1
    assert "export: 2 photos that the folder does not have are left out, the first is task x" in caplog.text


def test_a_link_out_of_the_folder_is_refused(photos, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(UserError, match="a link that leads out"):
        read(photos, Labelled("task 1", "a.jpg", None))
