"""Work on several threads: side by side on all cores, or ahead of whoever consumes it.

Libraries split a sum by the number of their threads, and then round it otherwise. What is to have the same
bits on any number of cores (docs/numbers.md) is therefore computed here in parts that do not depend on that
number, each part by one thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier, Lock
from typing import TypeVar

import torch

T = TypeVar("T")
S = TypeVar("S")
_starting = Lock()


def cores() -> int:
    """Cores for this process: those it may run on, shared with the others that ``torchrun`` started there."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def on_all_cores(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``[function(item) for item in items]``, each on one of as many threads as torch would use.

    What torch and OpenCV's own threads would share out, an operation at a time, is shared out whole. On a
    thread that is itself one of several it is a plain loop.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(item) for item in items]
    return list(_one_a_core(threads, os.getpid()).map(function, items))


def on_one_core(function: Callable[[], T]) -> T:
    """``function()`` on one core: its bits do not depend on how many there are."""
    return (
        function() if torch.get_num_threads() == 1 else _one_a_core(1, os.getpid()).submit(function).result()
    )


@cache
def _one_a_core(threads: int, pid: int) -> ThreadPoolExecutor:  # noqa: ARG001  (a forked child needs its own)
    return single_threaded(threads)


def single_threaded(count: int) -> ThreadPoolExecutor:
    """Threads on which an operation of torch uses no others."""

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first look takes over what was set last, on any thread

    # What a thread sets is also where threads started later begin. That is put back, by a thread of its own:
    # the caller may be at another number.
    with _starting, ThreadPoolExecutor(1) as look, ThreadPoolExecutor(1) as restore:
        others = look.submit(torch.get_num_threads).result()
        pool = ThreadPoolExecutor(count, initializer=alone)
        started = Barrier(count)
        list(pool.map(lambda _: started.wait(), range(count)))
        restore.submit(torch.set_num_threads, others).result()
    return pool


def ahead(
    function: Callable[[S], T], items: Iterable[S], workers: int, waiting: int | None = None
) -> Iterator[T]:
    """``map(function, items)`` on threads: results in order.

    Beside the one that is in use, at most ``waiting`` results are under way or done (two a worker if None).

    An exception of ``function`` comes out in its turn, once the work that has begun is done; the rest is
    dropped. Where the consumer stops earlier, the rest is dropped too, and nothing waits: the garbage
    collector may be what closes this generator, on a thread whose locks the threads here need to end.
    """
    pool = single_threaded(workers)
    most = 2 * workers if waiting is None else waiting
    queue: deque[Future[T]] = deque()
    stopped = False
    try:
        for item in items:
            queue.append(pool.submit(function, item))
            if len(queue) > most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    except GeneratorExit:
        stopped = True
        raise
    finally:
        pool.shutdown(wait=not stopped, cancel_futures=True)
