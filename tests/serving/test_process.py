"""The server as a process: killed at its worst moment and started again, it has all it was told."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spp_det.data.voc import read_voc

PATIENCE = 600.0  # seconds, on a machine with other work


class Served:
    """``spp-det serve`` on a free port of this machine."""

    def __init__(self, photos: Path, labels: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        settings = ["backbone.name=zf5_small", "backbone.weights=random", "backbone.scales=[96]"]
        self.command = [sys.executable, "-m", "spp_det", "serve", "squeezenet_svm", *settings]
        self.command += ["--photos", str(photos), "--labels", str(labels), "--port", str(port)]
        self.log = labels.parent / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        self.until(lambda: self.ask("/health")["status"] == "UP")
        return self.process

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if done():
                    return
            except (urllib.error.URLError, ConnectionError):
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        pytest.fail(f"waited in vain: {self.log.read_text()}")


@pytest.fixture
def served(photos, tmp_path) -> Iterator[Served]:
    server = Served(photos, tmp_path / "labels")
    yield server
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def test_killed_after_an_answer_it_goes_on_with_all_that_it_was_told(served, studio, truth, tmp_path):
    labels = tmp_path / "labels"
    process = served.start()
    assert served.ask("/predict", studio.predict(3)) == {"results": [[]]}
    served.ask("/webhook", studio.event("ANNOTATION_CREATED", 0))
    served.until(lambda: served.ask("/health")["photos"] == 1)
    first = served.ask("/health")["model_version"]
    served.ask("/webhook", studio.event("ANNOTATION_CREATED", 1))
    process.kill()  # acknowledged, not learnt
    process.wait()

    process = served.start()
    assert served.ask("/health")["model_version"] in (first, *_versions(labels))
    served.until(lambda: served.ask("/health")["photos"] == 2)
    assert (labels / "ImageSets/Main/trainval.txt").read_text().split() == [
        "trainval_00000",
        "trainval_00001",
    ]
    assert served.ask("/health")["model_version"] != first
    (found,) = served.ask("/predict", studio.predict(3))["results"][0]
    assert found["model_version"] == served.ask("/health")["model_version"]

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 128 + signal.SIGINT
    log = served.log.read_text()
    assert "Traceback" not in log
    assert "interrupted; the same command goes on with all that was labelled" in log
    for found, expected in zip(read_voc(labels, "trainval").records, truth.records[:2], strict=True):
        assert found.boxes.tolist() == expected.boxes.tolist()


def _versions(labels: Path) -> list[str]:
    """Of the model on disk: the killed process may have written it just before its end."""
    from spp_det.model.detector import Detector

    return [Detector.load(labels / "model.safetensors").identity().split()[0]]
