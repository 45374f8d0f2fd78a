"""scripts/reproduce_voc07.sh, run as a user runs it, on a few photos laid out like VOC's two years."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spp_det import Detector
from spp_det.data.synthetic import generate_voc

ROOT = Path(__file__).parent.parent
SMALL = (
    *("backbone.name=zf5_small", "backbone.weights=random", "backbone.scales=[96, 128]"),
    *("fc.weights=random", "fc.width=32", "finetune.steps=3", "finetune.last_steps=1", "runtime.device=cpu"),
)

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def reproduce(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script with this interpreter, and no way to the network."""
    settings = {
        **{"SKIP_SETUP": "1", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "COLUMNS": "150"},
        **{"VOC": str(folder / "data"), "OUTPUT": str(folder / "run")},
        **{f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")},
    }
    command = ["bash", str(ROOT / "scripts" / "reproduce_voc07.sh"), *arguments]
    env = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=env | settings | environment, cwd=folder
    )


def test_it_runs_from_the_data_to_the_figures_beside_the_published_ones(tmp_path):
    devkit = tmp_path / "data" / "VOCdevkit"
    generate_voc(devkit / "VOC2007", {"trainval": 4, "test": 2}, seed=1, sizes=((130, 110),))
    generate_voc(devkit / "VOC2012", {"trainval": 3}, seed=2, sizes=((130, 110),))  # ids of VOC2007 again
    done = reproduce(tmp_path, "voc0712_vgg16", *SMALL)
    assert done.returncode == 0, done.stderr
    for split in ("VOC2007:trainval", "VOC2007:test", "VOC2012:trainval"):
        assert f"{split} is in {devkit}" in done.stderr
    assert "trained on 7 images" in done.stderr
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text())["images"] == 7
    assert Detector.load(run / "model.safetensors").settings.fc.layer == "fc7"
    figures = json.loads((run / "figures.json").read_text())
    ours = f"{100 * figures['voc']['mAP_11point']:.1f}"
    rows = re.findall(r"│ voc0712_vgg16 .*", done.stdout)
    cells = [[cell.strip() for cell in row.strip("│ ").split("│")] for row in rows]
    row = ["voc0712_vgg16", "zf5_small", "2", "fc7", "regressed"]
    assert cells == [[*row, "-", "this run"], [*row, ours, "this run"]]  # before the run, and after it
    for published in ("43.0", "44.9", "44.2", "55.2", "58.0", "59.2", "58.5", "63.1"):
        assert published in done.stdout.split("mAP by 11 points")[1]

    journal = run / "test" / "detections.jsonl"
    begun, first, *rest = journal.read_bytes().splitlines(keepends=True)
    kept = first.replace(b": ", b":  ", 1)  # shows whether the photo was looked at again
    journal.write_bytes(begun + kept)  # of a run that was killed
    (run / "figures.json").unlink()
    again = reproduce(tmp_path, "voc0712_vgg16", *SMALL)
    assert again.returncode == 0, again.stderr
    assert journal.read_bytes() == b"".join([begun, kept, *rest])
    assert json.loads((run / "figures.json").read_text()) == figures


def test_without_data_and_network_it_ends_in_the_line_that_says_what_to_fetch(tmp_path):
    done = reproduce(tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "VOCtrainval_06-Nov-2007.tar" in errors[0]
    assert f"by hand into {tmp_path / 'data'}" in errors[0]
    assert "== spp-det train" not in done.stdout


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path):
    done = reproduce(tmp_path, "voc0712_vgg16", "seed=3", DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"== spp-det (\w+)", done.stdout)
    assert commands == ["download", "train", "evaluate"]
    assert "VOC2007:trainval VOC2007:test VOC2012:trainval" in done.stdout
    assert re.search(r"^== spp-det train \S+voc0712_vgg16.yaml .* seed=3$", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    done = reproduce(tmp_path, "voc07_resnet")
    assert done.returncode == 2
    assert done.stderr.startswith("reproduce_voc07: no recipe is called voc07_resnet; there are ")
    assert "voc07_alexnet.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_setting_that_is_not_there_is_named_before_anything_runs(tmp_path):
    done = reproduce(tmp_path, "backbone.scale=[480]")
    assert done.returncode == 2
    assert "did you mean backbone.scales?" in done.stderr
    assert "== spp-det" not in done.stdout
