"""Learning in a process of its own: a real one, on five small photos."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from spp_det.model.detector import Detector
from spp_det.serving import learner as learners
from spp_det.serving.labelling import drawn_boxes
from spp_det.serving.labels import Labels, state_of, taught_state
from spp_det.serving.learner import Learner

PATIENCE = 600.0  # seconds, on a machine with other work


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def kept(tmp_path, photos, studio):
    """``kept(index)`` puts a photo's annotation into the labels, and returns their folder."""
    labels = Labels(tmp_path / "labels", lambda told: (PurePosixPath(told[-18:]), photos / told[-18:]))

    def keep(index: int) -> Path:
        drawn, _ = drawn_boxes(studio.result(index))
        name = labels.put(7, 100 + index, studio.task(index)["data"]["image"], 500 + index, "1", drawn)
        assert labels.settle(name)
        return tmp_path / "labels"

    return keep


@pytest.fixture
def started(small_config, serving_folder, tmp_path):
    """``started()``: a learner at work, and the number of models that it has given."""
    running = []

    def start() -> tuple[Learner, list[int]]:
        given: list[int] = []
        labels = tmp_path / "labels"
        model = labels / "model.safetensors"
        learner = Learner(small_config, labels, serving_folder / "cache", model, lambda: given.append(1))
        running.append(learner)
        learner.start()
        return learner, given

    yield start
    for learner in running:
        learner.close()


def test_it_learns_what_comes_and_learns_nothing_twice(kept, started, small_config):
    folder = kept(0)
    model = folder / "model.safetensors"
    learner, given = started()
    until(lambda: len(given) == 1)
    assert Detector.load(model).classes
    assert taught_state(model) == state_of(folder, small_config)[0]
    kept(1)
    for _ in range(20):
        learner.mark()
    until(lambda: len(given) == 2)
    assert learner.told["photos"] == 2
    learner.mark()  # nothing is new
    until(lambda: not learner._stale and not learner.told["learning"])
    assert len(given) == 2
    learner.close()
    again, more = started()
    until(lambda: again.told["photos"] == 2)
    assert more == []  # the model is that of the labels
    kept(2)
    again.mark()
    until(lambda: len(more) == 1)


def test_a_process_that_is_killed_is_started_again_and_learns(kept, started):
    kept(0)
    learner, given = started()
    until(lambda: learner._process is not None)
    os.kill(learner._process.pid, signal.SIGKILL)
    until(lambda: len(given) == 1)


def test_a_process_that_always_ends_is_not_started_for_ever(kept, started, monkeypatch, caplog):
    kept(0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    learner, _ = started()
    until(lambda: "waits for the next change" in caplog.text)
    assert caplog.text.count("starting it again") == learners.TRIES
    monkeypatch.undo()
    learner.mark()
    until(lambda: learner.told["learnt"] == 1)


def test_labels_that_cannot_be_learnt_are_said_in_a_line_and_the_next_are_learnt(kept, started, caplog):
    """By one process, which ends with its parent's end of the pipe."""
    folder = kept(0)
    kept(1)
    broken = folder / "Annotations" / "trainval_00001.xml"
    text = broken.read_text()
    broken.write_text("<annotation>")
    learner, given = started()
    until(lambda: "failed" in learner.told)
    assert "trainval_00001.xml" in caplog.text
    process = learner._process
    broken.write_text(text)
    learner.mark()
    until(lambda: len(given) == 1)
    assert learner._process is process
    process.stdin.close()
    assert process.wait(PATIENCE) == 0


def test_a_model_that_does_not_say_what_it_has_learnt_is_learnt_once_more(kept, started, small_config):
    """As after a kill between the two files: no model is ever taken for that of newer labels."""
    folder = kept(0)
    (folder / "model.json").write_text(json.dumps({"labels": "of older ones", "photos": 1}))
    (folder / "model.safetensors").write_bytes(b"of older ones")
    _, given = started()
    until(lambda: len(given) == 1)
    assert taught_state(folder / "model.safetensors") == state_of(folder, small_config)[0]
