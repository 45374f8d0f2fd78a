"""A training that grows photo by photo knows what a training of all photos knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.classes import leave_out_empty
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.images import read_image
from spp_det.model.detector import Detector
from spp_det.model.features import SPPFeatures
from spp_det.runtime.cache import Cache
from spp_det.training import live_svms
from spp_det.training.draws import Draws
from spp_det.training.inputs import read_inputs
from spp_det.training.live import LiveTraining
from spp_det.training.pool import ExamplePool
from spp_det.training.stages import train

BACKBONE = {"name": "zf5_small", "weights": "random", "scales": [96]}


@pytest.fixture(scope="module")
def config(ten_photos) -> Config:
    tree = {
        "output": str(ten_photos / "run"),
        "data": {"root": str(ten_photos / "voc"), "test": "none"},
        "backbone": BACKBONE,
        "pyramid": {"normalize": "hellinger"},
        "svm": {"positive_iou": 0.7},
        "bbox": {"passes": 2},
        "runtime": {"device": "cpu", "cache": str(ten_photos / "cache")},
    }
    return parse_config(tree, "test")


def part(whole: Dataset, indices: list[int]) -> Dataset:
    """Some photos with the names of all classes; `LiveTraining` finds out which have objects."""
    return Dataset(whole.classes, [whole.records[index] for index in indices])


def learner(config: Config, ten_photos: Path) -> LiveTraining:
    return LiveTraining(config, Cache(ten_photos / "cache"))


def test_regressors_that_grew_are_those_of_a_training(config, ten_photos, whole):
    live = learner(config, ten_photos)
    for indices in ([0, 1], [0, 1, 2], list(range(10))):
        grown = live.learn(part(whole, indices))
    trained = train(config).detector
    assert grown is not None
    order = [grown.classes.index(name) for name in trained.classes]
    for found, expected in zip(grown.regressors, trained.regressors, strict=True):
        scale = float(expected.weight.abs().max())
        torch.testing.assert_close(found.weight[order], expected.weight, atol=2e-3 * scale, rtol=0)
        torch.testing.assert_close(found.bias[order], expected.bias, atol=2e-3, rtol=1e-2)


@pytest.fixture
def exact(monkeypatch) -> None:
    """All SVMs are fitted until nothing moves, so that two fits of the same examples agree."""
    fit = ExamplePool.fit
    monkeypatch.setattr(ExamplePool, "fit", lambda pool, objective, _: fit(pool, objective, 1e-7))


def without_folds(config: Config, **svm: object) -> Config:
    none = config.probability.model_copy(update={"folds": 0})
    return config.model_copy(update={"svm": config.svm.model_copy(update=svm), "probability": none})


def assert_same_svms(grown: Detector, trained: Detector) -> None:
    order = [grown.classes.index(name) for name in trained.classes]
    found, expected = grown.scorer, trained.scorer
    scale = float(expected.weight.abs().max())
    torch.testing.assert_close(found.weight[order], expected.weight, atol=1e-3 * scale, rtol=0)
    torch.testing.assert_close(found.bias[order], expected.bias, atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("retrain_after", [40, 10**6])
@pytest.mark.parametrize("flips", [False, True])
def test_svms_of_few_photos_are_those_of_a_training_that_meets_them_in_the_same_order(
    config, ten_photos, whole, flips, retrain_after, monkeypatch
):
    config = without_folds(config, flips=flips, retrain_after=retrain_after)
    live = learner(config, ten_photos)
    for indices in ([0, 1], [0, 1, 2, 5], list(range(10))):
        grown = live.learn(part(whole, indices))
    contents = [live.photos.photos[record.image_id].content for record in whole.records]
    draws = replace(Draws.of(config, 10), order=np.argsort(contents))
    monkeypatch.setattr(Draws, "of", lambda *_: draws)
    trained = train(config)
    assert (trained.metrics["svm"]["fits"] > 2) == (retrain_after == 40)
    assert grown is not None
    assert_same_svms(grown, trained.detector)


@pytest.mark.usefixtures("exact")
def test_when_photos_become_few_again_nothing_is_left_of_the_others(config, ten_photos, whole, monkeypatch):
    monkeypatch.setattr(live_svms, "FEW", 4)
    config = without_folds(config, retrain_after=10**6)
    live = learner(config, ten_photos)
    for count in (3, 4, 5, 7, 4):
        grown = live.learn(part(whole, list(range(count))))
    inputs = read_inputs(config)
    four = leave_out_empty(part(whole, [0, 1, 2, 3]), "test")
    trained = train(config, replace(inputs, splits=replace(inputs.splits, train=four)))
    assert grown is not None
    assert_same_svms(grown, trained.detector)
    assert {row[0] for row in live.svms.pool.rows} == {record.image_id for record in four.records}


@pytest.mark.parametrize("flips", [False, True])
def test_svms_that_go_on_agree_with_those_of_a_training_on_what_is_an_object(
    config, ten_photos, whole, flips, monkeypatch
):
    monkeypatch.setattr(live_svms, "FEW", 0)
    config = config.model_copy(update={"svm": config.svm.model_copy(update={"flips": flips})})
    live = learner(config, ten_photos)
    for count in range(1, 11):
        grown = live.learn(part(whole, list(range(count))))
    trained = train(config).detector
    assert grown is not None
    order = [grown.classes.index(name) for name in trained.classes]
    agree, count = 0, 0
    for record in whole.records:
        maps = trained.features.maps(read_image(record.path))
        expected = trained.score(maps, record.boxes)[1]
        found = grown.score(maps, record.boxes)[1][:, order]
        agree += int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
        count += len(record.boxes)
    assert agree >= 0.9 * count


@pytest.mark.parametrize("few", [0, live_svms.FEW])
def test_where_memory_is_full_every_example_has_the_vector_of_its_window(
    config, ten_photos, whole, few, monkeypatch
):
    monkeypatch.setattr(live_svms, "FEW", few)
    svm = config.svm.model_copy(update={"memory_mb": 3, "retrain_after": 40, "evict_score": -3.0})
    live = learner(config.model_copy(update={"svm": svm}), ten_photos)
    made_room = Mock(wraps=live.svms.pool.make_room)
    monkeypatch.setattr(live.svms.pool, "make_room", made_room)
    for count in range(1, 11):
        live.learn(part(whole, list(range(count))))
        pool = live.svms.pool
        for image in live.photos.photos:
            places = [place for row, place in pool.place.items() if row[0] == image]
            photo = live.photos.photos[image]
            boxes = [np.frombuffer(pool.rows[place][2], np.float32) for place in places]
            rows = [np.flatnonzero((photo.windows.boxes == box).all(axis=1))[0] for box in boxes]
            expected = photo.vectors().of_windows(np.array(rows, np.int64)).half()
            torch.testing.assert_close(pool.vectors[places], expected, atol=1e-2, rtol=1e-2)
    made_room.assert_called()


@pytest.mark.parametrize("few", [0, live_svms.FEW])
def test_a_class_counts_from_its_first_box_and_goes_with_its_last(
    config, ten_photos, whole, few, monkeypatch
):
    monkeypatch.setattr(live_svms, "FEW", few)
    names = {index: {whole.classes[label] for label in r.labels} for index, r in enumerate(whole.records)}
    first = next(i for i in names if names[i] != set(whole.classes))
    other = next(i for i in names if names[i] - names[first])
    live = learner(config, ten_photos)
    before = live.learn(part(whole, [first]))
    after = live.learn(part(whole, [first, other]))
    again = live.learn(part(whole, [first]))
    assert before is not None
    assert after is not None
    assert again is not None
    assert set(before.classes) == names[first]
    assert after.classes[: len(before.classes)] == before.classes
    assert set(after.classes) == names[first] | names[other]
    assert again.classes == before.classes
    rows = {row[0] for row in live.svms.pool.rows}
    assert rows == {whole.records[first].image_id}


@pytest.mark.parametrize("few", [0, live_svms.FEW])
def test_a_corrected_photo_teaches_what_it_says_now(config, ten_photos, whole, few, monkeypatch):
    monkeypatch.setattr(live_svms, "FEW", few)
    live = learner(config, ten_photos)
    live.learn(part(whole, list(range(5))))
    record = whole.records[2]
    moved = replace(record, boxes=record.boxes[:1] + np.float32([3, 2, 3, 2]), labels=record.labels[:1],
                    difficult=record.difficult[:1], crowd=record.crowd[:1])  # fmt: skip
    others = [whole.records[index] for index in (0, 1, 3, 4)]
    live.learn(Dataset(whole.classes, [*others, moved]))
    photo = live.photos.photos[record.image_id]
    assert photo.windows.objects == 1
    pool = live.svms.pool
    boxes = {row[2] for row in pool.rows if row[0] == record.image_id}
    assert boxes <= {box.tobytes() for box in photo.windows.boxes}
    windows = photo.windows.positives(config.svm.positive_iou)[0]
    of = photo.vectors().of
    positive = {row[2] for row, place in pool.place.items()
                if row[0] == record.image_id and (pool.signs[place] > 0).any()}  # fmt: skip
    firsts = {photo.windows.boxes[np.flatnonzero(of == of[window])[0]].tobytes() for window in windows}
    assert positive == firsts


def test_what_has_not_changed_is_not_computed_again(config, ten_photos, whole, monkeypatch):
    live = learner(config, ten_photos)
    live.learn(part(whole, [0, 1, 2]))
    monkeypatch.setattr(SPPFeatures, "maps_at", lambda *_: pytest.fail("a map is computed again"))
    live.learn(part(whole, [0, 1, 2]))
    live.learn(part(whole, [0, 2]))


def test_photos_without_an_object_are_negatives_and_alone_teach_nothing(config, ten_photos, whole):
    record = whole.records[0]
    empty = replace(record, boxes=record.boxes[:0], labels=record.labels[:0],
                    difficult=record.difficult[:0], crowd=record.crowd[:0])  # fmt: skip
    live = learner(config, ten_photos)
    assert live.learn(Dataset(whole.classes, [empty])) is None
    assert live.learn(Dataset(whole.classes, [empty, whole.records[1]])) is not None
    assert record.image_id in {row[0] for row in live.svms.pool.rows}


def test_a_photo_that_cannot_be_read_is_left_out(config, ten_photos, whole, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    live = learner(config, ten_photos)
    live.learn(part(whole, [0]))
    damaged = replace(whole.records[1], path=bad)
    assert live.learn(Dataset(whole.classes, [whole.records[0], damaged])) is not None
    assert set(live.photos.photos) == {whole.records[0].image_id}


def test_the_mean_norm_stays_while_it_hardly_moves(config, ten_photos, whole):
    plain = config.model_copy(update={"pyramid": config.pyramid.model_copy(update={"normalize": "none"})})
    live = learner(plain, ten_photos)
    live.learn(part(whole, list(range(6))))
    first = live._norm
    assert first is not None
    live._norm = (first[0] * 1.01, first[1] * 1.01)
    assert live._mean_norms() == (first[0] * 1.01, first[1] * 1.01)
    live._norm = (first[0] * 1.05, first[1] * 1.05)
    assert live._mean_norms() == pytest.approx(first)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fc": {"layer": "fc7"}, "finetune": {"enabled": True}}, "finetune.enabled"),
        ({"features": "rcnn"}, "features"),
    ],
)
def test_settings_that_learn_slowly_are_refused(changes, named, ten_photos):
    config = parse_config({"backbone": BACKBONE, **changes}, "test")
    with pytest.raises(UserError, match=named):
        learner(config, ten_photos)
