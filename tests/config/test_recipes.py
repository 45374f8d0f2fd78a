"""Recipes by name, from whatever folder; and the one line for a name that none has."""

from __future__ import annotations

from pathlib import Path

import pytest

from spp_det.config.file import load_config
from spp_det.config.recipes import find_config, recipes
from tests.command_line import assert_one_line, spp_det
from tests.refusals import refusal

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_file_of_configs_is_a_recipe():
    assert list(recipes()) == sorted(path.stem for path in CONFIGS.iterdir())
    assert [path.read_bytes() for path in recipes().values()] == [
        path.read_bytes() for path in sorted(CONFIGS.iterdir())
    ]


@pytest.mark.parametrize("said", ["squeezenet_svm", "squeezenet_svm.yaml", Path("squeezenet_svm")])
def test_a_name_loads_the_recipe_and_overrides_go_over_it(said):
    config = load_config(said, ["seed=3"])
    assert config == load_config(CONFIGS / "squeezenet_svm.yaml", ["seed=3"])
    assert (config.backbone.name, config.seed) == ("squeezenet1_0", 3)


@pytest.mark.parametrize("name", ["squeezenet_svm", "squeezenet_svm.yaml", "mine", "mine.yml"])
def test_a_file_that_is_there_wins_over_a_name(tmp_path, name):
    (tmp_path / name).write_text("seed: 7\n")
    assert load_config(name).seed == 7


def test_a_folder_of_that_name_does_not_hide_the_recipe(tmp_path):
    (tmp_path / "squeezenet_svm").mkdir()
    assert load_config("squeezenet_svm").backbone.name == "squeezenet1_0"


@pytest.mark.parametrize("path", ["./mine/squeezenet_svm.yaml", "configs/squeezenet_svm.yaml"])
def test_what_has_a_folder_in_it_is_a_path(path):
    assert find_config(path) == Path(path)
    assert f"cannot read the config {Path(path)}" in refusal(path)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("squezenet_svm", "squeezenet_svm"),
        ("squeezenet", "squeezenet_svm"),
        ("voc07_vgg", "voc07_vgg16"),
        ("voc_alexnet.yaml", "voc07_alexnet"),
        ("pretrain", "pretrain_small"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, near):
    message = refusal(wrong)
    assert repr(wrong.removesuffix(".yaml")) in message
    assert near in message.split("did you mean ")[1]


@pytest.mark.parametrize("wrong", ["zzz", "mine.yml", "..", "a\0b", "x" * 5000])
def test_a_name_like_no_other_is_answered_with_all(wrong):
    message = refusal(wrong)
    assert all(name in message for name in recipes())
    assert len(message) < 500


@pytest.mark.parametrize("command", ["train", "ablate", "pretrain"])
def test_each_command_that_takes_a_config_takes_a_name(tmp_path, command):
    assert_one_line(spp_det(command, "voc07_alexnett"), "voc07_alexnet")
    recipe = "pretrain_small" if command == "pretrain" else "squeezenet_svm"
    splits = [] if command == "pretrain" else ["data.test=test"]
    ended = spp_det(command, recipe, "data.root=nowhere", f"output={tmp_path / 'run'}", *splits)
    assert_one_line(ended, "nowhere")
