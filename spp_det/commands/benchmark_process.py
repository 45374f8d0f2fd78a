"""A job in a process of its own, timed there. The process imports nothing that the job does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from spp_det.commands.process import tune_process


def in_process(job: Callable[..., object], *arguments: object) -> tuple[float, int | None]:
    """Seconds of a job in a process of its own, and the peak memory of that process in MiB."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=tune_process) as processes:
        return processes.submit(timed, job, arguments).result()


def timed(job: Callable[..., object], arguments: Sequence[object]) -> tuple[float, int | None]:
    """The same in this process."""
    start = time.perf_counter()
    job(*arguments)
    seconds = time.perf_counter() - start
    from spp_det.runtime.devices import peak_memory  # imports torch

    return seconds, peak_memory()
