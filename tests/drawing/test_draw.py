"""Pictures with boxes: never a crash, never a changed input, and tags that can be read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.drawing.draw import draw_detections
from spp_det.drawing.palette import class_color

GRAY = 127


def gray(width=200, height=120):
    return np.full((height, width, 3), GRAY, np.uint8)


def draw(image, boxes, labels=None, scores=None, classes=("cat", "dog")):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels, np.int64)
    scores = None if scores is None else np.array(scores, np.float32)
    return draw_detections(image, boxes, labels, scores, classes)


def has_color(picture, label):
    return bool((picture == class_color(label)).all(axis=-1).any())


def test_the_line_covers_the_boxs_own_edge():
    picture = draw(gray(), [(50, 60, 120, 110)])
    for y, x in ((60, 100), (109, 100), (80, 50), (80, 119)):  # half-open: the last pixels are 119 and 109
        assert tuple(picture[y, x]) == class_color(0)
    assert (picture[70:100, 60:110] == GRAY).all()  # and the object is seen as it was


def test_the_input_is_not_changed_and_the_output_is_a_copy():
    image = gray()
    boxes, labels, scores = np.float32([[5, 5, 60, 60]]), np.array([1]), np.float32([0.5])
    picture = draw_detections(image, boxes, labels, scores, ("cat", "dog"))
    assert (image == GRAY).all()
    np.testing.assert_array_equal(boxes, [[5, 5, 60, 60]])
    np.testing.assert_array_equal((labels[0], scores[0]), (1, 0.5))
    assert picture.dtype == np.uint8
    assert picture.shape == image.shape
    assert not np.shares_memory(picture, draw(image, []))
    assert not np.shares_memory(image, draw(image, []))


def test_a_read_only_or_strided_image_is_drawn_over():
    image = gray()[::2, ::-1]
    image.setflags(write=False)
    assert has_color(draw(image, [(5, 5, 60, 50)]), 0)


def test_no_boxes_leave_the_picture_as_it_is():
    np.testing.assert_array_equal(draw(gray(), []), gray())


@pytest.mark.parametrize(
    "box",
    [
        (300, 10, 400, 50),
        (-90, -90, -10, -10),
        (10, 10, 10, 50),
        (60, 50, 10, 10),
        (np.nan, 0, 10, 10),
        (0, 0, np.inf, 10),
    ],
)
def test_a_box_outside_or_empty_or_not_finite_is_not_drawn(box):
    np.testing.assert_array_equal(draw(gray(), [box]), gray())


def test_a_box_that_reaches_outside_is_drawn_along_the_border():
    picture = draw(gray(), [(-50, -50, 1e30, 1e30)], scores=[0.9])
    for y, x in ((119, 100), (60, 0), (60, 199)):
        assert tuple(picture[y, x]) == class_color(0)


def test_the_highest_score_lies_on_top():
    boxes = [(20, 40, 100, 100), (20, 40, 100, 100)]
    for scores, top in (([0.9, 0.1], 0), ([0.1, 0.9], 1)):
        picture = draw(gray(), boxes, [0, 1], scores)
        assert tuple(picture[70, 20]) == class_color(top)


def test_without_scores_the_small_box_lies_on_top():
    picture = draw(gray(), [(20, 40, 60, 100), (20, 40, 150, 100)], [0, 1])
    assert tuple(picture[70, 20]) == class_color(0)


@pytest.mark.parametrize(
    "box", [(0, 0, 60, 40), (140, 0, 200, 40), (0, 80, 60, 120), (140, 80, 200, 120), (0, 0, 200, 120)]
)
def test_the_tag_is_whole_wherever_the_box_is(box):
    # The picture of a large canvas, cut to the small one, would lose a part of a clipped tag.
    picture = draw(gray(), [box], scores=[0.87])
    changed = (picture != GRAY).any(axis=-1)
    edge = np.zeros_like(changed)
    x1, y1, x2, y2 = box
    edge[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
    edge[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3] = False
    tag = changed & ~edge
    rows, columns = np.flatnonzero(tag.any(axis=1)), np.flatnonzero(tag.any(axis=0))
    assert len(rows) >= 10  # the text is 10 pixels high at the least
    assert len(columns) >= 30


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (12, 12), (64, 64)])
def test_pictures_too_small_for_any_tag(size):
    width, height = size
    picture = draw(gray(width, height), [(0, 0, width, height), (0.2, 0.2, 0.3, 0.3)], [0, 1], [0.5, 0.7])
    assert picture.shape == (height, width, 3)
    assert (picture != GRAY).any()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "\n\t\0\x1b[31m",
        "\u202eright to left",
        "\udc80 lone surrogate",
        "câmera naïve",
        "袋鼠",
        "🦝" * 50,
        "Z̴̢̛̗a̵l̷g̸o̷",
        "<script>alert(1)</script>",
        "very long " * 100,
        "%s{0}%(a)d[bold]",
    ],
)
def test_any_name_is_drawn(name):
    picture = draw(gray(400, 300), [(50, 100, 300, 250)], scores=[0.5], classes=[name])
    assert (picture[60:98] != GRAY).any()  # something stands above the box


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    count=st.integers(0, 12),
    seed=st.integers(0, 1000),
    name=st.text(max_size=30),
    scored=st.booleans(),
)
def test_nothing_crashes(width, height, count, seed, name, scored):
    generator = np.random.default_rng(seed)
    boxes = generator.uniform(-30, 150, (count, 4)).astype(np.float32)
    scores = generator.normal(size=count).astype(np.float32) if scored else None
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = draw(image, boxes, generator.integers(0, 2, count), scores, [name, "dog"])
    assert picture.shape == image.shape


def test_thousands_of_boxes():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 180, (1500, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(2, 40, (1500, 2))], axis=1)
    assert draw(gray(), boxes, scores=generator.random(1500)).shape == (120, 200, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.float32)]
)
def test_what_is_no_rgb_image_is_refused(image):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        draw(image, [])
