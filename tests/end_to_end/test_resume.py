"""A training that is killed anywhere, and started again, ends in the same model to the byte."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from spp_det.commands.train import run_training
from spp_det.config.file import dump_config, parse_config
from spp_det.config.settings import Config
from spp_det.data.synthetic import generate_voc
from spp_det.runtime.cache import Cache
from spp_det.training import checkpoint
from spp_det.training.stages import train

ROOT = Path(__file__).parents[2]  # from where tests.splitting is importable


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    generate_voc(folder / "voc", {"trainval": 6}, seed=1, sizes=((130, 110),))
    return folder


def configure(folder: Path, output: Path) -> Config:
    """With a fit on the way through the images, and fine-tuning before it."""
    tree = {
        "output": str(output),
        "data": {"root": str(folder / "voc")},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "fc": {"layer": "fc6", "weights": "random", "width": 32},
        "finetune": {"enabled": True, "steps": 6, "last_steps": 0, "checkpoint_every": 4, "held_out": 0},
        "svm": {"retrain_after": 120},
        "runtime": {"device": "cpu", "workers": 1},
    }
    return parse_config(tree, "test")


@pytest.fixture(scope="module")
def whole(folder) -> bytes:
    """The model of a training that nobody interrupts."""
    metrics = run_training(configure(folder, folder / "whole"))
    assert metrics["svm"]["fits"] > 1  # one on the way
    return (folder / "whole" / "model.safetensors").read_bytes()


@pytest.fixture
def eager(monkeypatch):
    """Checkpoints after every image and step."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("eager")
def test_a_training_that_dies_again_and_again_ends_in_the_same_model(folder, whole, tmp_path, monkeypatch):
    """With each third artefact that it writes. None is written twice: no work is repeated."""
    config = configure(folder, tmp_path)
    stored: Counter[tuple[str, str]] = Counter()
    store = Cache.store

    def dying(self, stage, key, arrays):
        store(self, stage, key, arrays)
        state = tuple(arrays[name].tobytes() for name in ("step", "counts") if name in arrays)
        stored[stage, key + str(state)] += 1
        if stored.total() % 3 == 0:
            raise Killed

    monkeypatch.setattr(Cache, "store", dying)
    deaths = 0
    while not (tmp_path / "model.safetensors").exists():
        try:
            run_training(config)
        except Killed:
            deaths += 1
    assert (tmp_path / "model.safetensors").read_bytes() == whole
    assert deaths == stored.total() // 3 > 9
    assert set(stored.values()) == {1}
    stages = Counter(stage for stage, _ in stored)
    assert {stages[stage] for stage in ("proposals", "maps", "mining", "finetune")} == {6}
    assert (stages["svms"], stages["norms"]) == (1, 2)
    assert "mining" not in Cache(tmp_path / "cache").stages()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_another_number_of_processes_goes_on_to_the_same_model(
    folder, tmp_path, monkeypatch, in_ranks, before, after
):
    """From amid the mining, and from the second of the regressors. Each process has a cache of its own."""
    tree = configure(folder, tmp_path).model_dump(mode="json", exclude={"fc", "finetune"})
    tree["bbox"] = {"passes": 2}

    def work(name: str, rank: int) -> bytes:
        output = tmp_path / name / str(rank)
        train(parse_config(tree | {"output": str(output)}, "test")).detector.save(output / "model")
        return (output / "model").read_bytes()

    (alone,) = in_ranks(1, partial(work, "alone"))
    store, stored = Cache.store, Counter()

    def dying(self, stage, key, arrays):
        store(self, stage, key, arrays)
        stored[stage] += 1
        if stage in ("mining", "regressors") and stored[stage] == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "store", dying)
        for count in (before, after):
            with pytest.raises(Killed):
                in_ranks(count, partial(work, "parts"))
    assert in_ranks(before, partial(work, "parts")) == [alone] * before
    assert (stored["norms"], stored["svms"]) == (1, 1)


@pytest.mark.usefixtures("eager")
def test_a_damaged_checkpoint_is_said_and_begun_anew(folder, whole, tmp_path, monkeypatch, caplog):
    config = configure(folder, tmp_path)
    store = Cache.store

    def damaged(self, stage, key, arrays):
        store(self, stage, key, arrays)
        if stage == "mining" and arrays["counts"][1] == 4:
            path = self.path(stage, key)
            path.write_bytes(path.read_bytes()[:-5])
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "store", damaged)
        with pytest.raises(Killed):
            run_training(config)
    run_training(config)
    assert (tmp_path / "model.safetensors").read_bytes() == whole
    assert "is damaged" in caplog.text
    assert "computing it again" in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(folder, whole, tmp_path):
    """The command line, and SIGKILL: nobody tidies up."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(configure(folder, tmp_path / "run")))
    program = """
        import os, signal, sys
        from spp_det import cli
        from spp_det.training import checkpoint, mining
        from tests.splitting import split_where_asked
        split_where_asked()
        checkpoint.EVERY, checkpoint.SHARE = 0.0, float("inf")
        arrays, sync = mining.Mining.arrays, os.fsync

        def last(state):
            if state.images == 3:
                os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            return arrays(state)

        mining.Mining.arrays = last
        sys.argv = ["spp-det", "train", sys.argv[1]]
        cli.main()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(recipe)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = tmp_path / "run" / "cache"
    (path,) = (kept / "mining").rglob("*.safetensors")
    assert Cache(kept).load("mining", path.stem)["counts"][1] == 2  # images
    assert len(list((kept / "mining" / ".partial").iterdir())) == 1
    run_training(configure(folder, tmp_path / "run"))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == whole
