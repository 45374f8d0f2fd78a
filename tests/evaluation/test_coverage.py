"""Objects that windows cover, by class and size, and the finding where too few are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spp_det.boxes import as_boxes
from spp_det.data.records import Record
from spp_det.evaluation.coverage import coverage, low_recall

CLASSES = ("cat", "dog")


def place(cats: int, dogs: int, hard: int = 0) -> tuple[str, Record]:
    """Cats of 40 pixels, then dogs of 20, side by side; the last ``hard`` ones are difficult."""
    sides = [40] * cats + [20] * dogs
    boxes = as_boxes([(100 * i, 0, 100 * i + side, side) for i, side in enumerate(sides)])
    difficult = np.arange(len(sides)) >= len(sides) - hard
    labels = np.array([0] * cats + [1] * dogs)
    return "train", Record("a", Path("a.jpg"), boxes, labels, difficult, np.zeros(len(sides), np.bool_))


def test_classes_and_sizes_are_told_apart():
    one = place(cats=10, dogs=4, hard=1)
    windows = one[1].boxes[:11]  # all cats and one dog
    found = coverage([one], [windows], CLASSES)
    assert (found.overall.objects, found.overall.recall) == (13, {0.5: pytest.approx(11 / 13)})
    assert found.per_class["cat"].recall == found.by_size["32-64"].recall == {0.5: 1.0}
    assert found.per_class["dog"].recall == found.by_size["16-32"].recall == {0.5: pytest.approx(1 / 3)}
    assert found.by_size["<16"].objects == 0
    assert found.windows == 11
    assert low_recall(found, "fast", [one], [windows], CLASSES) == []  # two misses may be chance


def test_a_class_that_windows_miss_is_named_with_its_objects():
    one = place(cats=40, dogs=4)
    windows = np.concatenate([one[1].boxes[:40], as_boxes([(4000, 0, 4009, 20)])])
    found = coverage([one], [windows], CLASSES)
    (finding,) = low_recall(found, "fast", [one], [windows], CLASSES)
    assert finding.kind == "windows"
    assert "all objects" not in finding.text  # 40 of 44
    assert "class dog 0% of 4, 16-32 px 0% of 4; try proposals.mode=paper" in finding.text
    assert [seen.what for seen in finding.sightings] == ["dog, best IoU 0.45", *["dog, best IoU 0.00"] * 3]
    first, last = finding.sightings[0].boxes, finding.sightings[-1].boxes
    assert first == (("dog", (4000, 0, 4020, 20)), ("window, IoU 0.45", (4000, 0, 4009, 20)))
    assert len(last) == 1  # no window is near


@pytest.mark.parametrize(("mode", "remedy"), [("paper", "quality"), ("quality", None), ("file", None)])
def test_the_next_finer_mode_is_the_remedy(mode, remedy):
    one = place(cats=5, dogs=0)
    none = as_boxes([])
    (finding,) = low_recall(coverage([one], [none], CLASSES), mode, [one], [none], CLASSES)
    assert "all objects 0% of 5" in finding.text
    assert ("try proposals.mode" in finding.text) == (remedy is not None)
    assert remedy is None or finding.text.endswith(f"proposals.mode={remedy}")


def test_without_photos_there_is_nothing_to_find():
    found = coverage([], [], CLASSES)
    assert np.isnan(found.windows)
    assert low_recall(found, "fast", [], [], CLASSES) == []
