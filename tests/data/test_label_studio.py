"""Label Studio's JSON: an export by hand, tasks that come back as they went, and damage in one line."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from spp_det.data.corrected import Labelled
from spp_det.data.label_studio import labelling_config, read_label_studio, task
from spp_det.errors import UserError


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (200, 100)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def box(x=10.0, y=20.0, width=50.0, height=40.0, label="cat", **value):
    return {
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "value": {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "rotation": 0,
            "rectanglelabels": [label],
            **value,
        },
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
    }


def exported(name: str, *annotations, **more):
    return {"id": 5, "data": {"image": f"/data/upload/1/deadbeef-{name}"}, "annotations": annotations, **more}


def done(*results, skipped=False):
    return {"id": 1, "was_cancelled": skipped, "result": list(results)}


def read(tasks, photos):
    path = photos.parent / "project.json"
    path.write_text(json.dumps(tasks))
    return read_label_studio(path, photos)


def test_an_export_by_hand(photos, caplog):
    tasks = [
        exported("a.jpg", done(box()), done(box(), box(label="dog", x=0)), done(skipped=True)),
        exported("b.jpg", done()),
        exported("c.jpg", predictions=[{"result": [box()]}]),
    ]
    dataset = read(tasks, photos)
    assert dataset.classes == ("cat", "dog")
    assert [record.image_id for record in dataset.records] == ["a.jpg", "b.jpg"]
    np.testing.assert_allclose(dataset.records[0].boxes, [[20, 20, 120, 60], [0, 20, 100, 60]], atol=1e-4)
    assert dataset.records[0].labels.tolist() == [0, 1]
    assert len(dataset.records[1]) == 0
    assert "1 tasks without an annotation are left out" in caplog.text


def test_tasks_that_are_accepted_as_they_are_come_back(photos):
    boxes, classes = [(1.25, 2.5, 50, 60), (0, 0, 200, 100)], ["cat", "dog & co"]
    made = json.loads(task(Labelled("a", "a.jpg", (200, 100), boxes, classes), [0.9, 0.5], "model 1"))
    (prediction,) = made["predictions"]
    assert made["data"]["image"] == "/data/local-files/?d=a.jpg"
    assert prediction["model_version"] == "model 1"
    assert prediction["score"] == pytest.approx(0.7)
    assert [each["score"] for each in prediction["result"]] == [0.9, 0.5]
    accepted = {**made, "annotations": [done(*prediction["result"])]}
    (record,) = read([accepted], photos).records
    np.testing.assert_allclose(record.boxes, boxes, atol=1e-3)
    assert json.loads(task(Labelled("b", "b c/#1.jpg", (9, 9)), [], "m"))["data"]["image"].endswith(
        "?d=b%20c/%231.jpg"
    )


def test_the_configuration_names_the_controls_of_the_tasks():
    root = ElementTree.fromstring(labelling_config(["cat", 'a "b" & <c>']))
    labels = root.find("RectangleLabels")
    assert (labels.get("name"), labels.get("toName")) == ("label", "image")
    assert root.find("Image").attrib == {"name": "image", "value": "$image"}
    assert [label.get("value") for label in labels] == ["cat", 'a "b" & <c>']


def test_other_shapes_are_counted_and_choices_are_not(photos, caplog):
    polygon = {"type": "polygonlabels", "value": {"points": [[0, 0]], "polygonlabels": ["cat"]}}
    choice = {"type": "choices", "value": {"choices": ["sunny"]}}
    results = done(box(rotation=12), polygon, choice, box())
    assert len(read([exported("a.jpg", results)], photos).records[0]) == 1
    assert "2 shapes that are no upright boxes are left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "not Label Studio's JSON"),
        ([1], "not Label Studio's JSON"),
        ([{"id": 1}], "not Label Studio's JSON"),
        ([], "none of its 0 tasks has an annotation"),
        ([{"id": 7, "data": {}, "annotations": [done()]}], "task 7: its data name no image"),
        ([exported("a.jpg", 3)], "task 5: annotations is no list"),
        ([{"id": 5, "data": {"image": "a.jpg"}, "annotations": 3}], "task 5: annotations is no list"),
        ([exported("a.jpg", {"result": 3})], "has no list of results"),
        ([exported("a.jpg", done(box(x="left")))], "a box has x 'left', which is no percentage"),
        ([exported("a.jpg", done(box(x=1e300)))], "which is no percentage"),
        ([exported("a.jpg", done(box() | {"original_width": 0}))], "original_width '0'"),
        ([exported("a.jpg", done(box() | {"original_width": None}))], "original_width 'None'"),
        ([exported("a.jpg", done(box(rectanglelabels=[])))], "a box has no label"),
        ([exported("a.jpg", done(box(width=-3)))], "inverted box"),
    ],
)
def test_damage_is_one_line(photos, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(content, photos)
    assert "\n" not in str(caught.value)
