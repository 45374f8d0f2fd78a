"""Work on several threads: side by side on all cores, or ahead of the consumer of the results.

Libraries split a sum by the number of their threads, and the split changes how the sum is rounded. Results
that must have the same bits on any number of cores (docs/numbers.md) are therefore computed in parts that do
not depend on that number, each part by one thread.
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
    """The cores that this process may use: ``torchrun``'s processes on one machine share its cores."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def on_all_cores(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``[function(item) for item in items]``, each on one of as many threads as torch would use.

    Each item is computed by one thread from beginning to end, whereas torch and OpenCV would share out every
    single operation. On a thread of such a pool this is a plain loop.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(item) for item in items]
    return list(_one_a_core(threads, os.getpid()).map(function, items))


def on_one_core(function: Callable[[], T]) -> T:
    """``function()`` on one core: the bits of its result do not depend on the number of cores."""
    if torch.get_num_threads() == 1:
        return function()
    return _one_a_core(1, os.getpid()).submit(function).result()


@cache
def _one_a_core(threads: int, pid: int) -> ThreadPoolExecutor:  # noqa: ARG001  (a forked child needs its own)
    return single_threaded(threads)


def single_threaded(count: int) -> ThreadPoolExecutor:
    """Threads on which an operation of torch uses no others."""

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call on a thread takes over what any thread has set last

    # Threads that start later begin with the number that `alone` sets. Another thread puts the old number
    # back, because the caller's own number may differ from it.
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

    Beside the result in use, at most ``waiting`` results are under way or done (two for each worker if None).

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
