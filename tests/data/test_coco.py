"""COCO instances files: read, refused, written, and understood by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spp_det.boxes import as_boxes
from spp_det.data.classes import choose_classes
from spp_det.data.coco import coco_instances, instances_of, read_coco, xywh
from spp_det.data.coco_file import load_instances
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError


def instances() -> dict[str, Any]:
    return {
        "images": [
            {"id": 42, "file_name": "b.jpg", "width": 100, "height": 80},
            {"id": 7, "file_name": "sub/a.jpg", "width": 100, "height": 80},
            {"id": 0, "file_name": "none.jpg"},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat", "supercategory": "animal"}],
        "annotations": [
            {"id": 900, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20], "area": 55.5, "iscrowd": 0},
            {"id": 5, "image_id": 42, "category_id": 18, "bbox": [0.5, 0.25, 3.5, 4], "iscrowd": 1},
            {"id": 6, "image_id": 42, "category_id": 3, "bbox": [0, 0, 100, 80]},
        ],
    }


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


# ---------------------------------------------------------------- reading


def test_reads_ids_boxes_and_flags(tmp_path: Path) -> None:
    dataset = read_coco(write(tmp_path, instances()))
    assert dataset.classes == ("dog", "cat")
    assert dataset.category_ids == (18, 3)
    assert dataset.coco_ids == (42, 7, 0)
    first, second, last = dataset.records
    assert [record.image_id for record in dataset.records] == ["b.jpg", "sub/a.jpg", "none.jpg"]
    assert first.boxes.tolist() == [[0.5, 0.25, 4, 4.25], [0, 0, 100, 80]]
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [0, 1]
    assert first.labels.dtype == np.int64
    assert first.crowd.tolist() == [True, False]
    assert not first.difficult.any()
    assert first.size == (100, 80)
    assert second.path == tmp_path / "sub/a.jpg"
    assert last.boxes.shape == (0, 4)
    assert last.size is None


def test_images_root(tmp_path: Path) -> None:
    dataset = read_coco(str(write(tmp_path, instances())), tmp_path / "val2017")
    assert dataset.records[0].path == tmp_path / "val2017/b.jpg"


def test_box_that_reaches_outside_is_clipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = instances()
    content["annotations"][0]["bbox"] = [90, 2, 20, 20]
    assert read_coco(write(tmp_path, content)).records[1].boxes.tolist() == [[90, 2, 100, 22]]
    assert "1 boxes in 1 images" in caplog.text
    assert "annotation 900 (cat)" in caplog.text


def test_box_that_overshoots_by_its_decimals_is_clipped_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = instances()
    content["annotations"][0]["bbox"] = [90, 2, 10.01, 20]
    assert read_coco(write(tmp_path, content)).records[1].boxes.tolist() == [[90, 2, 100, 22]]
    assert not caplog.records


@pytest.mark.parametrize("bbox", [[5, 5, 0, 4], [5, 5, 4, 0.0], [90, 5, 1e-9, 4]])
def test_box_without_area_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bbox: list[float]
) -> None:
    content = instances()
    content["annotations"][1]["bbox"] = bbox
    record = read_coco(write(tmp_path, content)).records[0]
    assert record.boxes.tolist() == [[0, 0, 100, 80]]
    assert record.crowd.tolist() == [False]
    assert "1 boxes without area were dropped" in caplog.text
    assert "annotation 5" in caplog.text


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (("annotations", 0), {"bbox": [1, 2, -3, 4]}, "annotation 900 has bbox [1, 2, -3, 4], whose width"),
        (("annotations", 0), {"bbox": [1, 2, 3]}, "annotations[0]: bbox must be four finite numbers"),
        (("annotations", 0), {"bbox": "1 2 3 4"}, "annotations[0]: bbox must be four finite numbers"),
        (("annotations", 0), {"bbox": None}, "annotations[0]: bbox must be four finite numbers"),
        (("annotations", 0), {"bbox": [1, 2, float("nan"), 4]}, "annotations[0]: bbox must be"),
        (("annotations", 0), {"bbox": [1, 2, float("inf"), 4]}, "annotations[0]: bbox must be"),
        (("annotations", 0), {"bbox": [1, 2, 10**400, 4]}, "annotations[0]: bbox must be"),
        (("annotations", 0), {"bbox": [1, 2, True, 4]}, "annotations[0]: bbox must be"),
        (("annotations", 0), {"bbox": [1, 2, 2**25, 4]}, "annotation 900 has a bbox of more than"),
        (("annotations", 0), {"bbox": [200, 2, 5, 5]}, "annotation 900 (cat) lies outside the 100x80 image"),
        (("annotations", 0), {"category_id": "3"}, "annotations[0]: some ids are numbers and some are text"),
        (("annotations", 0), {"image_id": "7"}, "annotations[0]: some ids are numbers and some are text"),
        (("annotations", 0), {"image_id": None}, "annotations[0]: image_id must be a whole number or a text"),
        (("images", 1), {"id": 42}, "images: the id 42 occurs more than once"),
        (("images", 1), {"id": 42.0}, "images: the id 42 occurs more than once"),
        (("images", 1), {"id": True}, "images[1]: id must be a whole number or a text, got True"),
        (("images", 1), {"id": 1.5}, "images[1]: id must be a whole number or a text, got 1.5"),
        (("images", 1), {"id": "7"}, "images: some ids are numbers and some are text"),
        (("images", 1), {"file_name": "b.jpg"}, "image 7 has the file_name of another image"),
        (("images", 1), {"file_name": "../b.jpg"}, "image 7 has the file_name of another image"),
        (("images", 1), {"file_name": None}, "image 7 has file_name None, which is not a text"),
        (
            ("images", 1),
            {"file_name": "a\0.jpg"},
            "image 7 has file_name 'a\\x00.jpg', which no file can have",
        ),
        (("categories", 1), {"name": "dog"}, "two categories have the name 'dog'"),
        (("categories", 1), {"name": 3}, "category 3 has name 3, which is not a text"),
        (("categories", 1), {"id": 18}, "categories: the id 18 occurs more than once"),
    ],
)
def test_bad_entry_is_named(
    tmp_path: Path, where: tuple[str, int], change: dict[str, object], message: str
) -> None:
    content = instances()
    content[where[0]][where[1]].update(change)
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_coco(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('[{"image_id": 1, "score": 0.5}]', "a JSON list, as detections do"),
        ("3", "must be a JSON object with images, annotations and categories"),
        ('{"images": [], "categories": []}', "has no list of annotations"),
        ('{"images": [], "categories": {}, "annotations": []}', "has no list of categories"),
        ('{"images": [3], "categories": [], "annotations": []}', "images[0]: must be a JSON object, got int"),
    ],
)
def test_other_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_coco(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances\.json: no such file"):
        read_coco(tmp_path / "instances.json")


def test_ids_may_be_whole_floats_or_text_and_sizes_floats_or_unknown(tmp_path: Path) -> None:
    expected = read_coco(write(tmp_path, instances()))
    for kind in (float, str):
        content = instances()
        for key, names in (("images", ["id"]), ("annotations", ["image_id"])):
            for entry in content[key]:
                entry.update({name: kind(entry[name]) for name in names})
        content["images"][0].update(width=100.0, height=80.0)
        content["images"][1].update(width="100", height=None)
        found = read_coco(write(tmp_path, content))
        assert found.coco_ids == tuple(map(str, expected.coco_ids) if kind is str else expected.coco_ids)
        assert [record.size for record in found.records] == [(100, 80), None, None]
        for one, other in zip(found.records, expected.records, strict=True):
            assert np.array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([{"image_id": 99}, {}, {"image_id": 98}], "2 annotations are of images or categories"),
        ([{"category_id": 1}, {}, {}], "1 annotations are of images or categories"),
        ([{}, {"id": 900}, {}], "numbered anew, the first is annotations[1], whose id is 900"),
        ([{}, {}, {"id": None}], "numbered anew, the first is annotations[2], whose id is None"),
        (
            [{"id": "a"}, {"id": "b"}, {"id": "c"}],
            "numbered anew, the first is annotations[0], whose id is 'a'",
        ),
    ],
)
def test_one_warning_for_strangers_and_for_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: list[dict[str, Any]], said: str
) -> None:
    content = instances()
    for entry, change in zip(content["annotations"], changes, strict=True):
        entry.update(change)
    dataset = read_coco(write(tmp_path, content))
    (warning,) = caplog.messages
    assert said in warning
    strangers = sum("image_id" in change or "category_id" in change for change in changes)
    assert sum(map(len, dataset.records)) == 3 - strangers


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(path)
    return path


def test_an_absolute_path_inside_is_taken_and_one_photo_of_the_name_for_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = instances()
    content["images"][0]["file_name"] = str(photo(tmp_path / "b.jpg"))
    elsewhere = photo(tmp_path / "deep/er/a.jpg")
    for stated in ("../a.jpg", "/data/upload/a.jpg", "C:\\data\\a.jpg", "images/a.jpg"):
        caplog.clear()
        content["images"][1]["file_name"] = stated
        first, second, _ = read_coco(write(tmp_path, content)).records
        assert (first.path, second.path, second.image_id) == (tmp_path / "b.jpg", elsewhere, "deep/er/a.jpg")
        (warning,) = caplog.messages
        assert (
            f"1 photos do not lie where their file_name says and were found by name, the first is {stated!r}"
            in warning
        )
    content["images"][0]["file_name"] = "deep/er/a.jpg"  # its own photo is not another image's
    assert read_coco(write(tmp_path, content)).records[1].path == tmp_path / "images/a.jpg"
    content["images"][0]["file_name"] = "b.jpg"
    photo(tmp_path / "other/a.jpg")
    with pytest.raises(
        UserError, match=r"'images/a.jpg' leads to no file, and two .*deep/er/a.jpg and .*other/a.jpg: write"
    ):
        read_coco(write(tmp_path, content))


def test_the_part_of_a_file_that_is_of_a_data_set(tmp_path: Path) -> None:
    content = load_instances(write(tmp_path, instances()))
    dataset = choose_classes(read_coco(write(tmp_path, instances())), ["cat"], "x")
    part = instances_of(content, dataset)
    assert [entry["id"] for entry in part["categories"]] == [3]
    assert [entry["id"] for entry in part["annotations"]] == [900, 6]
    assert part["annotations"][0]["area"] == 55.5
    assert len(part["images"]) == 3


# ---------------------------------------------------------------- writing

edge = st.integers(0, 1000)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    records = []
    for number in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 4))
        corners = [[sorted((draw(edge), draw(edge))) for _ in range(2)] for _ in range(count)]
        boxes = as_boxes([[x1, y1, x2 + 1, y2 + 1] for (x1, x2), (y1, y2) in corners])
        difficult = np.array([draw(st.booleans()) for _ in range(count)], np.bool_)
        crowd = np.array([draw(st.booleans()) for _ in range(count)], np.bool_) & ~difficult
        labels = np.array([draw(st.integers(0, 1)) for _ in range(count)], np.int64)
        name = f"folder/{number}.jpg"
        records.append(Record(name, Path(name), boxes, labels, difficult, crowd, (1001, 1001)))
    ids = draw(st.lists(st.integers(0, 10**6), min_size=len(records), max_size=len(records), unique=True))
    return Dataset(("cat", "dog"), records, (18, 3), tuple(ids))


@given(datasets())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> None:
    path = write(tmp_path_factory.mktemp("round_trip"), coco_instances(dataset))
    found = read_coco(path)
    assert found.classes == dataset.classes
    assert found.category_ids == dataset.category_ids
    if dataset.records:
        assert found.coco_ids == dataset.coco_ids
    for a, b in zip(found.records, dataset.records, strict=True):
        assert (a.image_id, a.size) == (b.image_id, b.size)
        for key in ("boxes", "labels", "difficult", "crowd"):
            assert np.array_equal(getattr(a, key), getattr(b, key))
            assert getattr(a, key).dtype == getattr(b, key).dtype


def one_record(path: Path, difficult: bool = False, size: tuple[int, int] | None = (100, 80)) -> Dataset:
    boxes = as_boxes([[10, 10, 30, 50], [50, 10, 70, 50]])
    flags = np.array([False, difficult], np.bool_)
    labels, no = np.zeros(2, np.int64), np.zeros(2, np.bool_)
    return Dataset(("cat",), [Record("000005", path, boxes, labels, flags, no, size)])


def test_voc_ids_get_their_suffix_back() -> None:
    content = coco_instances(one_record(Path("root/JPEGImages/000005.png")))
    assert content["images"] == [{"id": 1, "file_name": "000005.png", "width": 100, "height": 80}]


def test_sizes_are_those_given_or_stated_or_the_images_own(tmp_path: Path) -> None:
    Image.new("RGB", (33, 22)).save(tmp_path / "000005.png")
    dataset = one_record(tmp_path / "000005.png", size=None)
    assert coco_instances(dataset)["images"][0]["width"] == 33
    assert coco_instances(dataset, [(5, 6)])["images"][0]["height"] == 6
    with pytest.raises(ValueError, match="zip"):
        coco_instances(dataset, [])


def test_difficult_objects_are_left_out_of_the_count_by_pycocotools() -> None:
    content = coco_instances(one_record(Path("000005.jpg"), difficult=True))
    first, second = content["annotations"]
    assert (first["iscrowd"], "ignore" in first) == (0, False)
    assert (second["iscrowd"], second["ignore"]) == (1, 1)
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        found = truth.loadRes(
            [
                {"image_id": 1, "category_id": 1, "bbox": first["bbox"], "score": 0.5},
                {"image_id": 1, "category_id": 1, "bbox": second["bbox"], "score": 0.9},
            ]
        )
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    assert evaluation.stats[8] == pytest.approx(1.0)


@given(*[st.floats(0, 3000, width=32)] * 4)
def test_the_corners_of_a_bbox_are_the_same_float32(x1: float, y1: float, x2: float, y2: float) -> None:
    corners = [float(str(np.float32(value))) for value in (*sorted((x1, x2)), *sorted((y1, y2)))]
    x, y, width, height = xywh((corners[0], corners[2], corners[1], corners[3]))
    np.testing.assert_array_equal(np.float32([x, x + width, y, y + height]), np.float32(corners))


def test_a_bbox_is_as_short_as_it_can_be() -> None:
    assert xywh((3.3, 0.0, 60.123, 70.9)) == [3.3, 0.0, 56.823, 70.9]
