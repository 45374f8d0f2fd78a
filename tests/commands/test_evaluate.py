"""Figures on the terminal and in files, of detections of any format."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from spp_det.data.synthetic import CLASSES
from tests.command_line import assert_one_line, spp_det


def test_evaluation_prints_and_writes_the_figures_that_training_ended_with(cli_folder, found, tmp_path):
    ended = spp_det(
        *("evaluate", found / "detections.json", "--voc", cli_folder / "voc", "--split", "test"),
        *("--json", tmp_path / "figures.json", "--html", tmp_path / "page.html"),
    )
    assert ended.code == 0, ended.err
    page = (tmp_path / "page.html").read_text()
    assert page.count('id="picture-') == 3
    assert "<h1>found</h1>" in page
    figures = json.loads((tmp_path / "figures.json").read_text())
    after_training = json.loads((cli_folder / "run" / "metrics.json").read_text())["test"]
    assert figures == {name: after_training[name] for name in figures}
    assert {"coco", "voc"} <= set(figures)
    assert figures["coco"]["AP50"] > 0
    assert "AP50" in ended.out
    assert f"{100 * figures['voc']['mAP_area']:.1f}" in ended.out


def test_evaluation_takes_any_format_and_writes_json_csv_and_markdown(cli_folder, found, tmp_path):
    everything = []
    for place in ("detections.json", "detections.csv", "voc", "yolo", "devkit", ""):
        outputs = [tmp_path / f"figures.{suffix}" for suffix in ("json", "csv", "md")]
        ended = spp_det(
            *("evaluate", found / place, "--voc", cli_folder / "voc", "--iou", 0.75, "--max-dets", 300),
            *("--json", outputs[0], "--csv", outputs[1], "--markdown", outputs[2]),
        )
        assert ended.code == 0, ended.err
        assert "AR300" in ended.out
        assert "AP at IoU 0.75" in ended.out
        assert "best F1 at" in ended.out
        assert "background" in ended.out
        everything.append([path.read_text() for path in outputs])
    assert all(one == everything[0] for one in everything)
    figures = json.loads(everything[0][0])
    assert figures["voc_at"]["0.75"]["mAP_area"] < figures["voc"]["mAP_area"]
    assert f"voc,0.5,,mAP_area,{figures['voc']['mAP_area']}" in everything[0][1]
    missed = figures["errors"][CLASSES[0]]["missed"]
    assert f"errors,0.5,{CLASSES[0]},missed,{missed}" in everything[0][1]
    for label, name in enumerate(figures["confusion"]["classes"]):
        assert figures["confusion"]["matrix"][label][label] == figures["errors"][name]["correct"]
        assert figures["confusion"]["missed"][label] == figures["errors"][name]["missed"]
    assert "## Best F1" in everything[0][2]
    assert "| *missed* |" in everything[0][2]
    assert "| AP@0.75 11-point |" in everything[0][2]


def test_curves_are_saved_at_every_threshold(cli_folder, found, tmp_path):
    curves = tmp_path / "curves.csv"
    voc = ("--voc", cli_folder / "voc")
    ended = spp_det("evaluate", found, *voc, "--iou", 0.75, "--save-curves", curves)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(curves.open(newline="")))
    assert {row["iou"] for row in rows} == {"0.5", "0.75"}
    assert {row["class"] for row in rows} <= set(CLASSES)
    one = [row for row in rows if (row["class"], row["iou"]) == (rows[0]["class"], "0.5")]
    scores = [float(row["score"]) for row in one]
    assert scores == sorted(set(scores), reverse=True)
    assert all(0 <= float(row["precision"]) <= 1 for row in rows)


@pytest.mark.parametrize("score", ["NaN", "Infinity", '"high"', "null"])
def test_a_score_that_is_no_number_is_an_error(cli_folder, found, tmp_path, score):
    shutil.copy(found / "images.json", tmp_path)
    row = f'{{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": {score}}}'
    (tmp_path / "detections.json").write_text(f"[{row}]")
    ended = spp_det("evaluate", tmp_path / "detections.json", "--voc", cli_folder / "voc")
    assert_one_line(ended, tmp_path / "detections.json", "score")


def test_evaluation_wants_one_ground_truth_that_exists(cli_folder, found, tmp_path):
    detections = found / "detections.json"
    assert_one_line(spp_det("evaluate", detections), "--voc", "--coco")
    both = spp_det("evaluate", detections, "--voc", cli_folder / "voc", "--coco", tmp_path / "x.json")
    assert_one_line(both, "--voc", "--coco")
    assert_one_line(spp_det("evaluate", detections, "--coco", tmp_path / "x.json"), tmp_path / "x.json")
    missing = spp_det("evaluate", detections, "--voc", cli_folder / "voc", "--split", "val")
    assert_one_line(missing, "val.txt", "test, trainval")
    none = spp_det("evaluate", tmp_path / "none.json", "--voc", cli_folder / "voc")
    assert_one_line(none, tmp_path / "none.json")


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1251"])
def test_what_a_terminal_cannot_encode_is_replaced(cli_folder, found, tmp_path, encoding):
    ended = subprocess.run(
        [sys.executable, "-m", "spp_det", "evaluate", str(found), "--voc", str(cli_folder / "voc"),
         "--json", str(tmp_path / "figures.json")],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert (ended.returncode, b"Traceback" in ended.stderr) == (0, False)
    assert b"AP50" in ended.stdout
    assert (tmp_path / "figures.json").exists()


def test_a_reader_that_has_seen_enough_is_no_failure(cli_folder, found, tmp_path):
    outputs = [tmp_path / f"figures.{suffix}" for suffix in ("json", "csv", "md")]
    options = [f"--{name}={path}" for name, path in zip(("json", "csv", "markdown"), outputs, strict=True)]
    command = [sys.executable, "-m", "spp_det", "evaluate", str(found), "--voc", str(cli_folder / "voc")]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*command, *options], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=300
    )
    os.close(writing)
    assert (ended.returncode, b"Error" in ended.stderr) == (0, False)
    assert all(path.exists() for path in outputs)
