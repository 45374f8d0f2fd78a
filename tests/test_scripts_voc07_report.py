"""Expected costs, checked against sums made by hand, and which published figure a run is held against."""

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
NOWHERE = "data.root=nowhere"  # so that images are those of the whole splits


spec = importlib.util.spec_from_file_location("voc07_report", ROOT / "scripts" / "voc07_report.py")
script = importlib.util.module_from_spec(spec)
sys.modules["voc07_report"] = script  # where dataclasses look their module up
spec.loader.exec_module(script)


def recipe(name: str, *overrides: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml", [NOWHERE, *overrides])


def costs(name: str, *overrides: str, cores: int = 2):
    found = script.expected_costs(recipe(name, *overrides), cores)
    return {cost.stage.split(",")[0].split(":")[0]: cost for cost in found}


def shown(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


# Cells of 500 x 375 at stride 16: 43 x 57 at 688; 30 x 40, 36 x 48, 54 x 72 and 75 x 100 at the others.
@pytest.mark.parametrize(
    ("name", "disk"),
    [
        ("voc07_alexnet", 5011 * 2451 * 256 * 2 / 1e9),
        ("voc07_zf5", 5011 * 16767 * 256 * 2 / 1e9),
        ("voc07_vgg16", 5011 * 16767 * 512 * 2 / 1e9),
        ("voc0712_vgg16", (5011 + 11540) * 16767 * 512 * 2 / 1e9),
    ],
)
def test_maps_are_all_cells_of_all_images_in_half_precision(name, disk):
    assert costs(name)["conv5 maps"].disk == pytest.approx(disk)


def test_hours_are_those_of_all_images_on_the_cores_there_are():
    two, eight = costs("voc07_vgg16"), costs("voc07_vgg16", cores=8)
    assert two["selective search"].hours == pytest.approx(5011 * 1.2 / 2 / 3600)
    assert two["conv5 maps"].hours == pytest.approx(5011 * 1.025 * 16767 / 2451 / 3600)
    for stage in ("selective search", "conv5 maps", "detection"):
        assert eight[stage].hours == pytest.approx(two[stage].hours / 4)
    assert eight["conv5 maps"].memory > two["conv5 maps"].memory
    assert costs("voc0712_vgg16")["detection"].hours == pytest.approx(two["detection"].hours)


def test_stages_that_a_recipe_leaves_out_are_left_out():
    assert "fine-tuning" not in costs("voc07_alexnet")
    assert "box regression" not in costs("voc07_alexnet")
    assert {"fine-tuning", "box regression"} <= set(costs("voc07_zf5"))
    assert "fine-tuning" not in costs("voc07_zf5", "finetune.enabled=false")


def test_fine_tuning_costs_what_its_steps_cost():
    paper, short = (
        script.expected_costs(recipe("voc07_zf5", *steps), 2)
        for steps in ((), ("finetune.steps=20000", "finetune.last_steps=10000"))
    )
    paper, short = (
        next(cost for cost in found if cost.stage.startswith("fine-tuning")) for found in (paper, short)
    )
    assert short.hours == pytest.approx(paper.hours / 10)
    assert paper.stage == "fine-tuning, 300000 steps, 5.2 TB of maps read"  # 2 images of 16767 * 512 bytes
    assert short.stage == "fine-tuning, 30000 steps, 0.5 TB of maps read"


def test_a_network_that_has_not_been_timed_has_no_hours():
    found = costs("voc07_alexnet", "backbone.name=zf5_small")
    assert found["conv5 maps"].hours is found["detection"].hours is None
    assert "expected" in shown(script.costs_table(recipe("voc07_alexnet"), 2)).lower()


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
