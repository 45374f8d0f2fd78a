"""The VOC layout: splits, where images lie, reading and writing whole data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.records import Dataset, Record
from spp_det.data.voc import find_image, read_split, read_voc, split_names, write_annotation, write_voc
from spp_det.data.voc_xml import annotation_xml, read_annotation
from spp_det.errors import UserError


def make(root: Path, image_id: str, *names: str, boxes: list[list[float]] | None = None) -> None:
    """An annotation and a small image, 100x80 by the annotation."""
    values = as_boxes([[0, 0, 10, 20]] * len(names) if boxes is None else boxes)
    for path in (root / f"Annotations/{image_id}.xml", root / f"JPEGImages/{image_id}.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = annotation_xml(f"{image_id}.jpg", 100, 80, values, names)
    (root / f"Annotations/{image_id}.xml").write_text(text)
    Image.new("RGB", (100, 80)).save(root / f"JPEGImages/{image_id}.jpg")


def make_split(root: Path, split: str, text: str | bytes) -> None:
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path, "b", "dog", "cat")
    make(tmp_path, "a", "cat")
    make(tmp_path, "none")
    make_split(tmp_path, "train", "b\na\nnone\n")
    make_split(tmp_path, "test", "a\n")
    return tmp_path


# ---------------------------------------------------------------- reading


def test_reads_a_split_in_its_order(root: Path) -> None:
    dataset = read_voc(root, "train")
    assert dataset.classes == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    assert dataset.coco_ids == (1, 2, 3)
    assert [record.image_id for record in dataset.records] == ["b", "a", "none"]
    first, _, last = dataset.records
    assert first.path == root / "JPEGImages/b.jpg"
    assert first.labels.tolist() == [1, 0]
    assert first.labels.dtype == np.int64
    assert first.boxes.tolist() == [[0, 0, 10, 20]] * 2
    assert first.size == (100, 80)
    assert not first.crowd.any()
    assert last.boxes.shape == (0, 4)
    assert last.labels.shape == last.difficult.shape == last.crowd.shape == (0,)


def test_classes_are_those_of_the_split_or_those_given(root: Path) -> None:
    assert read_voc(str(root), "test").classes == ("cat",)
    dataset = read_voc(root, "train", ["zebra", "dog", "cat"])
    assert dataset.classes == ("zebra", "dog", "cat")
    assert dataset.records[0].labels.tolist() == [1, 2]


def test_objects_of_classes_that_are_not_given_are_left_out_and_counted(root: Path, caplog) -> None:
    dataset = read_voc(root, "train", ["cat", "zebra"])
    assert dataset.classes == ("cat", "zebra")
    assert [record.labels.tolist() for record in dataset.records] == [[0], [0], []]
    assert [len(record.boxes) for record in dataset.records] == [1, 1, 0]
    (message,) = caplog.messages
    assert message.endswith("train: objects of classes that were not chosen are left out: dog (1)")


def test_classes_given_twice(root: Path) -> None:
    with pytest.raises(UserError, match="differ"):
        read_voc(root, "train", ["cat", "dog", "cat"])


def test_boxes_outside_are_clipped_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(root, "a", "cat", "cat", boxes=[[-1, 0, 10, 20], [50, 50, 120, 80]])
    assert read_voc(root, "test").records[0].boxes.tolist() == [[0, 0, 10, 20], [50, 50, 100, 80]]
    assert len(caplog.messages) == 1
    assert "2 boxes in 1 images" in caplog.text
    assert "a.xml: object 1 (cat)" in caplog.text


def test_box_wholly_outside_is_named(root: Path) -> None:
    make(root, "a", "cat", boxes=[[150, 0, 160, 20]])
    with pytest.raises(UserError, match=r"a\.xml: object 1 \(cat\) lies outside the 100x80 image"):
        read_voc(root, "test")


def test_missing_annotation_is_named(root: Path) -> None:
    make_split(root, "test", "a\nghost\n")
    with pytest.raises(UserError, match=r"ghost\.xml: no such file, but split 'test' lists 'ghost'"):
        read_voc(root, "test")


def test_missing_or_broken_image_is_left_to_whoever_decodes_it(root: Path) -> None:
    (root / "JPEGImages/a.jpg").unlink()
    (root / "JPEGImages/b.jpg").write_bytes(b"broken")
    assert [record.path.name for record in read_voc(root, "train").records] == ["b.jpg", "a.jpg", "none.jpg"]


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    "text",
    [
        "b\na\n",
        "b\na",
        "\r\nb\r\n\r\na\r\n",
        "  b \n\ta\n",
        b"\xef\xbb\xbfb\na\n",
        "b  1\na  0\nnone -1\n",
        "b 1\na\n",
    ],
    ids=["plain", "no last newline", "CRLF", "spaces", "byte order mark", "flags", "mixed"],
)
def test_forms_of_a_split(root: Path, text: str | bytes) -> None:
    make_split(root, "odd", text)
    assert read_split(root, "odd") == ["b", "a"]


def test_lists_of_one_class_alone_are_splits_of_all_their_images(root: Path) -> None:
    (root / "ImageSets/Main/train.txt").unlink()
    make_split(root, "cat_train", "b.jpg 1\r\na.jpg -1")
    make_split(root, "big dog_train", "none -1\nb 0\n")
    assert read_split(root, "train") == ["none", "b", "a"]
    assert read_split(root, "cat_train") == ["b"]
    assert split_names(root) == ["test", "train"]
    with pytest.raises(UserError, match=r"no such split; those of .* are: big dog_train, cat_train, test"):
        read_split(root, "val")
    make_split(root, "dog_val", "../a 1\n")
    with pytest.raises(UserError, match=r"dog_val\.txt: line 1 leads out"):
        read_split(root, "val")


def test_id_that_ends_like_a_flag(root: Path) -> None:
    make(root, "photo 1", "cat")
    make(root, "photo -1", "cat")
    make_split(root, "odd", "photo 1\nphoto -1\nphoto 1 1\na 1\n")
    assert read_split(root, "odd") == ["photo 1", "photo -1", "a"]


def test_lines_may_have_the_suffix_of_the_photo(root: Path) -> None:
    make_split(root, "tools", "b.jpg\na.JPG 1\nnone.png -1\n")
    assert read_split(root, "tools") == ["b", "a"]
    make(root, "b.jpg", "cat")  # an id may well end like that
    assert read_split(root, "tools") == ["b.jpg", "a"]


def test_a_list_that_lies_elsewhere_is_a_split(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "held_out" / "test.txt"
    listed.parent.mkdir()
    listed.write_text("none\nb\n")
    assert [record.image_id for record in read_voc(root, str(listed)).records] == ["none", "b"]


@pytest.mark.parametrize("stated", ["b.png", "b.jpg"])
def test_of_two_photos_the_stated_one_is_taken(root: Path, stated: str, caplog) -> None:
    Image.new("RGB", (100, 80)).save(root / "JPEGImages/b.png")
    text = annotation_xml(stated, 100, 80, as_boxes([[0, 0, 10, 20]]), ["dog"])
    (root / "Annotations/b.xml").write_text(text)
    assert read_voc(root, "train").records[0].path.name == stated
    assert not caplog.messages


def test_words_for_difficult_are_counted_and_the_first_is_named(root: Path, caplog) -> None:
    for image_id in ("a", "b"):
        path = root / f"Annotations/{image_id}.xml"
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>Unspecified"))
    assert not read_voc(root, "train").records[0].difficult.any()
    (message,) = caplog.messages
    assert "<difficult> of 3 objects is neither yes nor no" in message
    assert message.endswith(f"the first is 'unspecified' in {root / 'Annotations/b.xml'}")


def test_flag_without_meaning(root: Path) -> None:
    make_split(root, "odd", "a\nb 7\n")
    with pytest.raises(UserError, match=r"odd\.txt: line 2 is neither .*'b 7'"):
        read_split(root, "odd")


def test_id_listed_twice_is_read_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_split(root, "odd", "a\nb\na\n")
    assert read_split(root, "odd") == ["a", "b"]
    assert "line 3 lists 'a' again" in caplog.text


@pytest.mark.parametrize("image_id", ["../a", "x/../../a", "/etc/passwd", "C:\\a"])
def test_ids_that_lead_out_are_refused(root: Path, image_id: str) -> None:
    make_split(root, "odd", f"a\n{image_id}\n")
    with pytest.raises(UserError, match="line 2 leads out of the data set"):
        read_split(root, "odd")


def test_ids_in_subfolders(root: Path) -> None:
    make(root, "2012/x", "cat")
    make_split(root, "odd", "2012/x\n")
    record = read_voc(root, "odd").records[0]
    assert record.image_id == "2012/x"
    assert record.path == root / "JPEGImages/2012/x.jpg"


@pytest.mark.parametrize("text", ["", "\n\n", "a -1\n"])
def test_split_that_lists_nothing(root: Path, text: str) -> None:
    make_split(root, "odd", text)
    with pytest.raises(UserError, match="lists no images"):
        read_split(root, "odd")


def test_split_that_is_no_text(root: Path) -> None:
    make_split(root, "odd", b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="not a readable text file"):
        read_split(root, "odd")


def test_missing_split_names_those_that_exist(root: Path) -> None:
    with pytest.raises(UserError, match=r"trainval\.txt: no such split; those of .* are: test, train$"):
        read_voc(root, "trainval")


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: not a Pascal VOC data set"):
        read_voc(tmp_path / "nowhere", "train")


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("name", ["x.jpg", "x.JPG", "x.png", "x.webp", "x.TIFF", "x"])
def test_image_of_an_id(tmp_path: Path, name: str) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages" / name).touch()
    assert find_image(tmp_path, "x") == tmp_path / "JPEGImages" / name


def test_image_by_the_name_that_the_annotation_gives(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/photo.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    wanted = {
        "photo.jpg": "photo.jpg",
        "../secret.jpg": "x.jpg",
        str(tmp_path / "secret.jpg"): "x.jpg",
        "no.jpg": "x.jpg",
    }
    for file_name, found in wanted.items():
        assert find_image(tmp_path, "x", file_name) == tmp_path / "JPEGImages" / found


def test_dots_in_an_id_are_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/v1.2.png").touch()
    assert find_image(tmp_path, "v1.2").name == "v1.2.png"


# ---------------------------------------------------------------- writing


def same(a: Dataset, b: Dataset) -> bool:
    return a.classes == b.classes and all(
        x.image_id == y.image_id
        and x.path == y.path
        and x.size == y.size
        and all(np.array_equal(getattr(x, key), getattr(y, key)) for key in ("boxes", "labels", "difficult"))
        for x, y in zip(a.records, b.records, strict=True)
    )


def test_writing_gives_the_same_data_set_back(tmp_path: Path) -> None:
    records = []
    for image_id, count in (("x", 2), ("sub/y", 0), ("z.jpg", 1)):
        path = tmp_path / "JPEGImages" / (image_id if image_id.endswith(".jpg") else f"{image_id}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(path)
        boxes = as_boxes([[3, 4, 50, 60], [0, 0, 100, 80]][:count])
        flags = np.array([True, False][:count], np.bool_)
        labels = np.array([1, 0][:count], np.int64)
        records.append(Record(image_id, path, boxes, labels, flags, np.zeros(count, np.bool_), (100, 80)))
    dataset = Dataset(("cat", "dog & <bird>"), records)
    write_voc(dataset, tmp_path, "train")
    assert same(read_voc(tmp_path, "train", dataset.classes), dataset)


def test_crowds_become_difficult_and_the_size_comes_from_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    no = np.zeros(1, np.bool_)
    record = Record("x", tmp_path / "x.png", as_boxes([[0, 0, 5, 5]]), np.zeros(1, np.int64), no, ~no, None)
    write_annotation(tmp_path / "x.xml", record, ["cat"])
    found = read_annotation(tmp_path / "x.xml")
    assert found.difficult.tolist() == [True]
    assert found.size == (30, 20)
    assert found.file_name == "x.png"


def test_nothing_is_written_outside_the_root(tmp_path: Path) -> None:
    no = np.zeros(0, np.bool_)
    record = Record("../x", tmp_path / "x.jpg", as_boxes([]), np.zeros(0, np.int64), no, no, (5, 5))
    with pytest.raises(UserError, match=r"'\.\./x' cannot be written"):
        write_voc(Dataset(("cat",), [record]), tmp_path / "root", "train")
    assert not list(tmp_path.rglob("*.xml"))
