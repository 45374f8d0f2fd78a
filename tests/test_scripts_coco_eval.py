"""scripts/coco_eval.py, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spp_det.evaluation.coco import evaluate_coco

ROOT = Path(__file__).parent.parent
INSTANCES = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 100}],
    "categories": [{"id": 3, "name": "raccoon"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [70, 70, 20, 20], "area": 400, "iscrowd": 0},
    ],
}
RESULTS = [{"image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 45], "score": 0.5}]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    return tmp_path


def run(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "coco_eval.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=None, check=False)


def test_prints_and_writes_the_figures(files):
    done = run(files / "instances.json", files / "results.json", "--json", files / "out.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "AP75" in done.stdout
    assert "raccoon" in done.stdout
    figures = json.loads((files / "out.json").read_text())
    assert figures["coco"] == evaluate_coco(INSTANCES, RESULTS)
    assert figures["voc"]["per_class"]["raccoon"]["area"] == 0.5


@pytest.mark.parametrize("wrong", ["missing.json", "instances.json"])
def test_a_wrong_file_is_one_line_and_exit_code_2(files, wrong):
    done = run(files / "instances.json", files / wrong)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert wrong in done.stderr


def test_a_missing_argument_is_exit_code_2(files):
    assert run(files / "instances.json").returncode == 2
