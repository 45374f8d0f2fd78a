"""One ground truth, named by options that fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from spp_det.commands.truth import Truth, score
from spp_det.errors import UserError
from tests.command_line import assert_one_line, spp_det


def test_the_truth_comes_from_one_place(tmp_path):
    with pytest.raises(UserError, match="say what to compare with: --voc"):
        score(tmp_path, Truth())
    with pytest.raises(UserError, match="say what to compare with: either --voc"):
        Truth(voc=tmp_path, coco=tmp_path / "instances.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "val"}, "--split val .*--voc"),
        ({"split": "test", "coco": Path("x.json")}, "--split test .*--voc"),
        ({"images": Path("photos")}, "--images photos .*--coco"),
        ({"images": Path("photos"), "voc": Path("voc")}, "--images photos .*--coco"),
    ],
)
def test_an_option_that_says_nothing_of_the_truth_is_refused(options, said):
    with pytest.raises(UserError, match=said) as caught:
        Truth(**options)
    assert "\n" not in str(caught.value)


def test_the_split_is_test_unless_another_is_named(cli_folder):
    voc = cli_folder / "voc"
    assert len(Truth(voc=voc).read()[0]) == len(Truth(voc=voc, split="test").read()[0]) == 3
    with pytest.raises(UserError, match=r"val\.txt"):
        Truth(voc=voc, split="val").read()


@pytest.mark.parametrize(
    ("command", "options", "parts"),
    [
        ("report", ("--split", "val"), ("--split val", "--voc")),
        ("report", ("--images", "photos"), ("--images photos", "--coco")),
        ("evaluate", ("--voc", "voc", "--images", "photos"), ("--images photos", "--coco")),
        ("evaluate", ("--coco", "x.json", "--split", "test"), ("--split test", "--voc")),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(tmp_path, command, options, parts):
    assert_one_line(spp_det(command, tmp_path, *options), *parts)
