"""One training and detection by two processes, each with a cache of its own: what a single process finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import spp_det
from spp_det.commands.train import run_training
from spp_det.config.file import load_config
from spp_det.data.synthetic import generate_voc
from spp_det.model.detector import Detector
from spp_det.runtime.cache import Cache
from spp_det.training import checkpoint
from tests.command_line import spp_det as spp_det_here

RECIPE = {
    "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
    "pyramid": {"levels": [3, 1]},
    "proposals": {"max_side": 90},
    "fc": {"layer": "fc6", "weights": "random", "width": 24},
    "finetune": {
        **{"enabled": True, "steps": 8, "last_steps": 2, "batch": 20, "held_out": 0.2, "dropout": 0},
        **{"learning_rate": 1e-3, "log_every": 5, "checkpoint_every": 3},
    },
    "svm": {"retrain_after": 60},
    "runtime": {"device": "cpu"},
}

RANK = """
import os, sys
from spp_det import cli

if os.environ.get("FAILING") == os.environ["RANK"]:
    from spp_det.commands import process
    from spp_det.errors import UserError
    from spp_det.training.images import TrainingImages

    def fail(*_):
        raise UserError("only this one cannot go on")

    TrainingImages.make_maps = fail
    process.GRACE = 0.5

sys.argv = [argument.replace("@", os.environ["RANK"]) for argument in sys.argv]
cli.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set with a file in each split that is no image, and a recipe."""
    folder = tmp_path_factory.mktemp("ranks")
    generate_voc(folder / "voc", {"trainval": 7, "test": 4}, seed=5, sizes=((130, 100), (100, 120)))
    for split in ("trainval", "test"):
        name = (folder / "voc" / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[2]
        (folder / "voc" / "JPEGImages" / f"{name}.jpg").write_text("not a photo")
    recipe = RECIPE | {"data": {"root": str(folder / "voc"), "test": "test"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "rank.py").write_text(RANK)
    return folder


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def ended(folder) -> subprocess.CompletedProcess[str]:
    """The training by two processes, into the folder ``two``: from where one was stopped amid fine-tuning."""
    store = Cache.store

    def dying(self, stage, key, arrays):
        store(self, stage, key, arrays)
        if stage == "finetune":
            raise Killed

    config = load_config(folder / "recipe.yaml", [f"output={folder}/two", f"runtime.cache={folder}/cache0"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "store", dying)
        patch.setattr(checkpoint, "EVERY", float("inf"))  # none by the clock, however busy the machine is
        with pytest.raises(Killed):
            run_training(config)
    for stage in ("proposals", "maps"):
        Cache(folder / "cache0").prune(stage)
    output = f"output={folder / 'two'}"
    return by_two(folder, "train", folder / "recipe.yaml", output, f"runtime.cache={folder}/cache@")


def by_two(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line by two processes; @ in an argument is the rank of each."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [sys.executable, *torchrun, folder / "rank.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(spp_det.__file__).parents[1])} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_find_what_one_finds(folder, ended):
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("trained on 6 images") == 1
    log = (folder / "two" / "train.log").read_text()
    assert log.count("fine-tuning: from step 3") == 1  # one process logs
    assert sum("skipped: " in line for line in ended.stderr.splitlines()) == 2

    alone = run_training(load_config(folder / "recipe.yaml", [f"output={folder / 'one'}"]))
    figures = json.loads((folder / "two" / "metrics.json").read_text())
    assert figures["skipped"] == alone["skipped"]
    assert figures["test"]["skipped"] == alone["test"]["skipped"]
    assert figures["svm"]["fits"] == alone["svm"]["fits"] > 2
    same_detections(folder / "one" / "test", folder / "two" / "test")
    one, two = (Detector.load(folder / name / "model.safetensors") for name in ("one", "two"))
    np.testing.assert_allclose(one.head.layers["fc6"].weight, two.head.layers["fc6"].weight, atol=1e-6)


def same_detections(one: Path, two: Path) -> None:
    """Boxes to 1e-4 of a pixel, scores to 1e-3, images in the same order."""
    assert (one / "images.json").read_text() == (two / "images.json").read_text()
    lists = [json.loads((folder / "detections.json").read_text()) for folder in (one, two)]
    assert len(lists[0]) > 20
    for name in ("image_id", "category_id"):
        assert [each[name] for each in lists[0]] == [each[name] for each in lists[1]]
    boxes, scores = ([[each[name] for each in found] for found in lists] for name in ("bbox", "score"))
    np.testing.assert_allclose(*boxes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-3)


def test_each_process_kept_what_it_made_alone(folder, ended):
    assert ended.returncode == 0, ended.stderr

    def keys(rank: int, stage: str) -> set[str]:
        return {path.name for path in (folder / f"cache{rank}" / stage).rglob("*.safetensors")}

    for stage, counts in (
        ("proposals", (3 + 1, 3 + 2)),
        ("maps", (3, 3)),
    ):  # of the test images proposals too
        assert (len(keys(0, stage)), len(keys(1, stage))) == counts
        assert not keys(0, stage) & keys(1, stage)
    for stage, count in (("finetune", 1), ("norms", 2), ("svms", 1), ("regressors", 2 * 3)):
        assert len(keys(0, stage)) == count
        assert not keys(1, stage)


def test_two_processes_detect_what_one_detects(folder, ended, tmp_path):
    """The command line, with files that are no images among the photos."""
    assert ended.returncode == 0, ended.stderr
    photos, model = folder / "voc" / "JPEGImages", folder / "one" / "model.safetensors"
    command = ["detect", model, photos, "--device", "cpu", "--draw", "--out"]
    by_one = spp_det_here(*command, tmp_path / "one")
    assert by_one.code == 0, by_one.err
    two = by_two(folder, *command, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("in 9 images") == two.stderr.count("skipped 2 files") == 1
    same_detections(tmp_path / "one", tmp_path / "two")
    pictures = [sorted(path.name for path in (tmp_path / n / "pictures").iterdir()) for n in ("one", "two")]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 9


def test_one_process_that_fails_ends_all_with_its_line(folder, tmp_path):
    failed = by_two(folder, "train", folder / "recipe.yaml", f"output={tmp_path}", FAILING="1")
    assert failed.returncode != 0
    assert "error: only this one cannot go on" in failed.stderr
    assert not (tmp_path / "model.safetensors").exists()
    assert "UserError" not in failed.stderr
