"""One profile for all properties, in which a busy machine fails no test for being slow; shared fixtures."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import splitting

settings.register_profile("spp_det", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spp_det")

# They are no test files, but they assert.
pytest.register_assert_rewrite("tests.command_line", "tests.refusals", "tests.small_run")


# What compares bytes, all bits or processes: tests/stress/processors.py runs the tests that use it.
COMPARISONS = {
    *("array_equal", "assert_array_equal", "assert_read_as_written", "equal"),
    *("read_bytes", "tobytes", "same", "in_ranks"),
}

splitting.split_where_asked()

if not torch.cuda.is_available():  # kernels for a GPU are then interpreted; Triton looks when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that compare bytes. Files that run whole commands go first: they take longest, and with
    ``--no-loadscope-reorder`` no worker is left with one of them at the end.

    The report's pages come second of all. They compile nothing, and when they are done, the other worker has
    compiled the kernels for both.
    """
    first = min((item.path for item in items if item.path.parent.name == "end_to_end"), default=None)

    def place(item: pytest.Item) -> int:
        if item.path == first:
            return 0
        if item.path.parent.name == "report":
            return 1
        return 2 if item.path.parent.name == "end_to_end" or "scripts" in item.path.name else 3

    items.sort(key=place)
    for item in items:
        test = getattr(item, "function", None)
        test = getattr(getattr(test, "hypothesis", None), "inner_test", test)
        names = set(getattr(item, "fixturenames", ()))
        if test is not None and COMPARISONS & (names | _names(test.__code__)):
            item.add_marker(pytest.mark.bytes)


def pytest_collection_finish() -> None:
    """Keep what collecting made out of every later garbage collection, which would take half a second."""
    gc.collect()
    gc.freeze()


# Where nobody has said how many threads there are to be.
SHARING = "PYTEST_XDIST_WORKER" in os.environ and "OMP_NUM_THREADS" not in os.environ


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Workers share the cores, so that one thread is enough for each; what compares bytes has two."""
    if SHARING:
        torch.set_num_threads(2 if item.get_closest_marker("bytes") else 1)


def _names(code: CodeType) -> set[str]:
    """All names that a function uses, and those of functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


@pytest.fixture
def empty_config(tmp_path) -> Path:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing but defaults\n")
    return path


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """Nine small photos in VOC's layout, and in ``run`` what the training of `run_metrics` leaves."""
    from spp_det.data.synthetic import generate_voc

    folder = tmp_path_factory.mktemp("small_run")
    generate_voc(folder / "voc", {"trainval": 6, "test": 3}, seed=1, sizes=((130, 110),))
    return folder


@pytest.fixture(scope="session")
def run_metrics(run_folder) -> dict[str, Any]:
    from spp_det.commands.train import run_training
    from tests.small_run import configure

    return run_training(configure(run_folder, run_folder / "run"))


@pytest.fixture(scope="session")
def run_detector(run_folder, run_metrics) -> Any:
    """The detector that was trained there."""
    from spp_det.model.detector import Detector

    assert run_metrics["images"] == 6
    return Detector.load(run_folder / "run" / "model.safetensors")


@pytest.fixture(scope="session")
def run_paths(run_folder) -> list[Path]:
    """Its test images."""
    from spp_det.data.voc import read_voc

    return [record.path for record in read_voc(run_folder / "voc", "test").records]


@pytest.fixture
def three_threads() -> Iterator[None]:
    """As on a machine of three cores, whatever there is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_ranks() -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """``in_ranks(count, work)``: what ``work(rank)`` returns in each of so many processes.

    They are threads, which start at once. What they exchange is real, the transport is not: see
    tests/runtime/test_distributed.py for that.
    """
    from spp_det.runtime import distributed

    here = threading.local()

    def run(count: int, work: Callable[[int], Any]) -> list[Any]:
        together, sent = threading.Barrier(count, timeout=60), [[]] * count

        def exchange(items: list) -> list[list]:
            sent[here.rank] = list(items)
            together.wait()
            every = list(sent)
            together.wait()
            return every

        def from_first(arrays: dict | None) -> dict | None:
            (*_, first), *_ = exchange([arrays])
            return None if first is None else {name: array.copy() for name, array in first.items()}

        def one(rank: int) -> Any:
            here.rank = rank
            try:
                return work(rank)
            except BaseException:
                together.abort()  # the others would wait for it
                raise

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(count) as pool:
            patch.setattr(distributed, "rank", lambda: here.rank)
            patch.setattr(distributed, "world_size", lambda: count)
            patch.setattr(distributed, "exchange", exchange)
            patch.setattr(distributed, "from_first", from_first)
            results = [pool.submit(one, rank) for rank in range(count)]
            failures = [failure for result in results if (failure := result.exception()) is not None]
            # Of the one that failed by itself rather than of those that then waited for it in vain.
            for failure in sorted(failures, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
                raise failure
            return [result.result() for result in results]

    return run
