"""Which published figure a run is held against, and the table that shows it."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from spp_det.config.file import load_config
from spp_det.config.settings import Config

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"


spec = importlib.util.spec_from_file_location("voc07_report", ROOT / "scripts" / "voc07_report.py")
script = importlib.util.module_from_spec(spec)
sys.modules["voc07_report"] = script  # where dataclasses look their module up
spec.loader.exec_module(script)


def recipe(name: str, *overrides: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml", overrides)


def shown(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("name", "overrides", "figure"),
    [
        ("voc07_alexnet", (), 43.0),
        ("voc07_zf5", (), 59.2),
        ("voc07_zf5", ("bbox.enabled=false",), 55.2),
        ("voc07_zf5", ("backbone.scales=[688]",), 58.0),
        ("voc07_vgg16", (), 63.1),
        ("voc07_alexnet", ("features=rcnn",), 44.2),
        ("voc0712_vgg16", (), None),
        (
            "voc07_vgg16",
            (
                "fc.layer=pool5",
                "finetune.enabled=false",
            ),
            None,
        ),
        ("voc07_zf5", ("data.test=VOC2012:val",), None),
    ],
)
def test_a_run_is_held_against_the_figure_of_its_own_settings(name, overrides, figure):
    against = script.counterpart(recipe(name, *overrides))
    assert (None if against is None else against.mAP) == figure


def test_the_table_shows_every_published_figure_ours_and_the_difference():
    text = shown(script.comparison_table("mine[red]", recipe("voc07_zf5"), 0.5703))
    for row in script.PUBLISHED:
        assert f"{row.mAP:.1f}" in text
    assert "mine[red]" in text
    assert "57.0" in text
    assert "-2.2 against SPP-net" in text
    assert "no figure has been published" in shown(script.comparison_table("x", recipe("voc0712_vgg16"), 0.7))
    assert "against" not in shown(script.comparison_table("x", recipe("voc07_zf5"), None))
