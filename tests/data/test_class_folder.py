"""Images in one folder a class: what is found, what is refused, and objects cut out into such folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spp_det.boxes import as_boxes
from spp_det.data.class_folder import read_class_folder, write_class_folder
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.images import encode_jpeg, read_image


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("train/dog/2.jpg", "train/dog/10.png", "train/cat/more/a.jpeg", "train/dog/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train" / ".thumbnails").mkdir()
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "b.jpg").touch()
    return tmp_path


def test_folders_are_classes_and_images_are_found_at_any_depth(root):
    images = read_class_folder(root, "train")
    assert images.classes == ("cat", "dog")
    names = [path.relative_to(root / "train").as_posix() for path in images.paths]
    assert names == ["cat/more/a.jpeg", "dog/2.jpg", "dog/10.png"]
    assert images.labels.tolist() == [0, 1, 1]
    some = images.at(np.array([2, 0]))
    assert ([path.name for path in some.paths], some.labels.tolist()) == (["10.png", "a.jpeg"], [1, 0])


def test_given_classes_keep_their_order_and_may_lack_images(root):
    (root / "test" / "bird").mkdir()
    images = read_class_folder(root, "test", ("dog", "cat", "bird"))
    assert (images.classes, images.labels.tolist()) == (("dog", "cat", "bird"), [1])


def test_what_is_wrong_is_named(root):
    with pytest.raises(UserError, match=r"val: no such folder.*there are test, train"):
        read_class_folder(root, "val")
    with pytest.raises(UserError, match="no such folder"):
        read_class_folder(root / "none", "train")
    with pytest.raises(UserError, match="at least two"):
        read_class_folder(root, "test")
    with pytest.raises(UserError, match=r"cat: no class is called that; there are dog, bird"):
        read_class_folder(root, "test", ("dog", "bird"))
    (root / "train" / "bird").mkdir()
    with pytest.raises(UserError, match=r"bird: holds no images"):
        read_class_folder(root, "train")
    (root / "none" / "dog").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no images"):
        read_class_folder(root, "none", ("cat", "dog"))


def test_objects_are_cut_out_at_their_own_size(tmp_path):
    image = np.zeros((120, 160, 3), np.uint8)
    image[10:80, 20:100] = 255
    (tmp_path / "photo.jpg").write_bytes(encode_jpeg(image))
    boxes = as_boxes([(20, 10, 100, 80), (0, 0, 63, 63), (0, 0, 90, 90), (0, 0, 90, 90)])
    flags = np.array([[False, False, True, False], [False, False, False, True]])
    record = Record("photo.jpg", tmp_path / "photo.jpg", boxes, np.array([1, 0, 0, 0]), *flags)
    dataset = Dataset(("cat", "dog"), [record])
    assert write_class_folder(dataset, tmp_path / "out", smallest=64, context=0.1) == 1
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == [tmp_path / "out" / "dog" / "photo_0.jpg"]
    crop = read_image(files[0])
    assert crop.shape == (88, 88, 3)
    assert crop[20:60, 20:60].min() > 240
    before = files[0].read_bytes()
    write_class_folder(dataset, tmp_path / "out")
    assert files[0].read_bytes() == before
