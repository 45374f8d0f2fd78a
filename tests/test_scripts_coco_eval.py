"""scripts/coco_eval.py, run as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from spp_det.evaluation.coco import evaluate_coco
from spp_det.evaluation.undefined import as_json

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


@pytest.fixture
def main():
    """The script's own entry, without the seconds that a new interpreter takes to import torch."""
    path = ROOT / "scripts" / "coco_eval.py"
    spec = importlib.util.spec_from_file_location("coco_eval", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return lambda *arguments: script.main([str(argument) for argument in arguments])


def test_prints_and_writes_the_figures(main, files, capsys):
    assert main(files / "instances.json", files / "results.json", "--json", files / "out.json") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "AP75" in shown.out
    assert "raccoon" in shown.out
    figures = json.loads((files / "out.json").read_text())
    whole, _ = evaluate_coco(INSTANCES, RESULTS)
    assert figures["coco"] == as_json(whole)
    assert figures["voc"]["per_class"]["raccoon"]["area"] == 0.5


@pytest.mark.parametrize("wrong", ["missing.json", "instances.json"])
def test_a_wrong_file_is_one_line_and_exit_code_2(main, files, capsys, wrong):
    assert main(files / "instances.json", files / wrong) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert wrong in shown.err


def test_a_place_that_cannot_be_written_to_is_one_line(main, files, capsys):
    inside_a_file = files / "results.json" / "out.json"
    assert main(files / "instances.json", files / "results.json", "--json", inside_a_file) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_as_a_command(files):
    command = [sys.executable, ROOT / "scripts" / "coco_eval.py", files / "instances.json", files / "no.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("coco_eval: ")
    assert len(done.stderr.splitlines()) == 1
