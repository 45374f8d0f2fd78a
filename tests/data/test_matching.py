"""Detections beside the objects of one image: a table by hand, and a slow second matching."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.boxes import as_boxes, exact_iou
from spp_det.data.matching import Outcome, match_image
from spp_det.data.records import Detections
from tests.training.scenes import record


def detections(boxes, labels, scores) -> Detections:
    return {"boxes": as_boxes(boxes), "labels": np.array(labels, np.int64), "scores": np.float32(scores)}


def test_each_line_of_the_table_once():
    objects = record([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 0], difficult=[1])
    found = detections(
        [[0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 10, 10], [50, 0, 60, 10], [90, 90, 99, 99]],
        [0, 0, 1, 0, 0],
        [0.5, 0.9, 1.0, 0.3, 0.2],
    )
    matches = match_image(objects, found)
    wanted = [Outcome.DUPLICATE, Outcome.TRUE, Outcome.FALSE, Outcome.IGNORED, Outcome.FALSE]
    assert matches.outcome.tolist() == wanted
    assert matches.target.tolist() == [0, 0, -1, 1, 0]
    assert matches.overlap.tolist()[1:4] == [1.0, -np.inf, 1.0]


def test_an_image_without_objects_has_false_detections_alone():
    matches = match_image(record([], []), detections([[0, 0, 9, 9]], [0], [1]))
    assert matches.outcome.tolist() == [Outcome.FALSE]
    assert len(match_image(record([[0, 0, 9, 9]], [0]), detections([], [], [])).outcome) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_a_second_matching_one_by_one_agrees(seed, threshold):
    rng = np.random.default_rng(seed)
    objects, count = int(rng.integers(0, 5)), int(rng.integers(0, 12))
    corner = rng.integers(0, 5, (objects + count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 6, corner.shape)], axis=1)
    marked = record(boxes[:objects], rng.integers(0, 2, objects))
    marked.difficult[:] = rng.random(objects) < 0.2
    found = detections(boxes[objects:], rng.integers(0, 2, count), rng.integers(0, 3, count))
    outcome, taken = [Outcome.FALSE] * count, set()
    for i in sorted(range(count), key=lambda i: -found["scores"][i]):
        mine = [g for g in range(objects) if marked.labels[g] == found["labels"][i]]
        if not mine:
            continue
        overlaps = exact_iou(found["boxes"][[i]], marked.boxes[mine])[0]
        g = mine[int(overlaps.argmax())]
        if overlaps.max() < threshold:
            continue
        if marked.difficult[g]:
            outcome[i] = Outcome.IGNORED
        else:
            outcome[i] = Outcome.DUPLICATE if g in taken else Outcome.TRUE
            taken.add(g)
    assert match_image(marked, found, threshold).outcome.tolist() == outcome
