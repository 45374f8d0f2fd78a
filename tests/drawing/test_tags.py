"""Places of tags."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spp_det.drawing.tags import place_tags

TEXTS = [(60, 14), (28, 14)]  # a long and a short one


def rectangle(place, texts=TEXTS):
    width, height = texts[place.text]
    return place.x, place.y, place.x + width, place.y + height


def shared(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def place(boxes, width=400, height=300, texts=TEXTS):
    return place_tags(np.array(boxes, np.int64), [texts] * len(boxes), width, height, line=2)


def test_with_room_the_tag_stands_on_the_box():
    (tag,) = place([(100, 100, 200, 200)])
    assert rectangle(tag) == (100, 88, 160, 102)


def test_at_the_top_of_the_picture_it_hangs_below():
    (tag,) = place([(100, 0, 200, 100)])
    assert rectangle(tag) == (100, 98, 160, 112)


def test_a_box_that_fills_the_picture_has_it_inside():
    (tag,) = place([(0, 0, 400, 300)])
    assert rectangle(tag) == (0, 0, 60, 14)


def test_the_second_tag_leaves_the_first_alone():
    first, second = place([(100, 100, 200, 200), (102, 101, 202, 201)])
    assert shared(rectangle(first), rectangle(second)) == 0


def test_a_tag_stays_off_a_small_object():
    small = (110, 86, 130, 98)  # just where the tag of the other would be
    _, tag = place([small, (100, 100, 200, 200)])
    assert shared(rectangle(tag), small) == 0


def test_where_objects_crowd_the_text_is_shorter_and_the_rest_goes_without():
    grid = [(x, y, x + 30, y + 30) for y in range(0, 90, 30) for x in range(0, 90, 30)]
    tags = place(grid, width=90, height=90)
    assert any(tag is None for tag in tags)
    assert any(tag is not None and tag.text == 1 for tag in tags)


def test_a_text_that_is_too_wide_for_the_picture_is_left_out():
    assert place([(0, 0, 40, 40)], width=40, height=40)[0].text == 1
    assert place([(0, 0, 20, 20)], width=20, height=20) == [None]


def test_only_boxes_that_are_offered_texts_get_tags():
    boxes = np.array([(10, 50, 60, 90), (100, 50, 150, 90)])
    assert len(place_tags(boxes, [TEXTS], 200, 100, line=1)) == 1


@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 250), st.integers(1, 250))
def test_tags_are_inside_the_picture_and_never_hide_each_other(seed, count, width, height):
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, (width, height), (count, 2)).T
    right, bottom = x + generator.integers(1, 40, count), y + generator.integers(1, 40, count)
    boxes = np.stack([x, y, np.minimum(right, width), np.minimum(bottom, height)], axis=1)
    tags = [rectangle(tag) for tag in place(boxes, width, height) if tag is not None]
    for index, tag in enumerate(tags):
        assert tag[0] >= 0
        assert tag[1] >= 0
        assert tag[2] <= width
        assert tag[3] <= height
        area = (tag[2] - tag[0]) * (tag[3] - tag[1])
        assert sum(shared(tag, other) for other in tags[:index]) <= area / 20
