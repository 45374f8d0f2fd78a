"""Settings chosen on folds: what is tried, what wins, and a recipe that trains."""

from __future__ import annotations

import json
from functools import partial

import pytest

from spp_det.commands import tune as tuning
from spp_det.commands.tune import _best, _grid, _search, _with, parse_tries, run_tuning
from spp_det.config.file import load_config, parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.errors import UserError
from spp_det.training import regression
from spp_det.training import tuning as shared
from tests.command_line import assert_one_line, spp_det

SMALL = {
    "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
    "pyramid": {"levels": [2, 1]},
    "runtime": {"device": "cpu", "precision": "float32"},
}
TRIES = ("svm.C=0.01,0.1", "pyramid.normalize=none", "bbox.ridge=1000,10", "svm.positive_iou=0.6,1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    generate_voc(folder / "voc", {"trainval": 6, "test": 2}, seed=1, sizes=((110, 96),))
    return folder


def small(folder, **sections):
    tree = {"output": str(folder / "run"), "data": {"root": str(folder / "voc"), "test": "none"}}
    return parse_config(SMALL | tree | sections, "test")


@pytest.fixture(scope="module")
def tuned(folder):
    """The figures, and how often the expensive parts ran."""
    counts = {"mined": 0, "regressed": 0}

    def counted(function, name, *arguments, **options):
        counts[name] += 1
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "train_svms", partial(counted, shared.train_svms, "mined"))
        patch.setattr(shared, "train_regressors", partial(counted, regression.train_regressors, "regressed"))
        figures = run_tuning(small(folder), parse_tries(TRIES), folds=2)
    return figures, counts


def test_every_value_is_tried_once_with_the_best_of_the_keys_before_it(tuned):
    figures, counts = tuned
    trials = [trial["settings"] for trial in figures["trials"]]
    assert len(trials) == 1 + 1 + 1 + 1 + 1  # the middle of all, and one other value of each key with two
    assert [trial["svm.C"] for trial in trials[:2]] == [0.1, 0.01]
    assert counts == {"mined": 1, "regressed": 2}
    assert figures["chosen"] in trials
    assert figures["photos"] == 6
    assert all(len(trial["folds"]) == 2 for trial in figures["trials"])


def test_the_recipe_trains_and_differs_from_the_first_only_in_what_was_chosen(folder, tuned):
    figures, _ = tuned
    recipe = load_config(folder / "run" / "tuned.yaml")
    assert recipe == _with(small(folder), figures["chosen"])
    assert json.loads((folder / "run" / "tune.json").read_text()) == json.loads(json.dumps(figures))
    assert (folder / "run" / "tune.md").read_text().count("| **") == 1
    ended = spp_det("train", folder / "run" / "tuned.yaml", f"output={folder / 'trained'}")
    assert ended.code == 0, ended.err


def test_the_best_value_is_one_that_is_better_by_more_than_chance():
    assert _best([[0.5, 0.6, 0.7]]) == 0
    assert _best([[0.5, 0.6, 0.7], [0.6, 0.7, 0.8]]) == 1  # by .1 in every fold
    assert _best([[0.5, 0.6, 0.7], [0.7, 0.6, 0.6], [0.5, 0.61, 0.7]]) == 0  # .033 and .003 of noise
    assert _best([[0.5, 0.6], [0.52, 0.62], [0.55, 0.65]]) == 2
    assert _best([[float("nan"), 0.6], [0.1, 0.7]]) == 1


def test_the_search_goes_on_from_the_winner_of_each_key(monkeypatch):
    """Of a figure that is highest at C .01 and ridge 300, from a recipe that is far off."""
    config = parse_config({"svm": {"C": 1.0}, "bbox": {"ridge": 1.0}}, "test")
    asked = []

    def tried(_config, values, *_):
        asked.append(values)
        good = 0.4 * (values["svm.C"] == 0.01) + 0.2 * (values["bbox.ridge"] == 300)
        return {"folds": [good, good], "settings": values}

    class Kept:
        def keep(self, config) -> None:
            asked.append(config.pyramid.normalize)

    monkeypatch.setattr(tuning, "_tried", tried)
    chosen = _search(config, _grid(config, {}), Kept(), None)["chosen"]
    assert (chosen["svm.C"], chosen["bbox.ridge"]) == (0.01, 300.0)
    assert chosen["pyramid.normalize"] == "hellinger"
    assert {values["svm.C"] for values in asked if isinstance(values, dict)} == {0.001, 0.003, 0.01, 1.0}


def test_suppression_is_hard_or_soft():
    config = parse_config({}, "test")
    soft = _with(config, {"detection.nms": "soft 0.5"})
    assert soft.detection.soft_nms == 0.5
    hard = _with(soft, {"detection.nms": 0.4})
    assert (hard.detection.nms, hard.detection.soft_nms) == (0.4, None)


@pytest.mark.parametrize(
    ("tries", "message"),
    [
        (["svm.bias=1"], "the keys are pyramid.normalize, svm.flips, svm.C"),
        (["svm.C"], "write the values as svm.C=VALUE,VALUE"),
        (["svm.C=1,"], "write the values as"),
        (["svm.C=1", "svm.C=2"], "svm.C is there already"),
        (["svm.C=*a"], "--try svm.C"),
    ],
)
def test_wrong_tries_are_refused(tries, message):
    with pytest.raises(UserError, match="--try") as caught:
        parse_tries(tries)
    assert message in str(caught.value)


def test_values_out_of_range_and_recipes_of_other_kinds_are_refused_before_anything_is_read(folder, tmp_path):
    recipe = folder / "run" / "config.yaml"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"output: {tmp_path / 'out'}\ndata: {{root: {folder / 'voc'}}}\n")
    assert_one_line(spp_det("tune", recipe, "--try", "svm.C=-1"), "svm.C = -1")
    assert_one_line(spp_det("tune", recipe, "--try", "detection.nms=soft x"), "detection.soft_nms")
    assert_one_line(spp_det("tune", recipe, "features=rcnn"), "frozen layers")
    assert not (tmp_path / "out").exists()
