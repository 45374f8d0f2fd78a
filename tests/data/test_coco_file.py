"""COCO's ground truth as many tools write it, in one form."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from spp_det.data.coco_file import load_instances, load_json, regular_instances
from spp_det.errors import UserError


def instances(**changes: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80},
            {"id": 2, "file_name": "b.jpg"},
        ],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4.5]},
        ],
    } | changes


def annotations(*changes: dict[str, Any]) -> dict[str, Any]:
    content = instances()
    for entry, change in zip(content["annotations"], changes, strict=False):
        entry.update(change)
    return content


def regular(content: Any) -> dict[str, Any]:
    before = copy.deepcopy(content)
    found = regular_instances(content, "truth")
    assert content == before
    return found


def test_what_is_regular_stays_and_flags_are_filled_in(caplog):
    found = regular(instances(info={"year": 2026}))
    assert found["info"] == {"year": 2026}
    assert [entry["iscrowd"] for entry in found["annotations"]] == [0, 0]
    assert [entry.get("area") for entry in found["annotations"]] == [9.5, None]
    assert [(entry["width"], entry["height"]) for entry in found["images"]] == [(100, 80), (None, None)]
    assert not caplog.messages


@pytest.mark.parametrize("kind", [float, str, lambda number: f"kangaroo_{number}"])
def test_ids_are_numbers_or_text(kind, caplog):
    content = annotations(
        {"image_id": kind(1), "category_id": kind(7)}, {"image_id": kind(2), "category_id": kind(7)}
    )
    for entry in (*content["images"], *content["categories"]):
        entry["id"] = kind(entry["id"])
    found = regular(content)
    known = {entry["id"] for entry in found["images"]}
    assert known == {int(kind(1)), int(kind(2))} if kind is float else {kind(1), kind(2)}
    assert all(entry["image_id"] in known for entry in found["annotations"])
    assert len(found["annotations"]) == 2
    assert not caplog.messages


@pytest.mark.parametrize(
    ("flag", "value"), [(0, 0), (1, 1), (True, 1), (False, 0), (None, 0), (1.0, 1), (0.0, 0)]
)
def test_flags_are_numbers_truth_values_or_nothing(flag, value):
    found = regular(annotations({"iscrowd": flag, "ignore": flag}))["annotations"][0]
    assert (found["iscrowd"], found["ignore"]) == (value, value)
    assert type(found["iscrowd"]) is int


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ({"width": 200.0, "height": 100}, (200, 100)),
        ({"width": "200", "height": 100}, (None, None)),
        ({"width": 200}, (None, None)),
        ({"width": 0, "height": 0}, (None, None)),
        ({"width": 200.5, "height": 100}, (None, None)),
        ({"width": 1e300, "height": 100}, (None, None)),
        ({"width": True, "height": True}, (None, None)),
    ],
)
def test_a_size_is_told_in_whole_numbers_or_not_told(size, told):
    image = regular(instances(images=[{"id": 1} | size, {"id": 2}]))["images"][0]
    assert (image["width"], image["height"]) == told


@pytest.mark.parametrize("area", ["large", None, float("nan"), -1, 10**400, [3]])
def test_an_area_that_is_none_is_the_box_s(area):
    assert "area" not in regular(annotations({"area": area}))["annotations"][0]


@pytest.mark.parametrize("ids", [(None, None), (5, 5), (-1, 1), ("a", "b"), (1, None), (10**400, 10**400)])
def test_annotations_without_ids_of_their_own_are_numbered_anew_in_one_warning(ids, caplog):
    found = regular(annotations(*({"id": each} for each in ids)))
    assert [entry["id"] for entry in found["annotations"]] == [1, 2]
    assert len(caplog.messages) == 1
    assert "so all are numbered anew, the first is annotations[" in caplog.text


def test_annotations_whose_ids_count_from_0_are_numbered_anew_without_a_word(caplog):
    found = regular(annotations({"id": 1}, {"id": 0}))
    assert [entry["id"] for entry in found["annotations"]] == [1, 2]
    assert not caplog.messages


def test_annotations_of_unknown_images_and_categories_are_left_out_in_one_warning(caplog):
    found = regular(annotations({"image_id": 99}, {"category_id": 98}))
    assert found["annotations"] == []
    assert caplog.messages == [
        "truth: 2 annotations are of images or categories that the file does not list and are left out, the "
        "first is annotations[0], image_id 99"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "truth: holds a JSON list, as detections do; annotations are a JSON object"),
        ("x", "truth: must be a JSON object"),
        ({"images": []}, "truth: has no list of categories"),
        (instances(images={}), "truth: has no list of images"),
        (instances(annotations=None), "truth: has no list of annotations"),
        (instances(images=[7]), r"truth: images\[0\]: must be a JSON object, got int"),
        (
            instances(images=[{"file_name": "a"}]),
            r"truth: images\[0\]: id must be a whole number or a text, got None",
        ),
        (instances(images=[{"id": 1}, {"id": 1.0}]), "truth: images: the id 1 occurs more than once"),
        (instances(images=[{"id": 1}, {"id": "1"}]), "truth: images: some ids are numbers and some are text"),
        (instances(categories=[{"id": True}]), r"truth: categories\[0\]: id must be a whole number"),
        (
            annotations({"image_id": 1.5}),
            r"truth: annotations\[0\]: image_id must be a whole number or a text",
        ),
        (annotations({"bbox": [1, 2, 3]}), r"annotations\[0\]: bbox must be four finite numbers"),
        (annotations({"bbox": [1, 2, 3, float("inf")]}), "bbox must be four finite numbers"),
        (annotations({"bbox": [1, 2, 3, True]}), "bbox must be four finite numbers"),
        (annotations({"bbox": [1, 2, 3, 10**400]}), "bbox must be four finite numbers"),
        (annotations({"bbox": "x" * 5_000_000}), "bbox must be four finite numbers"),
        (annotations({"iscrowd": 2}), r"annotations\[0\]: iscrowd must be 0 or 1, got 2"),
        (annotations({"ignore": "no"}), "ignore must be 0 or 1, got 'no'"),
    ],
)
def test_what_is_malformed_is_named_in_one_short_line(content, message):
    with pytest.raises(UserError, match=message) as caught:
        regular(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_may_begin_with_a_mark(tmp_path):
    path = tmp_path / "truth.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(instances()).encode())
    assert len(load_instances(path)["annotations"]) == 2


@pytest.mark.parametrize("text", ["{", "", '{"a": ' + "9" * 5000 + "}", "[" * 100_000])
def test_text_that_is_no_json_is_one_line(tmp_path, text):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not JSON") as caught:
        load_json(path)
    assert len(str(caught.value)) < 400
