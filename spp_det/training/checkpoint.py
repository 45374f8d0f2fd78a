"""A training that was interrupted goes on: a long stage leaves a `Checkpoint` of its state in the cache.

Of several processes the first one keeps it, in its `CommonCache`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from spp_det.runtime import distributed
from spp_det.runtime.cache import Arrays, Cache

EVERY = 5.0  # seconds of work that are at most lost...
SHARE = 0.05  # ...or more, where writing would take a larger part of all time than this


class CommonCache(Cache):
    """The first process's cache, for what several make together.

    All are to call `load` at once, and so `load_or_make`: what one of them has, all have, and nobody waits
    for help from one who needs none. Storing and removing are the first one's affair, whoever else says so.
    """

    def load(self, stage: str, key: str) -> Arrays | None:
        """The first process's artefact, or None where it has none."""
        return distributed.from_first(super().load(stage, key) if distributed.is_first() else None)

    def store(self, stage: str, key: str, arrays: distributed.Arrays) -> None:
        """Keep the arrays, in the first process."""
        if distributed.is_first():
            super().store(stage, key, arrays)

    def remove(self, stage: str, key: str) -> None:
        """Forget an artefact, in the first process."""
        if distributed.is_first():
            super().remove(stage, key)


class Checkpoint:
    """The state of a long computation, in the cache under the key of all that it depends on.

    It holds what a killed run needs; whoever stores the result of the computation removes it. Of several
    processes the first one writes it, when it sees fit, and all load it.
    """

    def __init__(self, cache: Cache, stage: str, key: str) -> None:
        self.cache = CommonCache(cache.folder)
        self.stage = stage
        self.key = key
        self._due = time.monotonic() + EVERY

    @property
    def path(self) -> Path:
        """Where it lies, present or not."""
        return self.cache.path(self.stage, self.key)

    def load(self) -> Arrays | None:
        """The state that was written last; None is the beginning."""
        return self.cache.load(self.stage, self.key)

    def offer(self, state: Callable[[], Arrays], at_once: bool = False) -> None:
        """Write the state, if it is time to or ``at_once``. To be called whenever it is consistent.

        ``state`` is called when the first process's clock says so: it must not wait for the others.
        """
        if not distributed.is_first():
            return
        start = time.monotonic()
        if at_once or start >= self._due:
            self.cache.store(self.stage, self.key, state())
            end = time.monotonic()
            self._due = end + max(EVERY, (end - start) / SHARE)

    def remove(self) -> None:
        """Forget the state."""
        self.cache.remove(self.stage, self.key)
