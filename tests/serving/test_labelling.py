"""Label Studio's configuration and rectangles, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.boxes import as_boxes
from spp_det.data.records import Detections
from spp_det.errors import UserError
from spp_det.serving.labelling import drawn_boxes, in_pixels, read_labelling, regions

CONFIG = """
<View>
  <Header value="Draw all animals"/>
  <Image name="photo" value="$image" zoom="true"/>
  <RectangleLabels name="objects" toName="photo" showInline="true">
    <Label value="cat" background="#ff0000"/>
    <Label value="Hund &amp; Co" alias="dog"/>
  </RectangleLabels>
  <RectangleLabels name="parts" toName="photo"><Label value="paw"/></RectangleLabels>
  <Choices name="choice" toName="photo"><Choice value="good"/></Choices>
</View>
"""


def region(x, y, width, height, *names, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": list(names)}
    value |= {key: more.pop(key) for key in ("rotation",) if key in more}
    return {
        "id": "a1",
        "type": "rectanglelabels",
        "from_name": "objects",
        "to_name": "photo",
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "value": value,
        **more,
    }


def test_names_come_from_the_configuration():
    labelling = read_labelling(CONFIG)
    assert labelling.key == "image"
    found = {name: (each.name, each.image, each.key) for name, each in labelling.controls.items()}
    assert found == {
        "cat": ("objects", "photo", "image"),
        "dog": ("objects", "photo", "image"),
        "paw": ("parts", "photo", "image"),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<View", "not XML"),
        ("", "not XML"),
        ("<View/>", "RectangleLabels"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "DOCTYPE"),
        (None, "no text"),
        ({"View": 1}, "no text"),
        ("<View>" + " " * 2**20 + "</View>", "no text"),
        ('<View><Text name="t" value="$t"/><RectangleLabels name="r" toName="t"><Label value="a"/>'
         "</RectangleLabels></View>", "RectangleLabels"),
        ("<View>" * 30000 + "</View>" * 30000, "RectangleLabels"),
    ],
)  # fmt: skip
def test_a_configuration_without_boxes_is_refused_in_a_line(text, why):
    with pytest.raises(UserError, match=why):
        read_labelling(text)


def test_boxes_are_read_in_percent_and_written_in_pixels():
    drawn, others = drawn_boxes([region(10, 20, 25, 50, "cat"), region(0, 0, 100, 100, "dog", "cat")])
    assert others == 0
    assert [(each.name, each.box) for each in drawn] == [
        ("cat", (10, 20, 35, 70)),
        ("dog", (0, 0, 100, 100)),
        ("cat", (0, 0, 100, 100)),
    ]
    boxes, names = in_pixels(drawn, (200, 100))
    assert names == ["cat", "dog", "cat"]
    assert boxes.tolist() == [[20, 20, 70, 70], [0, 0, 200, 100], [0, 0, 200, 100]]
    assert boxes.dtype == np.float32


def test_a_box_is_cut_to_the_image_and_has_a_pixel():
    drawn, _ = drawn_boxes([region(-5, 90, 20, 30, "cat"), region(99.99, 99.99, 0.001, 0.001, "cat")])
    assert drawn[0].box == (0, 90, 15, 100)
    assert in_pixels(drawn, (200, 100))[0].tolist() == [[0, 90, 30, 100], [199, 99, 200, 100]]
    assert drawn_boxes([region(120, 0, 5, 5, "cat")])[0] == []  # nothing of it is in the image


def test_a_turned_box_becomes_the_box_around_it():
    # 40 x 20 pixels at (100, 20), turned a quarter clockwise about its corner: 20 wide to the left, 40 down.
    (drawn,), _ = drawn_boxes([region(50, 20, 20, 20, "cat", rotation=90)])
    assert drawn.box == pytest.approx((40, 20, 50, 60))


def test_regions_of_other_kinds_are_counted():
    other = {
        "id": "b",
        "type": "choices",
        "from_name": "choice",
        "to_name": "photo",
        "value": {"choices": ["good"]},
    }
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "value": {}}
    drawn, others = drawn_boxes([other, region(0, 0, 10, 10, "cat"), relation])
    assert len(drawn) == 1
    assert others == 1


@pytest.mark.parametrize(
    "result",
    [
        None,
        {},
        [None],
        [{"type": "rectanglelabels"}],
        [region("a", 0, 1, 1, "cat")],
        [region(float("nan"), 0, 1, 1, "cat")],
        [region(1e300, 0, 1, 1, "cat")],
        [region(True, 0, 1, 1, "cat")],
        [region(0, 0, None, 1, "cat")],
        [region(0, 0, 1, 1, 5)],
        [region(0, 0, 1, 1, "")],
        [region(0, 0, 1, 1, "\ud800")],
        [region(0, 0, 1, 1, "a" * 1001)],
        [{}] * 10_001,
    ],
)
def test_what_is_no_annotation_is_refused(result):
    with pytest.raises(UserError):
        drawn_boxes(result)


def test_detections_come_back_as_the_boxes_that_they_are():
    boxes = as_boxes([[20, 20, 70, 70], [1, 2, 3, 4], [0, 0, 200, 100]])
    found = Detections(boxes=boxes, labels=np.array([1, 0, 2]), scores=np.float32([1, 2, 3]))
    made = regions(found, ("paw", "cat", "unknown"), [0.75, 0.5, 0.25], (200, 100), read_labelling(CONFIG))
    assert [each["value"]["rectanglelabels"] for each in made] == [
        ["cat"],
        ["paw"],
    ]  # no control for the third
    assert [(each["from_name"], each["to_name"], each["type"], each["score"]) for each in made] == [
        ("objects", "photo", "rectanglelabels", 0.75),
        ("parts", "photo", "rectanglelabels", 0.5),
    ]
    assert all((each["original_width"], each["original_height"]) == (200, 100) for each in made)
    assert len({each["id"] for each in made}) == 2
    drawn, _ = drawn_boxes(made)
    back, names = in_pixels(drawn, (200, 100))
    np.testing.assert_array_equal(back, boxes[:2])
    assert names == ["cat", "paw"]
