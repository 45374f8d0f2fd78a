"""The process that learns, beside the one that answers: ``python -m spp_det.serving.worker``.

It ends with its parent, whose end of the pipe closes: all that it writes is written whole, so it may end at
any instant. A line of JSON on stdin is its task, each further line asks it to learn what the labels are now.
It answers in lines of JSON on stdout.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spp_det.config.settings import Config
    from spp_det.training.live import LiveTraining

NICE = 5  # less urgent than predictions and the browser
SHARERS = 2  # processes that fill the cache: this one, and the server with photos that have no labels


def main() -> None:
    """Learn whenever a line comes, until the parent is gone."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print
    if hasattr(os, "nice"):
        os.nice(NICE)
    task = json.loads(sys.stdin.buffer.readline() or "null")
    if task is None:
        return

    def answer(tree: dict[str, Any]) -> None:
        print(json.dumps(tree), file=answers, flush=True)

    logging.getLogger().addHandler(_ToParent(answer))
    logging.getLogger("spp_det").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    asked: Queue[bool] = Queue()
    threading.Thread(target=_listen, args=[asked], daemon=True).start()
    learner = _Learner(task)
    while True:
        asked.get()
        while not asked.empty():
            asked.get()  # the newest state is all that counts
        answer(learner.learn())
        if asked.empty():
            answer({"warm": True} | learner.warm_up())


def _listen(asked: Queue[bool]) -> None:
    for _ in iter(sys.stdin.buffer.readline, b""):
        asked.put(True)
    os._exit(0)


class _ToParent(logging.Handler):
    """Warnings go to the parent, which says them."""

    def __init__(self, answer: Any) -> None:
        super().__init__(logging.WARNING)
        self._answer = answer

    def emit(self, record: logging.LogRecord) -> None:
        self._answer({"warning": record.getMessage()})


class _Learner:
    """Learns what the labels are, unless the model in its place is theirs."""

    def __init__(self, task: dict[str, Any]) -> None:
        from spp_det.config.file import parse_config

        self.config: Config = parse_config(task["config"], "the parent's settings")
        self.labels, self.model, self.cache = (Path(task[name]) for name in ("labels", "model", "cache"))
        self.live: LiveTraining | None = None

    def warm_up(self) -> dict[str, Any]:
        """Before anybody asks: read the network, and learn once more what a model of an earlier process has
        learnt, because the next learning starts from there."""
        from spp_det.data.voc import read_voc
        from spp_det.serving.labels import SPLIT, state_of

        def work() -> dict[str, Any]:
            if self.live is None:
                live = self._begun()
                if state_of(self.labels, self.config)[1]:
                    live.learn(read_voc(self.labels, SPLIT))
                self.live = live
            return {}

        return self._guarded(work)

    def learn(self) -> dict[str, Any]:
        """Learn what the labels are, and say what came of it."""
        return self._guarded(self._learn)

    def _guarded(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        from spp_det.errors import UserError, is_out_of_memory

        try:
            return work()
        except UserError as error:
            return {"failed": str(error)}
        except Exception as error:
            if not (is_out_of_memory(error) or isinstance(error, OSError)):
                raise
            return {"failed": str(error) or "not enough memory"}

    def _begun(self) -> LiveTraining:
        from spp_det.training.live import LiveTraining
        from spp_det.training.stages import bounded

        return LiveTraining(self.config, bounded(self.cache, self.config, SHARERS))

    def _learn(self) -> dict[str, Any]:
        from spp_det.data.voc import read_voc
        from spp_det.runtime.whole_files import write_json
        from spp_det.serving.labels import SPLIT, state_of, taught_state

        start = time.perf_counter()
        state, photos = state_of(self.labels, self.config)
        if not photos:
            return {"none": True}
        if state == taught_state(self.model) and self.model.is_file():
            return {"same": photos}
        dataset = read_voc(self.labels, SPLIT)
        read = time.perf_counter()
        if self.live is None:
            self.live = self._begun()
        started = time.perf_counter()
        try:
            detector = self.live.learn(dataset)
        except BaseException:
            self.live = None  # half of a step may be done: the next one begins with what is on disk
            raise
        if detector is None:
            return {"none": True}
        learnt = time.perf_counter()
        detector.save(self.model)
        write_json(self.model.with_suffix(".json"), {"labels": state, "photos": photos})
        seconds = {"labels": read - start, "start": started - read, **self.live.seconds}
        seconds |= {"write": time.perf_counter() - learnt, "all": time.perf_counter() - start}
        return {"model": photos, "seconds": {name: round(value, 3) for name, value in seconds.items()}}


if __name__ == "__main__":
    main()
