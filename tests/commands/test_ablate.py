"""The rows of the paper's table 9, trained and scored: no part of them is trained twice."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from spp_det.commands import ablate as ablation
from spp_det.commands.ablate import _kept, run_ablation
from spp_det.config.file import load_config, parse_config
from spp_det.config.settings import Config
from spp_det.data.dataset import read_splits
from spp_det.data.synthetic import generate_voc
from spp_det.errors import UserError
from spp_det.model.detector import Detector
from spp_det.training import finetune, regression, stages
from spp_det.training.stages import train
from spp_det.training.table9 import table_rows
from tests.command_line import spp_det

KINDS = ["pool5", "pool5+bb", "fc6", "fc6+bb", "ft-fc6", "ft-fc6+bb", "ft-fc7", "ft-fc7+bb"]


def recipe(**sections: object) -> Config:
    return parse_config(sections, "test")


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
        (stages, "train_svms"),
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

    monkeypatch.setattr(stages, "train", forbidden)
    monkeypatch.setattr(ablation, "propose", forbidden)
    assert run_ablation(small(folder), [64, 96], "pool5,ft-fc7") == figures


def test_other_photos_under_the_same_names_are_another_table(folder, figures):
    def kept() -> set[str]:
        content = ablation._content(small(folder), read_splits(small(folder).data, small(folder).seed))
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
    content = ablation._content(small(folder), read_splits(small(folder).data, small(folder).seed))
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
    monkeypatch.setattr(stages, "train", lambda config: trained.append(config.output.name) or train(config))
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

    monkeypatch.setattr(stages, "train", train_but_not_pool5)
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


# ---------------------------------------------------------------- the command


def test_the_ablation_prints_its_table_and_what_is_missing(cli_folder, model, tmp_path):
    assert model.exists()  # so the cache holds the proposals and maps
    cache = f"runtime.cache={cli_folder / 'run' / 'cache'}"
    words = ("data.test=test", f"output={tmp_path}", cache, "--rows", "pool5-1sc,fc6-1sc")
    ended = spp_det("ablate", cli_folder / "recipe.yaml", *words)
    assert ended.code == 0, ended.err
    assert "pool5-1sc" in ended.out
    assert "fc6-1sc: torchvision has no fc6 of zf5_small" in ended.err
    assert {"ablation.json", "ablation.md", "train.log", "pool5-1sc"} == {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "pool5-1sc" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("data.test = auto",)),
        (("data.test=test", "--rows", "pool6"), ("--rows", "'pool6'", "ft-fc7+bb")),
        (("data.test=test", "--five", "480,many"), ("--five", "480,many")),
        (("data.test=test", "--five", "480"), ("--five", "at least two")),
        (("data.test=test", "--five", "576,480"), ("[576, 480]", "must ascend")),
        (("data.test=test", "--rows", "fc6"), ("no row could be had", "fc6-1sc", "zf5_small")),
    ],
)
def test_a_wrong_request_for_an_ablation_is_one_line(cli_folder, tmp_path, words, parts):
    cache = f"runtime.cache={cli_folder / 'run' / 'cache'}"
    ended = spp_det("ablate", cli_folder / "recipe.yaml", f"output={tmp_path}", cache, *words)
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert all(part in ended.err.splitlines()[-1] for part in parts)
