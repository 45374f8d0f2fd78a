"""A training that was interrupted goes on: a long stage leaves a `Checkpoint` of its state in the cache.

Of several processes the first one keeps it, in its `CommonCache`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spp_det.runtime import distributed
from spp_det.runtime.cache import Arrays, Cache

logger = logging.getLogger(__name__)

T = TypeVar("T")
EVERY = 5.0  # seconds of work that an interruption costs at most...
SHARE = 0.05  # ...or more, where writing would take a larger part of all time than this


class CommonCache(Cache):
    """The first process's cache, for results that several processes make together.

    All processes call `load` at the same time, and so `load_or_make`: either all find an artefact or none
    does. Only the first process stores and removes artefacts; the others' calls do nothing.
    """

    def load(self, stage: str, key: str) -> Arrays | None:
        """The first process's artefact, or None where it has none."""
        return distributed.from_first(super().load(stage, key) if distributed.is_first() else None)

    def store(self, stage: str, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep the arrays, in the first process."""
        if distributed.is_first():
            super().store(stage, key, arrays)

    def remove(self, stage: str, key: str) -> None:
        """Forget an artefact, in the first process."""
        if distributed.is_first():
            super().remove(stage, key)


class Checkpoint:
    """The state of a long computation, in the cache under the key of everything that it depends on.

    The caller stores the result of the computation and removes the state. Of several processes the first one
    writes the state, at times of its own, and all processes load it.
    """

    def __init__(self, cache: Cache, stage: str, key: str) -> None:
        self.cache = CommonCache(cache.folder)
        self.stage = stage
        self.key = key
        self._due = time.monotonic() + EVERY

    def load(self) -> Arrays | None:
        """The state that was written last; None is the beginning."""
        return self.cache.load(self.stage, self.key)

    def resume(self, read: Callable[[Arrays], T]) -> T | None:
        """What ``read`` makes of the state that was written last; None is the beginning.

        Where ``read`` raises ValueError, the state has a wrong form, and a warning says so: None as well.
        """
        arrays = self.load()
        try:
            return None if arrays is None else read(arrays)
        except ValueError as error:
            path = self.cache.path(self.stage, self.key)
            logger.warning("%s: %s is damaged (%s); beginning anew", self.stage, path, error)
            return None

    def offer(self, state: Callable[[], Arrays], at_once: bool = False) -> None:
        """Write the state, if the time has come or ``at_once``. Call this whenever the state is consistent.

        Only the first process calls ``state``, by its own clock: ``state`` must not wait for other processes.
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


def as_json(tree: object) -> npt.NDArray[np.uint8]:
    """Figures as the bytes of their JSON, to be kept among the arrays of an artefact."""
    return np.frombuffer(json.dumps(tree).encode(), np.uint8)


def from_json(arrays: Arrays, name: str) -> Any:
    """The figures that `as_json` made, from the array ``name``. Raises ValueError where there is none."""
    try:
        return json.loads(arrays[name].tobytes())
    except (KeyError, RecursionError) as error:
        raise ValueError(f"it has no {name}") from error
