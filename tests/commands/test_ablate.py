"""The rows of the paper's table 9: which there are, and that no part of them is trained twice."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from spp_det.commands import ablate as ablation
from spp_det.commands.ablate import _kept, choose, run_ablation, table_rows
from spp_det.config.file import load_config, parse_config
from spp_det.config.settings import FIVE_SCALES, Config
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.model.detector import Detector
from spp_det.training import finetune, mining, regression
from spp_det.training.stages import train

KINDS = ["pool5", "pool5+bb", "fc6", "fc6+bb", "ft-fc6", "ft-fc6+bb", "ft-fc7", "ft-fc7+bb"]


def recipe(**sections: object) -> Config:
    return parse_config(sections, "test")


# ---------------------------------------------------------------- which rows there are


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
        (tmp_path / "row.yaml").write_text(ablation.dump_config(row.config))
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


# ---------------------------------------------------------------- running them


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    generate_voc(folder / "voc", {"trainval": 6, "test": 3}, seed=1, sizes=((110, 96),))
    return folder


def small(folder: Path, **data: str) -> Config:
    return recipe(
        output=str(folder / "run"),
        data={"root": str(folder / "voc"), "test": "test"} | data,
        backbone={"name": "zf5_small", "weights": "random", "scales": [64]},
        pyramid={"levels": [2, 1]},
        fc={"width": 8},
        finetune={"steps": 3, "last_steps": 1, "batch": 16},
        runtime={"device": "cpu", "precision": "float32"},
    )


@pytest.fixture(scope="module")
def ablated(folder):
    """The table, and how often each part was trained for it."""
    parts = [
        (regression, "fit_ridge"),
        (mining, "train_svms"),
        (finetune._Training, "step"),
        (ablation, "propose"),
    ]
    with ExitStack() as patches:
        spies = {
            name: patches.enter_context(
                patch.object(owner, name, autospec=True, side_effect=getattr(owner, name))
            )
            for owner, name in parts
        }
        figures = run_ablation(small(folder), [64, 96])
    return figures, {name: spy.call_count for name, spy in spies.items()}


@pytest.fixture(scope="module")
def figures(ablated):
    return ablated[0]


def test_each_row_has_its_figures_and_those_that_cannot_be_had_say_why(folder, figures):
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == [f"{kind}-{scales}" for scales in ("1sc", "2sc") for kind in KINDS]
    for name, row in rows.items():
        assert row["scales"] == ([64] if name.endswith("1sc") else [64, 96])
        if name.startswith("fc6"):
            assert "torchvision has no fc6 of zf5_small" in row["error"]
            assert not (folder / "run" / name).exists()
            continue
        assert 0 <= row["mAP75"] <= row["mAP50"] <= 1
        assert row["detect_seconds"] > 0
        assert row["train_seconds"] == pytest.approx(sum(row["seconds"].values()), abs=0.011)
        assert ("bbox" in row["seconds"]) == ("+bb" in name)
    assert json.loads((folder / "run" / "ablation.json").read_text()) == figures
    text = (folder / "run" / "ablation.md").read_text()
    assert all(name in text for name in rows)


def test_nothing_is_trained_twice(ablated):
    """Twice the scales, each with the regressors of 3 classes in 2 passes, one fine-tuning of 4 steps, and
    SVMs on three layers."""
    assert ablated[1] == {"fit_ridge": 2 * 6, "train_svms": 2 * 3, "step": 2 * 4, "propose": 1}


@pytest.mark.parametrize("name", ["pool5-1sc", "ft-fc6-2sc", "ft-fc7+bb-1sc"])
def test_a_row_s_model_is_the_one_that_train_makes(folder, figures, name, tmp_path):
    assert figures["rows"]
    row = folder / "run" / name
    train(load_config(row / "config.yaml")).detector.save(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (row / "model.safetensors").read_bytes()


def test_a_row_s_folder_is_that_of_a_training(folder, figures):
    assert figures["rows"]
    for kind in ("pool5", "pool5+bb"):
        row = folder / "run" / f"{kind}-1sc"
        detector = Detector.load(row / "model.safetensors")
        assert (not detector.regressors) == (kind == "pool5")
        metrics = json.loads((row / "metrics.json").read_text())
        assert metrics["test"]["voc"]["mAP_area"] is not None
        assert {"detections.json", "images.json"} <= {path.name for path in (row / "test").iterdir()}
    assert "bbox" not in json.loads((folder / "run" / "pool5-1sc" / "metrics.json").read_text())["seconds"]


def test_svms_on_fc6_and_on_fc7_see_the_same_network(folder, figures):
    assert figures["rows"]
    fc6, fc7 = (
        Detector.load(folder / "run" / f"ft-{layer}-1sc" / "model.safetensors").head
        for layer in ("fc6", "fc7")
    )
    assert (list(fc6.layers), list(fc7.layers)) == (["fc6"], ["fc6", "fc7"])
    assert fc6.layers["fc6"].weight.equal(fc7.layers["fc6"].weight)


def test_a_second_call_keeps_what_is_finished(folder, figures, monkeypatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr(ablation, "train", forbidden)
    monkeypatch.setattr(ablation, "propose", forbidden)
    assert run_ablation(small(folder), [64, 96], "pool5,ft-fc7") == figures


def test_other_photos_under_the_same_names_are_another_table(folder, figures):
    def kept() -> set[str]:
        content = ablation._content(small(folder), read_voc(folder / "voc", "test"))
        rows = [replace(row, content=content) for row in table_rows(small(folder), [64, 96])]
        return set(_kept(small(folder), rows))

    assert kept() == {row["name"] for row in figures["rows"]}
    for name in ("JPEGImages/trainval_00000.jpg", "JPEGImages/test_00000.jpg", "Annotations/test_00000.xml"):
        path = folder / "voc" / name
        before = path.read_bytes()
        path.write_bytes(
            before.replace(b"<difficult>0", b"<difficult>1") if path.suffix == ".xml" else before + b"0"
        )
        try:
            assert kept() == set(), name
        finally:
            path.write_bytes(before)


@pytest.mark.parametrize(
    "change", [{"mAP50": "high"}, {"scales": [1]}, {"error": 3}, {"train_seconds": None}]
)
def test_a_row_that_is_none_is_not_kept(folder, figures, change):
    path = folder / "run" / "ablation.json"
    content = ablation._content(small(folder), read_voc(folder / "voc", "test"))
    rows = [replace(row, content=content) for row in table_rows(small(folder), [64, 96])]
    before = set(_kept(small(folder), rows))
    first, *others = figures["rows"]
    path.write_text(json.dumps(figures | {"rows": [first | change, *others]}))
    try:
        assert before - set(_kept(small(folder), rows)) == {first["name"]}
    finally:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def test_an_interrupted_table_goes_on(folder, figures, monkeypatch):
    """The rows of one model are missing; the others stay as they are."""
    path = folder / "run" / "ablation.json"
    held = [row for row in figures["rows"] if row["kind"][:6] != "ft-fc7" or len(row["scales"]) == 1]
    path.write_text(json.dumps(figures | {"rows": held}))
    trained = []
    monkeypatch.setattr(ablation, "train", lambda config: trained.append(config.output.name) or train(config))
    again = run_ablation(small(folder), [64, 96])
    assert trained == ["ft-fc7+bb-2sc"]
    shares = [[(row["name"], row.get("mAP50")) for row in found["rows"]] for found in (figures, again)]
    assert shares[0] == shares[1]


def test_a_row_that_fails_does_not_stop_the_others(folder, figures, monkeypatch, tmp_path):
    assert figures["rows"]

    def train_but_not_pool5(config: Config):
        if config.fc.layer == "pool5":
            raise UserError("out of luck")
        return train(config)

    monkeypatch.setattr(ablation, "train", train_but_not_pool5)
    config = small(folder).model_copy(update={"output": tmp_path})
    config = config.model_copy(
        update={"runtime": config.runtime.model_copy(update={"cache": folder / "run" / "cache"})}
    )
    rows = {row["name"]: row for row in run_ablation(config, None, "pool5-1sc,ft-fc7-1sc")["rows"]}
    assert rows["pool5-1sc"]["error"] == "out of luck"
    assert rows["ft-fc7-1sc"]["mAP50"] >= 0
    assert "- pool5-1sc: out of luck" in (tmp_path / "ablation.md").read_text()
    with pytest.raises(UserError, match="no row could be had; pool5-1sc: out of luck"):
        run_ablation(config, None, "pool5-1sc")


def test_a_recipe_without_a_test_split_is_refused_before_any_work(folder, tmp_path):
    config = small(folder)
    config = config.model_copy(
        update={"output": tmp_path, "data": config.data.model_copy(update={"test": None})}
    )
    with pytest.raises(UserError, match=r"data\.test"):
        run_ablation(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[]", "{}", '{"rows": [{}]}', "no"])
def test_a_file_that_is_no_table_is_refused(folder, tmp_path, text):
    (tmp_path / "ablation.json").write_text(text)
    with pytest.raises(UserError, match=r"ablation\.json"):
        run_ablation(small(folder).model_copy(update={"output": tmp_path}))
