"""What scores mean to a training that grows: by photos that were judged before they were learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spp_det.config.file import parse_config
from spp_det.data.matching import Outcome, match_image
from spp_det.data.records import Dataset
from spp_det.model.probability import fit_probabilities
from spp_det.runtime.cache import Cache
from spp_det.training import live as lives
from spp_det.training import live_svms
from spp_det.training.live import LiveTraining
from spp_det.training.live_probability import LiveProbability, _Judged


@pytest.fixture
def live(ten_photos) -> LiveTraining:
    tree = {
        "output": str(ten_photos / "run"),
        "data": {"root": str(ten_photos / "voc"), "test": "none"},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "svm": {"positive_iou": 0.7},
        "detection": {"score_threshold": -5.0, "max_per_image": 20},
        "runtime": {"device": "cpu", "cache": str(ten_photos / "cache")},
    }
    return LiveTraining(parse_config(tree, "test"), Cache(ten_photos / "cache"))


def first(whole: Dataset, count: int) -> Dataset:
    return Dataset(whole.classes, whole.records[:count])


def test_its_curves_are_those_of_what_each_photo_met_when_it_was_new(live, whole, monkeypatch):
    monkeypatch.setattr(live_svms, "FEW", 0)  # with these SVMs no intercept is near 0
    scores, names, right = [], [], []
    detector = live.learn(first(whole, 4))
    assert detector.probability is None  # nothing was new to a detector yet
    for count in range(5, 9):
        record = whole.records[count - 1]
        found = detector(record.path)
        assert len(found["scores"]) > 0
        labels = np.array([whole.classes.index(detector.classes[label]) for label in found["labels"]])
        outcome = match_image(record, {**found, "labels": labels}).outcome
        kept = outcome != Outcome.IGNORED
        scores.append(found["scores"][kept])
        names += [whole.classes[label] for label in labels[kept]]
        right.append(outcome[kept] == Outcome.TRUE)
        detector = live.learn(first(whole, count))
    labels = np.array([detector.classes.index(name) for name in names])
    hits = np.concatenate(right)
    assert 0 < hits.sum() < len(hits)
    expected = fit_probabilities(np.concatenate(scores), labels, hits, len(detector.classes))[0]
    np.testing.assert_allclose(detector.probability.slope, expected.slope, rtol=1e-3)
    np.testing.assert_allclose(detector.probability.intercept, expected.intercept, rtol=1e-3)


def test_a_photo_that_was_learnt_before_is_not_judged_and_one_that_is_gone_is_forgotten(live, whole):
    live.learn(first(whole, 2))
    live.learn(first(whole, 4))
    new = [record.image_id for record in whole.records[2:4]]
    assert list(live.probability._judged) == new
    a, b, c, d = whole.records[:4]
    moved = replace(d, boxes=d.boxes + np.float32([2, 1, 2, 1]))
    live.learn(Dataset(whole.classes, [a, b, c, moved]))
    assert list(live.probability._judged) == new
    live.learn(Dataset(whole.classes, [a, b, d]))
    assert list(live.probability._judged) == new[1:]


def test_of_many_photos_that_come_at_once_half_are_judged_and_go_on_to_count(live, whole):
    names = [record.image_id for record in whole.records]
    live.learn(first(whole, lives.MANY))
    assert list(live.probability._judged) == names[lives.MANY // 2 : lives.MANY]
    assert list(live.photos.photos) == names[: lives.MANY]
    assert live.learn(whole) is live.detector
    assert list(live.probability._judged) == names[lives.MANY // 2 :]


def test_without_folds_nothing_is_judged(live, whole):
    none = live.config.probability.model_copy(update={"folds": 0})
    live.config = live.config.model_copy(update={"probability": none})
    live.learn(whole)
    assert live.detector.probability is None
    assert live.probability._judged == {}


def judged(classes: tuple[str, ...], count: int, seed: int) -> _Judged:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count).astype(np.float32)
    right = rng.random(count) < 1 / (1 + np.exp(-2 * scores))
    return _Judged(1, classes, scores, rng.integers(0, len(classes), count), right)


def test_curves_follow_the_classes_through_other_orders_and_without_those_that_are_gone():
    probability = LiveProbability()
    probability._judged = {"a": judged(("cat", "dog", "cow"), 300, 1), "b": judged(("cow", "cat"), 300, 2)}
    curves = probability.curves(("cow", "cat"))
    scores, labels, right = [], [], []
    for each in probability._judged.values():
        for score, label, hit in zip(each.scores, each.labels, each.right, strict=True):
            if each.classes[label] != "dog":
                scores.append(score)
                labels.append(("cow", "cat").index(each.classes[label]))
                right.append(hit)
    expected = fit_probabilities(np.array(scores), np.array(labels), np.array(right), 2)[0]
    assert curves.slope.tolist() == expected.slope.tolist()
    assert curves.intercept.tolist() == expected.intercept.tolist()
    swapped = probability.curves(("cat", "cow"))
    assert swapped.slope.tolist() == curves.slope[::-1].tolist()
    assert LiveProbability().curves(("cat",)) is None


def test_what_a_detector_of_less_than_a_quarter_of_the_photos_found_does_not_count(live, whole):
    for count in (2, 4, 5, 9):
        live.learn(first(whole, count))
    names = [record.image_id for record in whole.records]
    assert list(live.probability._judged) == names[4:9]  # that of two photos knew too few for nine
