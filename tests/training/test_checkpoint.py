"""A training's checkpoints: written now and then, kept by the first of several processes."""

from __future__ import annotations

import numpy as np

from spp_det.runtime.cache import Cache, digest
from spp_det.training import checkpoint
from spp_det.training.checkpoint import Checkpoint, CommonCache


class Clock:
    """Time that passes when it is told to, in place of the module's."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_state_is_written_now_and_then_and_at_once_when_asked(tmp_path, monkeypatch):
    clock, written = Clock(), []
    monkeypatch.setattr(checkpoint, "time", clock)
    kept = Checkpoint(Cache(tmp_path), "mining", digest("key"))
    slow = 0.0

    def offer(number: int, at_once: bool = False) -> bool:
        def state() -> dict[str, np.ndarray]:
            written.append(number)
            clock.now += slow  # that it takes to write
            return {"number": np.array(number)}

        kept.offer(state, at_once)
        found = kept.load()
        assert (None if found is None else int(found["number"])) == (written[-1] if written else None)
        return bool(written) and written[-1] == number

    assert not offer(1)
    clock.now += checkpoint.EVERY
    slow = 2.0
    assert offer(2)
    clock.now += checkpoint.EVERY
    assert not offer(3)  # two seconds each five would be too much
    assert offer(4, at_once=True)
    clock.now += 2.0 / checkpoint.SHARE - 0.1
    assert not offer(5)
    clock.now += 0.2
    assert offer(6)
    kept.remove()
    assert kept.load() is None


def test_of_several_processes_the_first_one_keeps_what_all_get(tmp_path, in_ranks):
    """What another one has in its own folder counts for nothing, and stays."""
    key, made = digest("key"), []
    Cache(tmp_path / "1").store("svms", key, {"weight": np.array([9.0])})

    def work(rank: int) -> list[float]:
        cache = CommonCache(tmp_path / str(rank))

        def make() -> dict[str, np.ndarray]:
            made.append(rank)
            return {"weight": np.array([1.0, 2.0])}

        found = [cache.load_or_make("svms", key, make) for _ in range(2)]
        kept = Checkpoint(cache, "mining", key)
        kept.offer(lambda: {"weight": np.array([5.0, rank])}, at_once=True)
        found += [kept.load() or {}]
        kept.remove()
        cache.remove("svms", key)
        assert cache.load("svms", key) is None
        return [each["weight"].tolist() for each in found]

    assert in_ranks(2, work) == [[[1.0, 2.0], [1.0, 2.0], [5.0, 0.0]]] * 2
    assert sorted(made) == [0, 1]
    assert [Cache(tmp_path / str(rank)).stages() for rank in range(2)] == [(), ("svms",)]
