"""The settings of pre-training: the paper's by default, and refused in one line where they make no sense."""

from __future__ import annotations

import pytest

from spp_det.config.file import dump_config, load_config
from spp_det.config.pretrain import PretrainConfig
from tests.refusals import refusal


def load(path, *overrides: str) -> PretrainConfig:
    return load_config(path, overrides, kind=PretrainConfig)


def test_the_defaults_are_valid_and_are_the_papers(empty_config):
    config = load(empty_config)
    assert config == PretrainConfig() == PretrainConfig.model_validate(config.model_dump())
    assert config.pyramid.levels == (6, 3, 2, 1)
    assert (config.train.sizes, config.train.learning_rate, config.fc.dropout) == ((224,), 0.01, 0.5)


def test_what_is_dumped_loads_to_an_equal_config(empty_config, tmp_path):
    config = load(empty_config, "train.sizes=[180, 224]", "test.views=[full]", "data.test=null", "output=x y")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.sizes=[]", "train.sizes = []: must have at least 1 item"),
        ("train.sizes=[8]", "train.sizes = 8: must be greater than or equal to 16"),
        ("train.sizes=224", "list: [224]"),
        ("train.batch=1", "greater than or equal to 2"),
        ("train.optimizer=lamb", "'sgd' or 'adamw'"),
        ("train.drops=[0]", "greater than or equal to 1"),
        ("fc.layers=3", "less than or equal to 2"),
        ("fc.dropout=1", "less than 1"),
        ("test.views=[]", "at least 1 item"),
        ("test.views=[side]", "'full' or 'multi_view'"),
        ("test.sizes=[2200]", "test.max_side = 2400: must be at least 2515"),
        ("train.size=[224]", "unknown key train.size; did you mean train.sizes?"),
        ("backbone.scales=[480]", "unknown key backbone.scales"),
        ("scales=[480]", "unknown key scales"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(empty_config, override, message):
    assert message in refusal(empty_config, override, kind=PretrainConfig)
