"""VOC annotations and photos without split lists, as annotation tools leave them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.names import Links
from spp_det.data.voc import read_voc
from spp_det.data.voc_layout import Photos, annotations_below, choose_photo
from spp_det.data.voc_xml import annotation_xml
from spp_det.errors import UserError


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(path)
    return path


def annotation(path: Path, file_name: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(annotation_xml(file_name, 100, 80, as_boxes([(0, 0, 10, 20)]), ["cat"]), encoding="utf-8")
    return path


def pairs(root: Path) -> dict[str, str]:
    return {
        record.image_id: record.path.relative_to(root).as_posix() for record in read_voc(root, None).records
    }


def test_side_by_side(tmp_path, caplog):
    for name in ("b", "a"):
        photo(tmp_path / f"{name}.jpg")
        annotation(tmp_path / f"{name}.xml")
    photo(tmp_path / "c.jpg")
    assert pairs(tmp_path) == {"a": "a.jpg", "b": "b.jpg"}
    assert caplog.messages == [
        f"{tmp_path}: 1 photos have no annotation and are left out, the first is {tmp_path / 'c.jpg'}"
    ]


@pytest.mark.parametrize("folder", ["images", "JPEGImages", "photos/all"])
def test_in_two_folders(tmp_path, folder):
    photo(tmp_path / folder / "a.png")
    annotation(tmp_path / "Annotations" / "a.xml", "elsewhere.jpg")
    assert pairs(tmp_path) == {"a": f"{folder}/a.png"}


def test_of_two_folders_each_annotation_has_the_photo_of_its_own(tmp_path):
    for part in ("train", "test"):
        photo(tmp_path / part / "1.jpg")
        annotation(tmp_path / part / "1.xml")
    assert pairs(tmp_path) == {"test/1": "test/1.jpg", "train/1": "train/1.jpg"}


def test_a_photo_of_another_stem_is_found_by_its_stated_name(tmp_path):
    photo(tmp_path / "images" / "IMG_1.jpg")
    annotation(tmp_path / "labels" / "task7.xml", "C:\\me\\IMG_1.jpg")
    assert pairs(tmp_path) == {"labels/task7": "images/IMG_1.jpg"}


def test_a_photo_that_is_not_there_is_left_to_whoever_decodes_it(tmp_path):
    annotation(tmp_path / "a.xml", "../../etc/passwd")
    assert pairs(tmp_path) == {"a": "a.jpg"}


def test_a_folder_without_annotations_is_named(tmp_path):
    photo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="holds no XML annotations"):
        read_voc(tmp_path, None)


def test_hidden_annotations_are_left_out_and_links_to_elsewhere_are_refused(tmp_path):
    root = tmp_path / "set"
    annotation(root / "._a.xml")
    annotation(root / ".old" / "b.xml")
    annotation(root / "c.xml")
    assert list(annotations_below(root, Links(root))) == ["c"]
    (root / "d.xml").symlink_to(annotation(tmp_path / "secret.xml"))
    with pytest.raises(UserError, match="leads out"):
        annotations_below(root, Links(root))


def test_of_two_photos_with_one_stem_the_stated_one_is_meant(tmp_path, caplog):
    paths = [photo(tmp_path / name) for name in ("a.jpg", "a.png")]
    assert choose_photo(paths, "a.png") == paths[1]
    assert Photos(tmp_path, Links(tmp_path)).of(tmp_path / "a.xml", "a.png") == paths[1]
    assert not caplog.messages
    assert choose_photo(paths[::-1], "b.png") == paths[0]
    assert caplog.messages == [
        f"{paths[0]} is taken, and not a.png: <filename> in its annotation names none of them"
    ]
