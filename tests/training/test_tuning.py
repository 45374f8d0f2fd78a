"""Trials share what settings have in common, and are what trainings on the other folds would find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.config.file import parse_config
from spp_det.model.svm import Hinge, fit_svms
from spp_det.training.draws import Draws
from spp_det.training.tuning import Trials

CONFIG = {
    "backbone": {"name": "zf5_small", "weights": "random", "scales": [64, 128], "max_side": 400},
    "pyramid": {"levels": [3, 1]},
    "probability": {"folds": 2},
    "bbox": {"ridge": 10.0},
    "svm": {"positive_iou": 0.5},
}


def configure(**sections):
    return parse_config(CONFIG | sections, "test")


@pytest.fixture
def trials(prepared, dataset):
    return Trials(prepared, Draws.of(configure(), len(prepared)), None, dataset.classes, [1.0, 0.5], 0.01)


def test_the_positives_of_each_overlap_are_those_of_a_training_with_it(trials, prepared):
    signs = {0.5: [], 1.0: []}
    teaching = list(range(len(prepared)))
    vectors = [each for each, _ in trials._positives(prepared, teaching, signs)]
    for overlap, found in signs.items():
        for expected, rows, mine in zip(prepared.positives(overlap), vectors, found, strict=True):
            used = np.flatnonzero(mine.any(axis=1))
            assert torch.equal(expected[0], rows[torch.from_numpy(used)])
            np.testing.assert_array_equal(expected[1], mine[used])


def test_svms_of_another_c_and_overlap_are_fitted_to_the_same_examples_without_the_fold(trials):
    config = configure(svm={"C": 0.1, "positive_iou": 1.0})
    mined = trials._mine(config)
    for fold, svms in enumerate(trials._fold_svms(config, mined)):
        rest = torch.from_numpy(mined.pool.folds != fold)
        signs = mined.pool.signs.copy()
        count = len(mined.positives[1.0])
        assert (signs[:count] > 0).any(axis=1).all()  # the positives are first
        signs[:count] = mined.positives[1.0]
        objective = Hinge(0.1, config.svm.bias, config.svm.positive_weight, config.svm.norm / mined.norm)
        alone = fit_svms(mined.pool.vectors[rest], signs[rest.numpy()], objective, 1e-5)
        ours = svms(mined.pool.vectors.float())
        torch.testing.assert_close(ours, alone.svms(mined.pool.vectors.float()), atol=0.1, rtol=0.1)
    assert trials._mine(configure(svm={"C": 3.0})) is mined


def test_images_are_looked_at_in_their_order_and_again_with_the_same_result(trials, prepared):
    one, two = trials.detect(configure()), trials.detect(configure())
    assert len(one) == len(trials.draws.judged) == len(prepared)
    for first, second in zip(one, two, strict=True):
        for key in ("boxes", "labels", "scores"):
            assert np.array_equal(first[key], second[key])
    other = trials.detect(configure(detection={"nms": 0.9}))
    assert sum(len(found["scores"]) for found in other) > sum(len(found["scores"]) for found in one)


def test_examples_of_other_normalisations_are_forgotten(trials):
    trials.detect(configure())
    trials.detect(configure(pyramid={"levels": [3, 1], "normalize": "hellinger"}))
    mirrored = configure(pyramid={"levels": [3, 1], "normalize": "hellinger"}, svm={"flips": True})
    trials.detect(mirrored)
    assert trials._mined.keys() == {("none", False), ("hellinger", False), ("hellinger", True)}
    trials.keep(mirrored)
    assert trials._mined.keys() == {("hellinger", True)}


def test_mirrored_examples_are_in_the_fold_of_their_image(trials):
    def by_fold(mined) -> list[int]:
        signs = mined.positives[0.5].sum(axis=1)
        return np.bincount(mined.pool.folds[: len(signs)], signs).tolist()

    alone, both = (by_fold(trials._mine(configure(svm={"flips": flips}))) for flips in (False, True))
    assert len(alone) > 1
    assert both == [2 * count for count in alone]
