"""Work that runs ahead of whoever consumes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")


def ahead(
    function: Callable[[S], T], items: Iterable[S], workers: int, waiting: int | None = None
) -> Iterator[T]:
    """``map(function, items)`` on threads: results in order.

    Beside the one that is in use, at most ``waiting`` results are under way or done (two a worker if None).

    An exception of ``function`` comes out in its turn; work that has not begun is then dropped.
    """
    pool = ThreadPoolExecutor(workers)
    most = 2 * workers if waiting is None else waiting
    queue: deque[Future[T]] = deque()
    try:
        for item in items:
            queue.append(pool.submit(function, item))
            if len(queue) > most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
