"""Pre-training from a folder of images to a backbone: interrupted, resumed, refused, and in two processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spp_det import __file__ as package
from spp_det.commands.pretrain import run_pretraining
from spp_det.config.file import load_config
from spp_det.config.pretrain import PretrainConfig
from spp_det.data.class_folder import write_class_folder
from spp_det.data.synthetic import CLASSES
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import encode_jpeg
from spp_det.model.backbone import Backbone
from spp_det.pretraining import pretrain
from tests.command_line import Ended, assert_one_line, spp_det

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}
RECIPE = {
    "backbone": {"name": "zf5_small"},
    "pyramid": {"levels": [2, 1]},
    "fc": {"layers": 1, "width": 16, "dropout": 0.2},
    "train": {
        **{"sizes": [32, 48], "epochs": 4, "batch": 8, "optimizer": "adamw", "learning_rate": 0.003},
        **{"schedule": "one_cycle"},
    },
    "test": {"sizes": [32, 40]},
    "runtime": {"device": "cpu", "workers": 2},
}

pytestmark = pytest.mark.bytes  # losses are compared digit by digit, and depend on the number of threads


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Noise of three colours, a file that is no image in each split, and a recipe."""
    folder, rng = tmp_path_factory.mktemp("pretraining"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                noise = rng.normal(colour, 40, (40, 50, 3)).clip(0, 255).astype(np.uint8)
                (folder / split / name / f"{index}.jpg").write_bytes(encode_jpeg(noise))
        (folder / split / "red" / "broken.jpg").write_text("not a photo")
    recipe = RECIPE | {"data": {"root": str(folder)}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def configure(folder: Path, output: Path, *overrides: str) -> PretrainConfig:
    return load_config(folder / "recipe.yaml", [f"output={output}", *overrides], kind=PretrainConfig)


@pytest.fixture(scope="module")
def metrics(folder):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    found = run_pretraining(configure(folder, folder / "run"))
    assert torch.equal(torch.random.get_rng_state(), before)
    return found


def skipped(folder: Path, split: str) -> dict[str, str]:
    """What the figures say of the file that is no image."""
    reason = "not an image, or in a format that is not supported"
    return {"file": str(folder / split / "red" / "broken.jpg"), "reason": reason}


def results(output: Path) -> tuple[bytes, dict]:
    figures = json.loads((output / "metrics.json").read_text())
    del figures["seconds"]
    return (output / "backbone.safetensors").read_bytes(), figures


def test_it_learns_and_tests_at_sizes_it_never_saw(folder, metrics):
    assert json.loads((folder / "run" / "metrics.json").read_text())["test"] == metrics["test"]
    assert (metrics["images"], metrics["test"]["images"]) == (24, 9)
    assert metrics["skipped"] == [skipped(folder, "train")]
    assert metrics["test"]["skipped"] == [skipped(folder, "test")]
    assert [epoch["size"] for epoch in metrics["epochs"]] == [32, 48, 32, 48]
    for view in ("full", "multi_view"):
        assert set(metrics["test"][view]) == {"32", "40"}
        for accuracy in metrics["test"][view].values():
            assert accuracy["top1"] > 0.6  # chance is a third
            assert accuracy["top5"] == 1


def test_its_file_is_a_backbone_for_train(folder, metrics):
    assert metrics["images"] == 24
    backbone = Backbone("zf5_small").load_weights(str(folder / "run" / "backbone.safetensors"))
    assert backbone.digest() != Backbone("zf5_small").digest()
    config = load_config(folder / "run" / "config.yaml", (), kind=PretrainConfig)
    assert config == configure(folder, folder / "run")


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(folder, metrics, tmp_path, monkeypatch):
    def killed(*arguments) -> None:
        save(*arguments)
        if len(arguments[2].epochs) == 3:
            raise KeyboardInterrupt

    save = pretrain.save_checkpoint
    monkeypatch.setattr(pretrain, "save_checkpoint", killed)
    config = configure(folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_pretraining(config)
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    assert run_pretraining(config)["epochs"] == metrics["epochs"]
    assert results(tmp_path / "run") == results(folder / "run")


def test_a_finished_run_is_only_tested_again(folder, metrics):
    before = results(folder / "run")
    again = run_pretraining(configure(folder, folder / "run", "test.sizes=[56]", "test.views=[full]"))
    assert set(again["test"]["full"]) == {"56"}
    assert again["epochs"] == metrics["epochs"]
    assert (folder / "run" / "backbone.safetensors").read_bytes() == before[0]


def test_another_configuration_or_other_images_are_refused(folder, metrics, tmp_path):
    assert metrics["images"] == 24
    output = folder / "run"
    before = {path: path.read_bytes() for path in output.iterdir()}
    for name in ("red", "white"):
        (tmp_path / "train" / name).mkdir(parents=True)
        shutil.copy(folder / "train" / "red" / "0.jpg", tmp_path / "train" / name)
    for overrides, said in (
        (
            ("train.epochs=6", "seed=3"),
            r"config.yaml is .*\(seed: 0 -> 3; train\.epochs: 4 -> 6\): name another",
        ),
        ((f"data.root={tmp_path}", "data.test=null"), "data.root: .* -> "),
    ):
        with pytest.raises(UserError, match=said):
            run_pretraining(configure(folder, output, *overrides), lambda: pytest.fail("it was begun"))
        assert {path: path.read_bytes() for path in output.iterdir()} == before
    shutil.copytree(output, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"checkpoint.safetensors .*classes.*: .* -> .* images: "):
        run_pretraining(configure(folder, tmp_path / "run", f"data.root={tmp_path}", "data.test=null"))


def test_a_damaged_checkpoint_is_said_and_begun_anew(folder, metrics, tmp_path, caplog):
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    again = run_pretraining(configure(folder, tmp_path / "run"))
    assert f"{path} is damaged" in caplog.text
    assert "beginning anew" in caplog.text
    assert again["epochs"] == metrics["epochs"]
    assert results(tmp_path / "run")[0] == results(folder / "run")[0]


@pytest.mark.parametrize("content", ["svm: {C: 0.002}", "seed: [", "kind: mine"])
def test_the_folder_of_a_training_or_of_anything_else_is_left_alone(folder, tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml.*name another output, or remove"):
        run_pretraining(configure(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == content


def test_a_mistake_is_found_before_any_work(folder, tmp_path):
    with pytest.raises(UserError, match="val: no such folder"):
        run_pretraining(configure(folder, tmp_path / "run", "data.test=val"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"broken\.jpg: not an image"):
        run_pretraining(configure(folder, tmp_path / "run", "strict=true"))


RANK = """
import hashlib, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from spp_det import cli
from spp_det.runtime import distributed
from spp_det.pretraining import pretrain as pretraining

def noted(*arguments):
    trained = train(*arguments)
    state = b"".join(t.numpy().tobytes() for t in trained.network.state_dict().values())
    Path(sys.argv[3].split("=")[1], f"{distributed.rank()}.txt").write_text(hashlib.sha256(state).hexdigest())
    return trained

train, pretraining.pretrain = pretraining.pretrain, noted
cli.main()
"""


def test_two_processes_end_with_the_same_weights_and_one_writes(folder, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(tmp_path / "rank.py", "pretrain", folder / "recipe.yaml", f"output={tmp_path}"),
            *("train.epochs=2", "train.batch=10"),  # 24 images: an uneven share
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(package).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert ended.stderr.count("trained on 24 images") == 1
    log = (tmp_path / "train.log").read_text()
    assert log.count("epoch 2 of 2") == 1
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert (figures["images"], figures["test"]["images"], len(figures["epochs"])) == (24, 9, 2)
    assert figures["skipped"] == [skipped(folder, "train")]


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def pretrained(cli_folder) -> Ended:
    for split in ("train", "test"):
        dataset = read_voc(cli_folder / "voc", {"train": "trainval"}.get(split, split), CLASSES)
        write_class_folder(dataset, cli_folder / "objects" / split, smallest=30)
    recipe = {
        "output": str(cli_folder / "pretrained"),
        "data": {"root": str(cli_folder / "objects")},
        "backbone": {"name": "zf5_small"},
        "fc": {"layers": 1, "width": 8},
        "train": {"sizes": [32, 40], "epochs": 2, "batch": 8},
        "test": {"sizes": [36]},
        "runtime": {"device": "cpu"},
    }
    (cli_folder / "pretrain.yaml").write_text(yaml.safe_dump(recipe))
    return spp_det("pretrain", cli_folder / "pretrain.yaml")


def test_pretraining_leaves_a_backbone_that_train_takes(cli_folder, pretrained, tmp_path):
    assert pretrained.code == 0, pretrained.err
    run = cli_folder / "pretrained"
    assert {"backbone.safetensors", "checkpoint.safetensors", "config.yaml", "metrics.json", "train.log"} == {
        path.name for path in run.iterdir()
    }
    assert "multi_view" in pretrained.out
    assert f"backbone.name=zf5_small backbone.weights={run / 'backbone.safetensors'}" in pretrained.err
    assert "epoch 2 of 2: size 40" in (run / "train.log").read_text()
    weights = f"backbone.weights={run / 'backbone.safetensors'}"
    ended = spp_det("train", cli_folder / "recipe.yaml", weights, f"output={tmp_path}")
    assert ended.code == 0, ended.err


def test_mistakes_of_pretraining_end_in_one_line(cli_folder, pretrained, tmp_path):
    assert pretrained.code == 0
    recipe = cli_folder / "pretrain.yaml"
    assert_one_line(spp_det("pretrain", recipe, "train.size=[32]"), "did you mean train.sizes?")
    changed = spp_det("pretrain", recipe, "train.epochs=3")
    assert_one_line(changed, "train.epochs: 2 -> 3", "name another output")
    missing = spp_det("pretrain", recipe, f"data.root={tmp_path}", f"output={tmp_path / 'out'}")
    assert_one_line(missing, tmp_path / "train", "one folder of images a class")
