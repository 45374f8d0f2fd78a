"""The process that learns, seen from the one that answers: it is asked, it is started again where it
ended."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spp_det.config.settings import Config
from spp_det.errors import UserError, one_line

logger = logging.getLogger(__name__)

TRIES = 2  # of a learning whose process ends by itself; then it waits for the next change


class Learner:
    """Asks a process of its own to learn. One learning is under way at a time; the newest labels count.

    Attributes:
        told: what is under way and what was last, for people and tests.
    """

    def __init__(
        self, config: Config, labels: Path, cache: Path, model: Path, learnt: Callable[[], object]
    ) -> None:
        """``learnt`` is called, on a thread, whenever a new model lies at ``model``."""
        tree = config.model_dump(mode="json")
        task = {"config": tree, "labels": str(labels), "cache": str(cache), "model": str(model)}
        self._task = json.dumps(task).encode() + b"\n"
        self._learnt = learnt
        self._wake = threading.Condition()
        self._stale = False
        self._closed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.told: dict[str, Any] = {"learning": False, "photos": 0, "learnt": 0}
        self._thread = threading.Thread(target=self._work, daemon=True, name="learner")

    def start(self) -> None:
        """Begin, with a look at whether the model is that of the labels."""
        self._stale = True
        self._thread.start()

    def mark(self) -> None:
        """The labels have changed. Returns at once."""
        with self._wake:
            self._stale = True
            self._wake.notify_all()

    def close(self) -> None:
        """End the process; what it has not learnt it learns when it is started again."""
        with self._wake:
            self._closed.set()
            self._wake.notify_all()
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _work(self) -> None:
        failed = 0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stale or self._closed.is_set())
                if self._closed.is_set():
                    return
                self._stale = False
            self.told["learning"] = True
            try:
                done = self._ask()
            finally:
                self.told["learning"] = False
            failed = 0 if done else failed + 1
            if self._closed.is_set():
                return
            if not done and failed < TRIES:
                time.sleep(1)
                self.mark()
            elif not done:
                logger.error("the process that learns ended %d times; it waits for the next change", failed)
                failed = 0

    def _ask(self) -> bool:
        """Let the process learn once. Returns whether it has answered."""
        try:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"learn\n")
            process.stdin.flush()
            for line in iter(process.stdout.readline, b""):
                if self._took(json.loads(line)):
                    return True
        except (OSError, ValueError) as error:
            if not self._closed.is_set():
                logger.warning("the process that learns: %s", error)
        if self._process is not None:
            self._process.kill()
            code = self._process.wait()
            self._process = None
            if not self._closed.is_set():
                logger.warning("the process that learns has ended (%s); starting it again", code)
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-P", "-m", "spp_det.serving.worker"]
            # A session of its own: Ctrl-C in the terminal is the parent's, which then ends it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            assert self._process.stdin is not None
            self._process.stdin.write(self._task)
        return self._process

    def _took(self, answer: dict[str, Any]) -> bool:
        """Take in a line of the process. Returns whether it was the last one of a learning."""
        if "warning" in answer:
            logger.warning("%s", one_line(str(answer["warning"])))
            return False
        if "warm" in answer:  # of the learning before
            return False
        if "model" in answer:
            seconds = answer["seconds"]
            try:
                self._learnt()
            except UserError as error:
                logger.warning("%s", error)
            else:
                self.told |= {"photos": answer["model"], "seconds": seconds}
                self.told["learnt"] += 1
                logger.info("learnt from %d photos in %.1f s", answer["model"], seconds["all"])
        elif "failed" in answer:
            self.told["failed"] = answer["failed"]
            logger.warning("not learnt: %s", one_line(answer["failed"]))
        elif "same" in answer:
            self.told["photos"] = answer["same"]
        return True
