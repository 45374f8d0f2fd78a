"""The photos below a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from spp_det.data.names import Links
from spp_det.data.photos import images_below
from spp_det.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def below(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in images_below(root, Links(root))]


def test_photos_come_in_natural_order_and_hidden_files_do_not(tmp_path, caplog):
    touch(tmp_path, "10.jpg", "2.JPG", "a/1.mpo", "a/1.jpe", "._2.jpg", ".hidden/3.jpg", "notes.txt")
    assert below(tmp_path) == ["2.JPG", "10.jpg", "a/1.jpe", "a/1.mpo"]
    assert not caplog.messages


def test_pictures_of_other_formats_are_counted_and_the_first_is_named(tmp_path, caplog):
    touch(tmp_path, "1.jpg", "26_phone.HEIC", "3.heif", "a/4.cr2", "._5.heic")
    assert below(tmp_path) == ["1.jpg"]
    assert caplog.messages == [
        f"{tmp_path}: 3 pictures of formats that are not read were passed over, "
        f"the first is {tmp_path / '3.heif'}; convert them to JPEG or PNG"
    ]


def test_a_link_to_elsewhere_is_refused(tmp_path):
    touch(tmp_path, "secret.jpg", "photos/1.jpg")
    (tmp_path / "photos" / "2.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(UserError, match="leads out"):
        below(tmp_path / "photos")
