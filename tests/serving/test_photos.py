"""A task's photo is the one whose name its path ends in."""

from __future__ import annotations

from pathlib import Path

import pytest

from spp_det.errors import UserError
from spp_det.serving.photos import PhotoFolder, path_parts, uploaded_name

NAMES = (
    "a.jpg",
    "my photo (1).jpg",
    "über.png",
    "one/same.jpg",
    "two/same.jpg",
    "0123abcd-b.jpg",
    "b.jpg",
    "c%20d.jpg",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in NAMES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("/data/upload/3/0123abcd-a.jpg", "a.jpg"),
        ("/data/upload/3/a.jpg", "a.jpg"),
        ("http://127.0.0.1:8080/data/upload/3/0123abcd-a.jpg", "a.jpg"),
        ("/studio/data/upload/3/0123abcd-a.jpg?x=1", None),  # only a URL has a query
        ("/data/local-files/?d=photos/a.jpg", "a.jpg"),
        ("s3://bucket/a.jpg", "a.jpg"),
        ("/data/upload/3/0123abcd-my_photo_1.jpg", "my photo (1).jpg"),
        ("/data/upload/3/0123abcd-%C3%BCber.png", "über.png"),
        ("/data/upload/3/0123abcd-über.png", "über.png"),
        ("/data/upload/3/0123ABCD-a.jpg", None),  # not Label Studio's prefix
        ("/data/upload/3/0123abc-a.jpg", None),
        ("/data/upload/3/0123abcd-b.jpg", None),  # two photos
        ("/data/upload/3/ffffffff-0123abcd-b.jpg", "0123abcd-b.jpg"),
        ("b.jpg", "b.jpg"),
        ("same.jpg", None),
        ("/data/local-files/?d=one/same.jpg", "one/same.jpg"),
        ("/elsewhere/two/same.jpg", "two/same.jpg"),
        ("three/same.jpg", None),
        ("c%20d.jpg", "c%20d.jpg"),
        ("jpg", None),
        ("", None),
        ("../photos/a.jpg", None),
        ("/etc/passwd", None),
        ("a.jpg/", "a.jpg"),
        ("a.jpg\0", None),
        ("http://[", None),
        ("x" * 5000 + "/a.jpg", None),
    ],
)
def test_a_path_is_a_photo_or_none(folder, told, found):
    photo = PhotoFolder(folder).find(told)
    assert (None if photo is None else str(photo)) == found


def test_a_photo_that_came_later_is_found(folder):
    photos = PhotoFolder(folder)
    assert photos.find("new.jpg") is None
    (folder / "new.jpg").write_bytes(b"x")
    assert str(photos.find("new.jpg")) == "new.jpg"


def test_links_that_lead_out_are_no_photos(folder, tmp_path, caplog):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "linked.jpg").symlink_to(tmp_path / "secret.jpg")
    photos = PhotoFolder(folder)
    assert photos.find("linked.jpg") is None
    assert "linked.jpg: a link that leads out" in caplog.text
    found = photos.find("a.jpg")
    assert found is not None
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(tmp_path / "secret.jpg")  # exchanged since
    with pytest.raises(UserError, match="leads out"):
        photos.path(found)


def test_a_folder_must_be_there_but_may_be_empty(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        PhotoFolder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert PhotoFolder(tmp_path / "empty").find("a.jpg") is None


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        ("/data/upload/1/a.jpg", ["data", "upload", "1", "a.jpg"]),
        ("C:\\photos\\a.jpg", ["photos", "a.jpg"]),
        ("https://host/x/%2e%2e/a.jpg", []),
        ("https://host/x/..%2fa.jpg", []),
        ("./a//b.jpg", ["a", "b.jpg"]),
        ("/data/local-files?d=x/y.jpg", ["x", "y.jpg"]),
    ],
)
def test_parts_of_a_path(told, parts):
    assert path_parts(told) == parts


def test_names_of_uploads():
    assert uploaded_name(" my photo (1), é.jpg") == "my_photo_1_é.jpg"
