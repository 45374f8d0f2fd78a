"""YOLO data sets: read, refused, written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.records import Dataset, Record
from spp_det.data.yolo import ends_of, label_line, photo_name, read_yolo, write_yolo
from spp_det.errors import UserError


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes, a photo of 200x100 pixels beside an empty label file and one without any."""
    for name in ("a", "b", "c"):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "b.txt").write_text("\n")
    return tmp_path


def label(root: Path, text: str) -> None:
    (root / "a.txt").write_text(text, encoding="utf-8")


def boxes(root: Path) -> list[list[float]]:
    return read_yolo(root).records[0].boxes.tolist()


def test_a_photo_and_its_boxes(root):
    label(root, "\ufeff1 0.5 0.5 0.25 0.5\r\n0.0 0.1 0.1 0.2 0.2\n")
    dataset = read_yolo(root)
    first, second = dataset.records
    assert dataset.classes == ("cat", "dog")
    assert (first.image_id, first.path, first.size) == ("a.jpg", root / "a.jpg", (200, 100))
    assert first.boxes.tolist() == [[75, 25, 125, 75], [0, 0, 40, 20]]
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [1, 0]
    assert not first.difficult.any()
    assert second.boxes.shape == (0, 4)


def test_photos_without_a_label_file_are_left_out_and_counted(root, caplog):
    label(root, "0 0.5 0.5 0.2 0.2\n")
    assert [record.image_id for record in read_yolo(root).records] == ["a.jpg", "b.jpg"]
    assert "1 photos have no label file and are left out, the first is" in caplog.text
    assert "c.jpg" in caplog.text


def test_in_a_split_they_are_photos_without_objects(root):
    label(root, "0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("names: [cat, dog]\ntrain: list.txt\n")
    (root / "list.txt").write_text("c.jpg\na.jpg\n")
    assert [(record.image_id, len(record)) for record in read_yolo(root, "train").records] == [
        ("c.jpg", 0),
        ("a.jpg", 1),
    ]


def test_no_label_file_at_all_is_an_error(root):
    (root / "b.txt").unlink()
    with pytest.raises(UserError, match="none of its 3 photos has a label file"):
        read_yolo(root)


def test_a_polygon_is_its_bounding_box(root):
    label(root, "0 0.1 0.2 0.5 0.1 0.3 0.9\n")
    assert boxes(root) == [[20, 10, 100, 90]]


def test_a_score_is_not_used_and_said(root, caplog):
    label(root, "0 0.5 0.5 0.25 0.5 0.93\n0 0.5 0.5 0.25 0.5 0.5\n")
    assert boxes(root) == [[75, 25, 125, 75]] * 2
    assert "2 boxes have a score, which is not used, the first is" in caplog.text
    assert "a.txt: line 1" in caplog.text


def test_a_box_without_area_is_left_out_and_said(root, caplog):
    label(root, "0 0.5 0.5 0 0.5\n1 0.5 0.5 0.5 0.5\n")
    assert len(boxes(root)) == 1
    assert "1 boxes have no area and were left out, the first is" in caplog.text


def test_a_box_that_reaches_outside_is_clipped_and_said(root, caplog):
    label(root, "0 0.0 0.5 0.5 0.5\n")
    assert boxes(root) == [[0, 25, 50, 75]]
    assert "a.txt: line 1 (cat)" in caplog.text


def test_the_size_is_that_of_the_photo_turned_upright(root):
    image, exif = Image.new("RGB", (200, 100)), Image.Exif()
    exif[0x0112] = 6
    image.save(root / "a.jpg", exif=exif)
    label(root, "0 0.5 0.5 0.5 0.5\n")
    assert read_yolo(root).records[0].size == (100, 200)
    assert boxes(root) == [[25, 50, 75, 150]]


def test_a_damaged_photo_is_left_to_whoever_decodes_it(root):
    label(root, "0 0.5 0.5 0.5 0.5\n")
    (root / "a.jpg").write_bytes(b"no image")
    first = read_yolo(root).records[0]
    assert (first.size, first.boxes.shape) == (None, (0, 4))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "there are 3 numbers after the class"),
        ("0 0.1 0.2 0.5 0.1 0.3 0.9 0.4", "there are 7 numbers after the class"),
        ("0 0.5 0.5 -0.2 0.2", "width or height is negative"),
        ("0 0.5 0.5 nan 0.2", "fractions of the photo"),
        ("0 0.5 0.5 1e300 0.2", "fractions of the photo"),
        ("0 x 0.5 0.2 0.2", "wanted are numbers alone"),
        ("2 0.5 0.5 0.2 0.2", r"class 2 has no name in .*classes.txt \(0 to 1\)"),
        ("-1 0.5 0.5 0.2 0.2", "class -1 has no name"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5 has no name"),
        ("nan 0.5 0.5 0.2 0.2", "class nan has no name"),
        ("0 3 3 0.2 0.2", r"line 2 \(cat\) lies outside"),
        (f"0 {'9' * 5000} 1 1 1", "fractions of the photo"),
    ],
)
def test_a_line_that_is_no_label_is_named(root, line, message):
    label(root, f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_yolo(root)
    assert "a.txt: line 2" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_bytes_that_are_no_text_are_named(root):
    (root / "a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match=r"a\.txt: not a readable text file"):
        read_yolo(root)


# ---------------------------------------------------------------- writing


def one(root: Path, image_id: str = "a") -> Record:
    no = np.zeros(2, np.bool_)
    found = as_boxes([(0, 0, 200, 100), (12.25, 3.5, 60.125, 99)])
    return Record(image_id, root / "a.jpg", found, np.array([1, 0]), no, no, (200, 100))


def test_what_is_written_is_read(root, tmp_path):
    out = tmp_path / "out"
    photos = [one(root), replace(one(root, "deep/b.jpg"), boxes=as_boxes([]), labels=np.zeros(0, np.int64))]
    for split in ("val", "train"):
        for record in photos:
            to = out / "images" / split / photo_name(record)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(record.path.read_bytes())
        write_yolo(Dataset(("cat", "dog"), photos), out, split)
    for split in ("train", "val"):
        dataset = read_yolo(out, split)
        first, second = dataset.records
        assert dataset.classes == ("cat", "dog")
        assert [record.image_id for record in dataset.records] == [
            f"images/{split}/a.jpg",
            f"images/{split}/deep/b.jpg",
        ]
        np.testing.assert_array_equal(first.boxes, photos[0].boxes)
        assert first.labels.tolist() == [1, 0]
        assert len(second) == 0
    assert (out / "classes.txt").read_text() == "cat\ndog\n"
    assert (out / "data.yaml").read_text().startswith("path: .\ntrain: images/train\nval: images/val\n")


def test_an_id_that_leads_out_is_not_written(root, tmp_path):
    with pytest.raises(UserError, match="leads out"):
        write_yolo(Dataset(("cat", "dog"), [one(root, "../a")]), tmp_path / "out", "train")
    assert not (tmp_path / "out").exists()


coordinate = st.floats(0, 5000, width=32, allow_subnormal=False)


@given(st.tuples(coordinate, coordinate), st.integers(1, 5000))
def test_fractions_give_float32_corners_back(ends, side):
    low, high = sorted(ends)
    _, x, _, w, _ = map(float, label_line(0, (low, 0, high, 1), (side, 1)).split())
    back = ends_of(x, w, side)
    assert np.float32(back[1]) == np.float32(high)
    assert abs(back[0] - low) <= 4e-7 * high
