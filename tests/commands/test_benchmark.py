"""The benchmark on small inputs: its figures, that they add up, and that its parts are what they say."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from spp_det.cli import app
from spp_det.commands import benchmark, benchmark_inputs, benchmark_stages, benchmark_whole
from spp_det.commands.benchmark_process import in_process, timed
from spp_det.config.network import FC
from spp_det.errors import UserError
from spp_det.report.tables import benchmark_table
from spp_det.runtime.devices import has_bfloat16


@pytest.fixture(scope="module")
def figures():
    """All of it, but for the processes that each start anew: the next test starts one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_whole, "in_process", lambda job, *words: timed(job, words))
        *_, figures = benchmark.run_benchmark("zf5_small", quick=True)
    return figures


def test_a_job_has_a_process_and_its_memory_to_itself():
    seconds, memory = in_process(bytearray, 300 * 2**20)
    assert seconds > 0
    assert memory is None or memory > 300
    with pytest.raises(ZeroDivisionError):
        in_process(divmod, 1, 0)


def test_every_topic_has_rows_with_times(figures):
    topics = dict(benchmark.COSTS)
    if not has_bfloat16(torch.device("cpu")):
        del topics["after the proposals, bfloat16"]
    assert list(figures["figures"]) == list(topics)
    for rows in figures["figures"].values():
        assert rows
        assert all(row["seconds"] > 0 for row in rows)
    assert figures["seconds"].keys() == topics.keys()
    assert figures["not measured"] == []
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


def test_our_search_stands_beside_opencvs_on_every_number_of_threads(figures):
    whole, *others = figures["figures"]["selective search"]
    assert whole["name"] == "OpenCV's call"
    names = [row["name"] for row in others]
    assert names[:2] == ["ours, 1 threads", "OpenCV's parts, 1 threads"]
    assert f"ours, {figures['machine']['cores']} threads" in names
    for row in others:
        assert row["ratio"] == pytest.approx(whole["seconds"] / row["seconds"])


def test_the_parts_of_the_search_are_shares_of_it(figures):
    whole, *parts = figures["figures"]["parts of the search"]
    assert len(parts) == 6
    assert sum(row["seconds"] for row in parts) == pytest.approx(whole["seconds"])
    assert sum(row["ratio"] for row in parts) == pytest.approx(1)


def test_the_network_is_measured_in_both_precisions(figures):
    auto, *others = figures["figures"]["network"]
    assert "which is auto" in auto["name"]
    names = {row["name"].split()[1].strip(",") for row in (auto, *others)}
    both = has_bfloat16(torch.device("cpu"))
    assert names == ({"float32", "bfloat16"} if both else {"float32"})
    for row in others:
        assert row["ratio"] == pytest.approx(row["seconds"] / auto["seconds"])


def test_classes_are_beside_the_network_and_all_of_them_have_candidates(figures):
    alone, *rows = figures["figures"]["classes"]
    assert [row["name"] for row in rows] == ["20 classes", "80 classes"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["seconds"] / alone["seconds"])
    model = benchmark_inputs.detector("zf5_small", "cpu", (96,), classes=3, passing=0.99, passes=2)
    photo, windows = benchmark_inputs.photo(0, (100, 96)), benchmark_inputs.random_windows(50, (100, 96))
    _, scores = model.score(model.features.maps(photo), windows)
    assert (scores > model.settings.detection.score_threshold).mean() > 0.9


def test_where_images_pass_together_the_time_is_that_of_each(monkeypatch):
    monkeypatch.setattr(benchmark_stages, "images_at_once", lambda _: 3)
    monkeypatch.setattr(benchmark_stages, "seconds_of", lambda jobs, *_, **__: [6.0] * len(jobs))
    rows = benchmark_stages.after_proposals("zf5_small", "cpu", benchmark_inputs.QUICK)
    network, whole = (row for row in rows if "3 photos together" in row["name"])
    assert network["seconds"] == whole["seconds"] == 2
    assert whole["ratio"] == 3  # R-CNN's 6 seconds of one photo


def test_a_device_is_waited_for_before_and_after_each_job(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: said.append(device))
    benchmark_inputs.seconds_of([lambda: said.append("job")] * 2, "cuda:1", repeats=1, warm=False)
    assert said == ["cuda:1", "job", "cuda:1"] * 2
    said.clear()
    benchmark_inputs.seconds_of([lambda: said.append("job")], "cpu", repeats=1, warm=False)
    assert said == ["job"]


def test_a_devices_peak_is_that_of_each_topic(monkeypatch):
    peaks = iter([7, 300, 100])
    monkeypatch.setattr(benchmark_inputs, "device_memory", lambda _: next(peaks))
    monkeypatch.setattr(benchmark_stages, "pooling", lambda *_: [{"name": "it", "seconds": 1.0}])
    monkeypatch.setattr(benchmark_stages, "network", lambda *_: [{"name": "it", "seconds": 1.0}])
    *_, figures = benchmark.run_benchmark("zf5_small", quick=True, chosen=["pooling", "network"])
    assert figures["device memory"] == {"pooling": 300, "network": 100}
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(benchmark_table(figures))
    assert [
        line.split()[-2] for line in console.export_text().splitlines() if " 300 " in line or " 100 " in line
    ] == ["300", "100"]


def test_a_device_without_a_count_has_no_peak(monkeypatch):
    assert benchmark_inputs.device_memory("cpu") is None
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 5 * 2**20)
    reset: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    assert benchmark_inputs.device_memory("cuda") == 5
    assert reset == ["cuda"]


def test_speeds_are_those_of_the_times(figures):
    _, alone, *_, whole, beside = figures["figures"]["a folder"]
    assert whole["images_per_second"] == pytest.approx(2 / whole["seconds"])
    assert whole["ratio"] == pytest.approx(alone["seconds"] / whole["seconds"])
    assert beside["seconds"] == pytest.approx(alone["seconds"] / figures["machine"]["cores"])
    assert [row["name"] for row in figures["figures"]["training"]] == ["2 photos", "4 photos"]
    for photos, row in zip((2, 4), figures["figures"]["training"], strict=True):
        assert row["images_per_second"] == pytest.approx(photos / row["seconds"])


def test_random_windows_lie_inside():
    windows = benchmark_inputs.random_windows(500, (64, 48))
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
    detector = benchmark_inputs.detector("zf5_small", "cpu", (96,), fc=fc, precision=precision)
    assert detector.features.backbone.precision == getattr(torch, precision)
    assert (detector.head is None) == (layer == "pool5")
    windows = benchmark_inputs.random_windows(200, (160, 120))
    found = detector.detect(benchmark_inputs.photo(0, (160, 120)), windows)
    assert 0 < len(found["boxes"]) < 200 * benchmark_inputs.CLASSES / 2


def test_the_table_shows_every_row(figures):
    console = Console(record=True, width=120)
    console.print(benchmark_table(figures))
    text = console.export_text()
    for rows in figures["figures"].values():
        for row in rows:
            assert row["name"].strip() in text


@pytest.fixture
def two_topics(monkeypatch):
    """A benchmark of two topics, the second of which may be told to fail."""
    monkeypatch.setattr(benchmark_stages, "pooling", lambda *_: [benchmark_inputs.row_of("ours", 1.0)])
    monkeypatch.setattr(benchmark_stages, "network", lambda *_: [benchmark_inputs.row_of("conv5", 2.0)])


def run(tmp_path, *options):
    place = tmp_path / "b.json"
    result = CliRunner().invoke(app, ["benchmark", "--out", str(place), "--device", "cpu", *options])
    return result, json.loads(place.read_text()) if place.exists() else None


@pytest.mark.usefixtures("two_topics")
def test_the_command_writes_the_topics_that_are_chosen(tmp_path):
    result, written = run(tmp_path, "--topics", "network,pooling")
    assert result.exit_code == 0, result.output
    assert written["machine"] == benchmark.machine("cpu")
    assert {name: [row["seconds"] for row in rows] for name, rows in written["figures"].items()} == {
        "pooling": [1.0],
        "network": [2.0],
    }
    assert written["not measured"] == []


@pytest.mark.usefixtures("two_topics")
def test_an_interrupted_run_leaves_the_topics_that_are_done(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_stages, "network", stop)
    result, written = run(tmp_path, "--topics", "network,pooling")
    assert result.exit_code != 0
    assert list(written["figures"]) == ["pooling"]
    assert written["not measured"] == ["network"]


def test_topics_are_named_also_where_their_name_has_a_comma_and_no_other_name_is_taken():
    names = "after the proposals, bfloat16,after the proposals, pooling"
    assert benchmark._chosen(names) == ["after the proposals, bfloat16", "after the proposals", "pooling"]
    with pytest.raises(UserError, match="no 'poling'; the topics are pooling; selective search"):
        benchmark._chosen("network,poling,pooling")


def test_the_time_left_is_judged_by_the_topics_that_are_done():
    left = ["windows", "training"]
    expected = sum(benchmark.COSTS[name] for name in left)
    assert benchmark.seconds_left({}, left) == expected
    slow = {"pooling": 3.0 * benchmark.COSTS["pooling"], "network": 3.0 * benchmark.COSTS["network"]}
    assert benchmark.seconds_left(slow, left) == pytest.approx(3 * expected)
    assert benchmark.seconds_left(slow, []) == 0
