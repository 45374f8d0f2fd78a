"""The rows of the paper's table 9: which there are, and what each depends on."""

from __future__ import annotations

import pytest

from spp_det.config.file import dump_config, load_config, parse_config
from spp_det.config.network import FIVE_SCALES
from spp_det.config.settings import Config
from spp_det.errors import UserError
from spp_det.training.table9 import choose, table_rows

KINDS = ["pool5", "pool5+bb", "fc6", "fc6+bb", "ft-fc6", "ft-fc6+bb", "ft-fc7", "ft-fc7+bb"]


def recipe(**sections: object) -> Config:
    return parse_config(sections, "test")


def test_the_paper_s_table_has_each_model_at_one_scale_and_at_five():
    rows = table_rows(recipe(backbone={"scales": [480]}))
    assert [row.name for row in rows] == [f"{kind}-{scales}" for scales in ("1sc", "5sc") for kind in KINDS]
    assert [row.config.backbone.scales for row in rows] == [(480,)] * 8 + [FIVE_SCALES] * 8
    asked = [row.config for row in rows[:8]]
    assert [c.fc.layer for c in asked] == ["pool5"] * 2 + ["fc6"] * 4 + ["fc7"] * 2
    assert [c.finetune.enabled for c in asked] == [False] * 4 + [True] * 4
    assert {c.finetune.layer for c in asked[4:]} == {"fc7"}  # one network for both
    assert [c.bbox.enabled for c in asked] == [False, True] * 4
    assert not any(row.refusal for row in rows)  # an ImageNet AlexNet has fc6 and fc7


@pytest.mark.parametrize(
    ("own", "several", "one", "many"),
    [
        ([480], None, 480, FIVE_SCALES),
        ([480], [240, 480], 480, (240, 480)),
        (list(FIVE_SCALES), None, 688, FIVE_SCALES),  # the paper's single scale
        ([240, 400, 640], None, 400, (240, 400, 640)),
        ([240, 400, 640], [96, 128], 400, (96, 128)),
    ],
)
def test_the_scales_are_the_recipe_s_or_those_asked_for(own, several, one, many):
    rows = table_rows(recipe(backbone={"scales": own}), several)
    assert {row.config.backbone.scales for row in rows} == {(one,), many}
    assert rows[-1].name == f"ft-fc7+bb-{len(many)}sc"


def test_every_row_is_a_recipe_that_can_be_written_and_read(tmp_path):
    for row in table_rows(recipe(output=str(tmp_path), scorer="svm", fc={"layer": "fc6"})):
        (tmp_path / "row.yaml").write_text(dump_config(row.config))
        assert load_config(tmp_path / "row.yaml") == row.config
        assert row.config.output == tmp_path / row.name
        assert row.config.runtime.cache == tmp_path / "cache"


def test_a_recipe_with_a_softmax_is_compared_by_svms():
    tuned = {"fc": {"layer": "fc7"}, "finetune": {"enabled": True}, "scorer": "softmax"}
    assert {row.config.scorer for row in table_rows(recipe(**tuned))} == {"svm"}


def test_rcnn_has_no_scales():
    rows = table_rows(recipe(features="rcnn"))
    assert [row.name for row in rows] == [f"{kind}-rcnn" for kind in KINDS]


def test_fc6_as_it_is_must_have_been_trained_somewhere():
    refused = [row.kind for row in table_rows(recipe(backbone={"name": "squeezenet1_0"})) if row.refusal]
    assert refused == ["fc6", "fc6+bb"] * 2
    drawn = recipe(backbone={"name": "squeezenet1_0"}, fc={"weights": "random"})
    assert not any(row.refusal for row in table_rows(drawn))


def test_a_row_is_kept_while_nothing_changes_that_it_depends_on():
    def keys(**sections: object) -> dict[str, str]:
        return {row.name: row.key for row in table_rows(recipe(**sections))}

    before = keys()
    assert len(set(before.values())) == len(before)
    assert keys(output="elsewhere", runtime={"workers": 1}) == before

    def changed(**sections: object) -> set[str]:
        return {name.rsplit("-", 1)[0] for name, key in keys(**sections).items() if key != before[name]}

    assert changed(svm={"C": 0.1}) == set(KINDS)
    assert changed(finetune={"steps": 5}) == {"ft-fc6", "ft-fc6+bb", "ft-fc7", "ft-fc7+bb"}
    assert changed(fc={"width": 8}) == set(KINDS[2:])
    assert changed(bbox={"ridge": 5}) == {kind for kind in KINDS if kind.endswith("+bb")}


def test_rows_are_chosen_by_kind_or_by_name():
    rows = table_rows(recipe())
    assert choose(rows, None) == rows
    assert [row.name for row in choose(rows, "ft-fc7+bb-5sc, pool5")] == [
        "pool5-1sc",
        "pool5-5sc",
        "ft-fc7+bb-5sc",
    ]
    with pytest.raises(UserError, match=r"'fc9'; there are pool5, .*ft-fc7.bb, .* as ft-fc7.bb-5sc"):
        choose(rows, "pool5,fc9")


@pytest.mark.parametrize(
    ("several", "said"),
    [([480], "at least two"), ([480, 480], "must ascend"), ([480, 9000], "9000"), ([480, 3000], "max_side")],
)
def test_scales_that_no_recipe_could_have_are_refused(several, said):
    with pytest.raises(UserError, match=said):
        table_rows(recipe(), several)
