"""What annotation tools are given of a run: the likely detections, with probabilities."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from spp_det.detections.lists import pre_labels, write_tasks
from spp_det.detections.output import Output
from spp_det.errors import UserError
from spp_det.model.probability import Probabilities

ENTRIES = [
    {
        "file_name": "in/a.jpg",
        "width": 40,
        "height": 20,
        "found": [[1, 2.0, 0.0, 0.0, 10.0, 20.0], [0, -0.5, 0, 0, 1, 1]],
    },
    {"file_name": "b.jpg", "width": 40, "height": 20, "found": []},
]


def given(**options):
    return [(each.classes, p) for each, p in pre_labels(iter(ENTRIES), ["cat", "dog"], Output(**options))]


def test_scores_become_probabilities_unless_they_are():
    curves = Probabilities(np.float32([1, 2]), np.float32([0, -1]))
    assert given() == [(["dog"], [pytest.approx(1 / (1 + np.exp(-2)))]), ([], [])]
    assert given(probability=curves)[0][1] == [pytest.approx(1 / (1 + np.exp(-3)))]
    assert given(probability=curves, are_probabilities=True)[0][1] == [2.0]


def test_the_threshold_is_the_asked_one_or_that_of_pictures():
    assert [len(p) for _, p in given(score=-1.0)] == [2, 0]
    assert [len(p) for _, p in given(draw_score=2.5)] == [0, 0]
    assert given(score=-1e9)[0][1][1] == pytest.approx(1 / (1 + np.exp(0.5)))


def test_tasks_are_one_json_list_also_of_no_photo():
    for entries in (ENTRIES, []):
        file = io.StringIO()
        write_tasks(pre_labels(iter(entries), ["cat", "dog"], Output()), file)
        tasks = json.loads(file.getvalue())
        assert [task["data"]["image"].split("?d=")[1] for task in tasks] == [e["file_name"] for e in entries]


def test_a_format_that_is_none_is_refused_with_all_that_are():
    Output(["cvat", "label-studio", "voc"])
    with pytest.raises(UserError, match=r"'coco2'; there are coco, voc, .*, cvat, label-studio"):
        Output(["coco2"])
