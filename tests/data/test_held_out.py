"""Held-out photos rest on names and seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.data.held_out import held_out, part
from spp_det.data.records import Dataset, Record

names = st.lists(st.text(max_size=8), unique=True, max_size=40)


@given(names, st.integers(0, 2**32 - 1), st.randoms())
def test_order_says_nothing_and_the_share_is_kept(photos, seed, random):
    chosen = held_out(photos, seed)
    shuffled = list(photos)
    random.shuffle(shuffled)
    assert held_out(shuffled, seed) == chosen
    assert chosen <= set(photos)
    assert len(chosen) == (max(1, round(len(photos) / 5)) if len(photos) > 1 else 0)


@given(names.filter(lambda photos: len(photos) > 1), st.text(min_size=9, max_size=9))
def test_one_more_photo_moves_at_most_two(photos, new):
    before, after = held_out(photos, 0), held_out([*photos, new], 0)
    assert len(before ^ after) <= 2


def test_another_seed_holds_out_other_photos():
    photos = [f"{number}.jpg" for number in range(100)]
    assert len({held_out(photos, seed) for seed in range(5)}) == 5


def test_the_parts_are_the_whole():
    no = np.zeros(0, np.bool_)
    records = [Record(x, Path(x), as_boxes([]), np.zeros(0, np.int64), no, no) for x in "abcde"]
    dataset = Dataset(("cat",), records, (1,), (5, 4, 3, 2, 1))
    out = held_out([record.image_id for record in records], 3)
    test, train = part(dataset, out, inside=True), part(dataset, out, inside=False)
    assert {record.image_id for record in test.records} == out
    assert [record.image_id for record in train.records] == [x for x in "abcde" if x not in out]
    assert sorted(test.coco_ids + train.coco_ids) == [1, 2, 3, 4, 5]
