"""Keys: each differs with everything that the result of its stage depends on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from spp_det.config.network import Pyramid
from spp_det.config.settings import SVM, BoxRegression, Detection, FineTune
from spp_det.model.head import FCHead
from spp_det.training import keys
from spp_det.training.folds import Folds
from spp_det.training.keys import (
    finetune_key,
    maps_key,
    norm_key,
    probabilities_key,
    regressors_key,
    svms_key,
    vectors_key,
)

HEAD, OTHER = (FCHead("fc6", 12, 4, seed) for seed in (0, 1))
ORDER = np.array([2, 0, 1])
NETWORK = ("alexnet", "weights")
SEED, NEXT = np.random.default_rng(1), np.random.default_rng(2)

# Of each key: the stage, how it is made, and arguments that each make another one.
CASES = {
    "maps": (
        maps_key,
        ("image", ("spp", 480, 2400), NETWORK, "cpu"),
        ("other", ("spp", 688, 2400), ("alexnet", "trained"), "cuda"),
    ),
    "finetune": (
        finetune_key,
        ("vectors", HEAD, ("a", "b"), FineTune(), 0),
        ("other", OTHER, ("b", "a"), FineTune(dropout=0.4), 1),
    ),
    "norms": (norm_key, ("vectors", [(1, 5)], 200, HEAD), ("other", [(1, 6)], 100, None)),
    "svms": (
        svms_key,
        ("vectors", HEAD, ("a", "b"), ORDER, 20.0, SVM(), Folds.none(3)),
        ("other", None, ("a", "c"), ORDER[::-1], 21.0, SVM(C=1.0), Folds.draw(3, 2, 0)),
    ),
    "regressors": (
        regressors_key,
        ("vectors", 20.0, SEED, BoxRegression(), Folds.none(3)),
        ("other", 21.0, NEXT, BoxRegression(ridge=1), Folds.draw(3, 2, 0)),
    ),
    "probabilities": (
        probabilities_key,
        (["svms", "regressors"], Detection(), ORDER),
        (["svms", "others"], Detection(nms=0.4), ORDER[:2]),
    ),
    "vectors": (
        vectors_key,
        ("images", Pyramid(), "cpu"),
        ("other", Pyramid(levels=(2, 1)), "cuda"),
    ),
}


@pytest.mark.parametrize("stage", CASES)
def test_every_argument_and_the_version_make_another_key(stage, monkeypatch):
    make, arguments, others = CASES[stage]
    found = [make(*arguments)]
    assert make(*arguments) == found[0]
    for place, other in enumerate(others):
        found.append(make(*arguments[:place], other, *arguments[place + 1 :]))
    if stage in keys.VERSIONS:
        monkeypatch.setitem(keys.VERSIONS, stage, keys.VERSIONS[stage] + 1)
        found.append(make(*arguments))
    assert len(set(found)) == len(found)
    assert {*keys.VERSIONS, "vectors"} == CASES.keys()


def test_nothing_that_a_result_does_not_depend_on_is_in_its_key():
    tune = partial(finetune_key, "vectors", HEAD, ("a",), seed=0)
    assert tune(settings=FineTune(checkpoint_every=7)) == tune(settings=FineTune())
