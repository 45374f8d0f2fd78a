"""Work ahead of its consumer: in order, never too far, and an exception in its turn."""

from __future__ import annotations

import threading
import time

import pytest

from spp_det.threads import ahead


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items_however_long_each_takes(workers):
    def work(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * 10

    assert list(ahead(work, range(20), workers)) == list(range(0, 200, 10))


def test_no_items_give_no_results():
    assert list(ahead(str, [], 2)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_at_most_two_a_worker_wait_beside_the_one_that_is_handed_out(workers):
    begun = []
    results = ahead(begun.append, range(50), workers)
    for handed_out in range(1, 10):
        next(results)
        time.sleep(0.01)  # time enough to run too far
        assert handed_out <= len(begun) <= handed_out + 2 * workers
    results.close()
    assert len(begun) <= 9 + 2 * workers


def test_items_are_taken_no_further_ahead_than_the_work():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = ahead(str, items(), 2)
    for handed_out in range(1, 6):
        next(results)
        assert len(taken) <= handed_out + 4
    results.close()


def test_as_many_run_at_once_as_there_are_workers():
    together = threading.Barrier(3, timeout=10)
    assert sorted(ahead(lambda _: together.wait(), range(3), 3)) == [0, 1, 2]


def test_an_exception_comes_in_its_turn_and_ends_the_work():
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError(f"item {number}")
        return number

    results = ahead(work, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(results)
    assert len(begun) <= 3 + 1 + 4
    with pytest.raises(StopIteration):
        next(results)


def test_whoever_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    for number in ahead(str, range(100), 4):
        if number == "5":
            break
    del number
    assert threading.active_count() == before
