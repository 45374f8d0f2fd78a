"""Work is shared out, and every process gets all results in order: with one process it is a plain loop."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.errors import CannotResumeError, UserError
from spp_det.runtime.sharing import Shared, dealt, even_share, owned, rounds, share, shared_map, turns
from spp_det.runtime.threads import ahead

COUNTS = [1, 2, 3]


def numbered(place: int) -> dict[str, np.ndarray]:
    return {"place": np.array(place)}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("run", [map, partial(ahead, workers=2)], ids=["map", "threads"])
def test_the_results_of_all_come_in_one_order_and_each_process_does_its_own(in_ranks, count, run):
    """More items than are exchanged at a time."""
    done: list[list[int]] = [[] for _ in range(count)]

    def work(rank: int) -> list[int]:
        def found(place: int) -> dict[str, np.ndarray]:
            done[rank].append(place)
            return numbered(place)

        return [int(result["place"]) for result in shared_map(found, range(140), run=run)]

    assert in_ranks(count, work) == [list(range(140))] * count
    assert [sorted(each) for each in done] == [list(range(rank, 140, count)) for rank in range(count)]


def test_owners_may_be_any(in_ranks):
    owners = [1, 1, 0, 2, 1, 0, 0] * 20

    def work(rank: int) -> list[int]:
        assert list(share(range(140), owners).own) == np.flatnonzero(np.array(owners) == rank).tolist()
        return [int(result["place"]) for result in shared_map(numbered, range(140), owners)]

    assert in_ranks(3, work) == [list(range(140))] * 3


@pytest.mark.parametrize("count", COUNTS)
def test_none_and_errors_are_results_like_others(in_ranks, count):
    def found(place: int) -> dict[str, np.ndarray] | UserError | None:
        kinds = (numbered(place), None, CannotResumeError("näme"), UserError(f"item {place}"))
        return kinds[place % 4]

    def work(_: int) -> list[object]:
        results = list(shared_map(found, range(40)))
        return [(type(each), str(each)) if isinstance(each, UserError) else each for each in results]

    errors = [(CannotResumeError, "näme"), *((UserError, f"item {place}") for place in range(3, 40, 4))]
    for results in in_ranks(count, work):
        assert results[1::4] == [None] * 10
        assert [int(each["place"]) for each in results[0::4]] == list(range(0, 40, 4))
        assert results[2::4] == errors[:1] * 10
        assert results[3::4] == errors[1:]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("run", [map, partial(ahead, workers=2)], ids=["map", "threads"])
def test_an_error_that_one_process_raises_all_raise_in_its_place(in_ranks, count, run):
    def found(place: int) -> dict[str, np.ndarray]:
        if place in (50, 51):
            raise CannotResumeError(f"item {place} is bad")
        return numbered(place)

    def work(_: int) -> tuple[type[BaseException], str]:
        results = shared_map(found, range(90), run=run)
        assert [int(next(results)["place"]) for _ in range(50)] == list(range(50))
        with pytest.raises(UserError) as caught:
            next(results)
        return caught.type, str(caught.value)

    assert in_ranks(count, work) == [(CannotResumeError, "item 50 is bad")] * count


def test_one_process_gets_the_results_themselves_one_at_a_time():
    made: list[object] = []

    def found(_: int) -> dict[str, np.ndarray]:
        made.append(numbered(0))
        return made[-1]

    results = shared_map(found, range(5))
    assert next(results) is made[0]
    assert len(made) == 1


@pytest.mark.parametrize("count", COUNTS)
def test_results_of_an_earlier_state_are_made_again(in_ranks, count):
    """The consumer changes the state after the second, the fifth and the sixth result."""

    def work(_: int) -> list[tuple[int, int]]:
        state, seen = [0], []

        def found(state: int, place: int) -> dict[str, np.ndarray]:
            return {"both": np.array([state, place])}

        for result in share(range(8)).map_latest(found, lambda: state[0]):
            seen.append(tuple(result["both"].tolist()))
            state[0] += len(seen) in (2, 5, 6)
        return seen

    states = [0, 0, 1, 1, 1, 2, 3, 3]
    assert in_ranks(count, work) == [list(zip(states, range(8), strict=True))] * count


def test_items_of_a_process_are_read_when_their_round_comes(in_ranks):
    def work(rank: int) -> None:
        read: list[int] = []
        own = (read.append(place) or place for place in range(rank, 6, 2))
        results = Shared(own, turns(6)).map_latest(lambda _, place: numbered(place), lambda: None)
        for place in range(6):
            assert int(next(results)["place"]) == place
            assert read == list(range(rank, place // 2 * 2 + 2, 2))

    in_ranks(2, work)


@pytest.mark.parametrize("count", COUNTS)
def test_whole_items_are_for_the_first_process(in_ranks, count):
    """One process gets its own items; several send parts, of which the first one makes items again."""

    def work(rank: int) -> list[tuple[int, str]]:
        items = Shared([(place, "own") for place in range(rank, 40, count)], turns(40))
        return list(items.in_first(lambda item: numbered(item[0]), receive))

    def receive(place: int, found: dict[str, np.ndarray]) -> tuple[int, str]:
        assert int(found["place"]) == place
        return place, "own"

    assert in_ranks(count, work) == [[(place, "own") for place in range(40)]] + [[]] * (count - 1)


@given(st.integers(0, 30), st.integers(1, 5))
def test_everything_is_dealt_once(items, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(count))
        everything = list(range(items))
        assert sorted(place for part in dealt(everything) for place in part) == everything
        assert all(dealt(everything))
        assert [place for part in rounds(everything) for place in part] == everything
        assert all(len(part) <= count for part in rounds(everything))
        shares, parts = [], []
        for rank in range(count):
            patch.setenv("RANK", str(rank))
            parts.append(np.flatnonzero(owned(turns(items))))
            shares.append(even_share(np.arange(items)) if items else np.arange(0))
        assert sorted(np.concatenate(parts)) == everything
        assert len({len(each) for each in shares}) == 1
        assert set(np.concatenate(shares)) == set(everything)
