"""The benchmark on small inputs: its figures, that they add up, and that its parts are what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from spp_det.cli import app
from spp_det.commands import benchmark
from spp_det.commands import benchmark_topics as topics
from spp_det.config.network import FC
from spp_det.report.tables import benchmark_table
from spp_det.runtime.devices import has_bfloat16


@pytest.fixture(scope="module")
def figures():
    """All of it, but for the processes that each start anew: the next test starts one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics, "_in_process", lambda job, *words: topics._timed(job, words))
        return benchmark.run_benchmark("zf5_small", quick=True)


def test_a_job_has_a_process_and_its_memory_to_itself():
    seconds, memory = topics._in_process(bytearray, 300 * 2**20)
    assert seconds > 0
    assert memory is None or memory > 300
    with pytest.raises(ZeroDivisionError):
        topics._in_process(divmod, 1, 0)


def test_every_topic_has_rows_with_times(figures):
    rounded = ["after the proposals, bfloat16"] if has_bfloat16(torch.device("cpu")) else []
    assert list(figures["figures"]) == [
        "pooling",
        "selective search",
        "after the proposals",
        *rounded,
        "windows",
        "image size",
        "a folder",
        "training",
    ]
    for rows in figures["figures"].values():
        assert rows
        assert all(row["seconds"] > 0 for row in rows)
    assert figures["machine"]["cores"] >= 1


def test_the_pooling_that_is_timed_is_exact(figures):
    ours = figures["figures"]["pooling"][0]
    assert ours["name"] == "pool_windows"
    assert ours["bit_equal_to_the_loop"] is True


def test_ratios_are_those_of_the_times(figures):
    ours, *others = figures["figures"]["pooling"]
    for row in others:
        assert row["ratio"] == pytest.approx(row["seconds"] / ours["seconds"])
    for topic in figures["figures"]:
        if topic.startswith("after the proposals"):
            rows = {row["name"]: row for row in figures["figures"][topic]}
            for name, row in rows.items():
                rcnn = rows["R-CNN, fc7" if "fc7" in name else "R-CNN"]  # each beside the one of its layers
                if row is rcnn or "warping" in name:
                    assert "ratio" not in row
                else:
                    assert row["ratio"] == pytest.approx(rcnn["seconds"] / row["seconds"])
            assert {"SPP-net, 1 scale", "SPP-net, 5 scales", "SPP-net, 1 scale, fc7"} < rows.keys()


def test_where_images_pass_together_the_time_is_that_of_each(monkeypatch):
    monkeypatch.setattr(topics, "images_at_once", lambda _: 3)
    monkeypatch.setattr(topics, "_seconds", lambda jobs, *_, **__: [6.0] * len(jobs))
    rows = topics.after_proposals("zf5_small", "cpu", (200, 192), 20)
    (row,) = (row for row in rows if "3 photos together" in row["name"])
    assert row["seconds"] == 2


def test_speeds_are_those_of_the_times(figures):
    _, alone, *_, whole, beside = figures["figures"]["a folder"]
    assert whole["images_per_second"] == pytest.approx(4 / whole["seconds"])
    assert whole["ratio"] == pytest.approx(alone["seconds"] / whole["seconds"])
    assert beside["seconds"] == pytest.approx(alone["seconds"] / figures["machine"]["cores"])
    assert [row["name"] for row in figures["figures"]["training"]] == ["3 photos", "6 photos", "12 photos"]
    for photos, row in zip((3, 6, 12), figures["figures"]["training"], strict=True):
        assert row["images_per_second"] == pytest.approx(photos / row["seconds"])


def test_random_windows_lie_inside():
    windows = topics.random_windows(500, (64, 48))
    assert windows.shape == (500, 4)
    assert windows.dtype == np.float32
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] <= [64, 48]).all()
    assert (windows[:, 2:] > windows[:, :2]).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", ["pool5", "fc6", "fc7"])
def test_some_windows_of_the_timed_detector_pass_and_most_do_not(layer, precision):
    """Otherwise suppression and regression would cost nothing, or everything."""
    fc = FC(layer=layer, weights="random", width=64)
    detector = topics.detector("zf5_small", "cpu", fc=fc, precision=precision)
    assert detector.features.backbone.precision == getattr(torch, precision)
    assert (detector.head is None) == (layer == "pool5")
    windows = topics.random_windows(200, (160, 120))
    found = detector.detect(topics.photo(0, (160, 120)), windows)
    assert 0 < len(found["boxes"]) < 200 * topics.CLASSES / 2


def test_the_table_shows_every_row(figures):
    console = Console(record=True, width=120)
    console.print(benchmark_table(figures))
    text = console.export_text()
    for rows in figures["figures"].values():
        for row in rows:
            assert row["name"].strip() in text


def test_the_command_writes_the_figures(tmp_path, monkeypatch):
    known = {"machine": benchmark.machine("cpu"), "backbone": "zf5_small", "figures": {"pooling": []}}
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: known)
    result = CliRunner().invoke(app, ["benchmark", "--out", str(tmp_path / "b.json"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "b.json").read_text()) == known
