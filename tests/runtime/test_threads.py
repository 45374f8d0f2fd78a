"""Work on several threads: in order, each thread for itself, and ahead of a consumer but never too far."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from spp_det.runtime.threads import ahead, cores, on_all_cores, on_one_core, single_threaded


@pytest.fixture(params=[1, 3])
def threads(request) -> Iterator[int]:
    """How many torch uses, on this thread and on those started later."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def on_a_new_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it hung, or failed"
    return results[0]


def number_of_threads(_: object = None) -> int:
    return torch.get_num_threads()


# ---------------------------------------------------------------- each core its own work


@pytest.mark.parametrize("count", [1, 4])
def test_on_a_single_threaded_pool_torch_uses_no_other_threads(threads, count):
    with single_threaded(count) as pool:
        together = threading.Barrier(count, timeout=10)

        def look(_: int) -> tuple[int, int]:
            together.wait()  # so that every thread takes one
            return threading.get_ident(), torch.get_num_threads()

        for _ in range(2):
            seen = list(pool.map(look, range(count)))
            assert len({ident for ident, _ in seen}) == count
            assert {number for _, number in seen} == {1}
        assert torch.get_num_threads() == threads
        assert on_a_new_thread(number_of_threads) == threads
    assert torch.get_num_threads() == threads
    assert on_a_new_thread(number_of_threads) == threads


def test_an_operation_there_costs_no_other_thread_any_time(threads):
    """By the clocks of the thread and of the whole process, which all its threads drive together."""
    a = torch.rand(700, 700)

    def share() -> float:
        whole, mine = time.process_time(), time.thread_time()
        while time.thread_time() - mine < 0.2:
            torch.mm(a, a)
        return (time.process_time() - whole) / (time.thread_time() - mine)

    torch.mm(a, a)
    with single_threaded(1) as pool:
        time.sleep(0.2)  # OpenMP's threads wait busily for a moment
        assert pool.submit(share).result() < 1.2
        assert share() > (1.2 if threads > 1 else 0.9)  # here the others help


def test_a_caller_at_a_number_of_its_own_leaves_that_of_others_alone(threads):
    """As where a thread of such a pool starts another one."""

    def nested() -> list[int]:
        return [torch.get_num_threads(), *ahead(number_of_threads, range(3), 2), torch.get_num_threads()]

    with single_threaded(1) as pool:
        assert pool.submit(nested).result() == [1] * 5
    assert torch.get_num_threads() == threads
    assert on_a_new_thread(number_of_threads) == threads


def test_pools_started_at_the_same_moment_leave_all_numbers_alone(threads):
    together = threading.Barrier(4, timeout=10)

    def work() -> tuple[int, list[int]]:
        torch.get_num_threads()  # a thread has its number from its first look on
        together.wait()
        with single_threaded(2) as pool:
            return torch.get_num_threads(), list(pool.map(number_of_threads, range(4)))

    for _ in range(10):
        results: list[tuple[int, list[int]]] = []
        callers = [
            threading.Thread(target=lambda results=results: results.append(work()), daemon=True)
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        assert results == [(threads, [1] * 4)] * 4
        assert torch.get_num_threads() == threads
        assert on_a_new_thread(number_of_threads) == threads


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_on_all_cores_is_map_in_order(threads, count):  # noqa: ARG001
    def work(number: int) -> int:
        time.sleep(0.005 if number % 4 == 0 else 0)
        return number * 10

    assert on_all_cores(work, range(count)) == [10 * number for number in range(count)]
    assert on_all_cores(work, iter(range(count))) == [10 * number for number in range(count)]


def test_on_all_cores_as_many_run_at_once_as_torch_would_use_and_each_alone(threads):
    together = threading.Barrier(threads, timeout=10)

    def work(_: int) -> tuple[int, int]:
        together.wait()
        return threading.get_ident(), torch.get_num_threads()

    for _ in range(3):
        seen = on_all_cores(work, range(threads))
        assert len({ident for ident, _ in seen}) == threads
        assert {number for _, number in seen} == {1}
        assert torch.get_num_threads() == threads
        assert on_a_new_thread(number_of_threads) == threads


def test_on_one_core_it_is_a_loop_on_the_callers_thread():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert set(on_all_cores(lambda _: threading.get_ident(), range(9))) == {threading.get_ident()}
    finally:
        torch.set_num_threads(before)


def test_within_itself_and_within_work_ahead_it_is_a_loop_on_that_thread(threads):
    def inner(_: int) -> bool:
        mine = threading.get_ident()
        return set(on_all_cores(lambda _: threading.get_ident(), range(20))) == {mine}

    if threads > 1:  # otherwise the outer one is a loop already
        assert on_a_new_thread(lambda: all(on_all_cores(inner, range(12))))
    assert on_a_new_thread(lambda: all(ahead(inner, range(12), 3)))


def test_an_exception_comes_out_of_all_cores_and_the_next_call_works(threads):  # noqa: ARG001
    def picky(number: int) -> int:
        if number == 3:
            raise ValueError(f"item {number}")
        return number

    with pytest.raises(ValueError, match="item 3"):
        on_all_cores(picky, range(50))
    assert on_all_cores(str, range(3)) == ["0", "1", "2"]


def test_on_one_core_an_operation_is_alone_and_the_caller_is_left_as_it_was(threads):
    assert on_one_core(number_of_threads) == 1
    assert on_one_core(lambda: on_one_core(number_of_threads)) == 1  # which would wait for itself
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        on_one_core(lambda: 1 // 0)


# ---------------------------------------------------------------- ahead of the consumer


def test_work_ahead_is_single_threaded_and_the_consumer_is_not(threads):
    results = ahead(number_of_threads, range(20), 3)
    for number in results:
        assert number == 1
        assert torch.get_num_threads() == threads
        assert on_a_new_thread(number_of_threads) == threads
    assert torch.get_num_threads() == threads
    assert on_a_new_thread(number_of_threads) == threads


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
    before = set(threading.enumerate())
    for number in ahead(str, range(100), 4):
        if number == "5":
            break
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_whoever_stops_early_does_not_wait_for_what_has_begun():
    """The garbage collector may close the generator on a thread whose locks another thread needs to end."""
    before = set(threading.enumerate())
    lock = threading.Lock()

    def work(number: int) -> int:
        if number:
            with lock:
                return number
        return number

    def collect_with_the_lock() -> bool:
        with lock:
            results = ahead(work, range(100), 2)
            assert next(results) == 0
            cycle: list[Any] = [results]
            cycle.append(cycle)
            del results, cycle
            gc.collect()
        return True

    assert on_a_new_thread(collect_with_the_lock)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_processes_on_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(9)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 9
    for processes, own in ((2, 4), (9, 1), (20, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert cores() == own


def test_where_the_system_does_not_tell_all_cores_are_usable(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 5
