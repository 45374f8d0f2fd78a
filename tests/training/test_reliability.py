"""What scores mean: every image is judged by the detector that has not learnt from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from spp_det.data.records import Detections
from spp_det.training.checkpoint import from_json
from spp_det.training.folds import Folds
from spp_det.training.reliability import judged, learn_probabilities


@dataclass
class Oracle:
    """Finds an image's first object at its place, a copy of it, and a corner; scores say who did."""

    images: object
    number: int

    def detect_on(self, _, windows, width, height) -> Detections:
        image = next(
            i for i in self.images.images if len(i.windows.boxes) - i.windows.objects == len(windows)
        )
        box, label = image.record.boxes[:1], image.record.labels[:1]
        assert (width, height) == image.record.size
        boxes = np.concatenate([box, box, np.float32([[0, 0, 1, 1]])])
        scores = np.float32([1, 0.5, 0]) + 10 * self.number
        return {"boxes": boxes, "labels": np.repeat(label, 3), "scores": scores}


def test_each_image_is_looked_at_by_the_detector_of_its_fold(prepared):
    assert len({len(i.windows.boxes) - i.windows.objects for i in prepared.images}) == len(prepared)
    folds = Folds(np.array([0, 1, 0, 1]), 2)
    found = judged(prepared, np.array([0, 1, 3]), folds, [Oracle(prepared, 0), Oracle(prepared, 1)])
    assert found["folds"].tolist() == [0] * 3 + [1] * 6
    assert (found["scores"] // 10).tolist() == found["folds"].tolist()
    assert found["right"].tolist() == [True, False, False] * 3


def noisy(count: int, classes: int = 2):
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 1, count).astype(np.float32)
    right = rng.random(count) < 1 / (1 + np.exp(-2 * scores))
    labels = rng.integers(0, classes, count)
    return {"scores": scores, "labels": labels, "right": right, "folds": rng.integers(0, 3, count)}


def test_the_figures_are_of_curves_that_have_not_seen_the_fold():
    arrays = learn_probabilities(noisy(6000), ["cat", "dog"], 3)
    figures = from_json(arrays, "figures")
    np.testing.assert_allclose(arrays["slope"], [2, 2], rtol=0.1)
    assert figures["detections"] == 6000
    assert 0 < figures["ECE"] < 0.03
    assert figures["classes"]["cat"]["curve"] == "own"
    # Where one fold is all right and the others all wrong, nothing that the others say fits it.
    odd = noisy(300, 1)
    odd["right"] = (odd["folds"] == 0) & (odd["scores"] > 0)
    worse = from_json(learn_probabilities(odd, ["cat"], 3), "figures")
    assert worse["ECE"] > 0.1


@pytest.mark.parametrize("right", [True, False])
def test_without_a_curve_the_figures_say_why(right):
    found = noisy(50) | {"right": np.full(50, right)}
    arrays = learn_probabilities(found, ["cat", "dog"], 3)
    assert len(arrays["slope"]) == len(arrays["intercept"]) == 0
    assert "too few" in from_json(arrays, "figures")["none_because"]
