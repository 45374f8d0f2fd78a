"""How the process of a command ends: by a signal, by a mistake of the user, as one of several."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from spp_det.commands import process
from tests.command_line import assert_one_line, spp_det


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("trian",), ("No such command", "trian")),
        (("train",), ("Missing argument",)),
        (("--verbose",), ("No such option", "--verbose")),
        (("train", "a.yaml", "--fast"), ("No such option", "--fast", "train --help")),
        (("detect", "a.safetensors", "b.jpg"), ("Missing option", "--out")),
        (("detect", "a", "b", "--out", "c", "--workers", "-1"), ("--workers", "0")),
        (("detect", "a", "b", "--out", "c", "--score", "high"), ("--score", "spp-det detect --help")),
    ],
)
def test_words_that_make_no_command_are_one_line(words, parts):
    assert_one_line(spp_det(*words), *parts)


def test_of_several_processes_the_first_one_speaks_for_all(tmp_path, monkeypatch):
    """torchrun ends the others while they wait; who is still there then has something of its own to say."""
    waited = []
    monkeypatch.setattr(process, "FIRST", False)
    monkeypatch.setattr("time.sleep", waited.append)
    assert_one_line(spp_det("train", tmp_path / "absent.yaml"), "absent.yaml")
    assert waited == [process.GRACE]


@pytest.mark.parametrize("busy", [False, True], ids=["at rest", "a thread is busy"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_with_its_code_and_one_line(name, busy):
    """After whatever is to be tidied, and also where a thread has no end: that is then not waited for."""
    program = """
        import os, signal, sys, threading, time
        from spp_det.commands import process
        process.GRACE = 1.5

        def work(**_):
            process.goes_on("the same command goes on")
            if sys.argv[2] == "True":
                threading.Thread(target=threading.Event().wait).start()
            try:
                os.kill(os.getpid(), getattr(signal, sys.argv[1]))
            finally:
                print("tidied", flush=True)

        process.run_app(work)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), name, str(busy)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == {"SIGINT": 130, "SIGTERM": 143}[name]
    assert ended.stdout == "tidied\n"
    assert ended.stderr.count("\n") == 1
    how = {"SIGINT": "interrupted", "SIGTERM": "terminated"}[name]
    assert f"{how}; the same command goes on\n" in ended.stderr


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_signal_ends_a_process_that_is_not_in_python(again):
    """As when it waits for a lost peer: for long where the signal comes once, and at once where twice."""
    program = """
        import ctypes, os, signal, sys, threading, time
        from spp_det.commands import process
        process.GRACE = 60 if sys.argv[1] == "True" else 0.5

        def send():
            for _ in range(2 if sys.argv[1] == "True" else 1):
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGTERM)

        def block(**_):
            mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
            lock(mutex)
            threading.Thread(target=send).start()
            lock(mutex)  # for ever, and no signal interrupts it

        process.run_app(block)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(again)]
    assert subprocess.run(command, timeout=30, check=False).returncode == 128 + signal.SIGTERM


def run(program: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """A program that begins with the usual imports, in a process of its own."""
    whole = (
        "import logging, os, signal, sys\nfrom pathlib import Path\nfrom spp_det.commands import process\n"
    )
    command = [sys.executable, "-c", whole + textwrap.dedent(program), *arguments]
    return subprocess.run(command, text=True, timeout=120, check=False, **options)


def test_of_a_command_that_does_not_go_on_nobody_says_so():
    program = """
        def work(**_):
            os.kill(os.getpid(), signal.SIGTERM)

        process.run_app(work)
    """
    assert run(program, stderr=subprocess.PIPE).stderr.strip().endswith("terminated")


@pytest.mark.parametrize("raised", ["UserError", "OthersLostError"])
def test_the_line_that_ends_a_run_is_in_its_log_and_names_make_no_lines_of_their_own(tmp_path, raised):
    program = """
        from spp_det import errors

        def work(**_):
            process.goes_on("the same command goes on")
            process.log_to(Path(sys.argv[1]))
            logging.getLogger("spp_det").warning("skipped: a\\nb\\x1b[31m.jpg")
            raise getattr(errors, sys.argv[2])("cannot go on with c\\nd")

        process.run_app(work)
    """
    ended = run(program, str(tmp_path / "train.log"), raised, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    line = "error: cannot go on with c\\nd" + ("; the same command goes on" if raised[0] == "O" else "")
    assert ended.stderr.splitlines()[-1] == line
    first, second = (tmp_path / "train.log").read_text().splitlines()
    assert first.endswith("WARNING spp_det: skipped: a\\nb\\x1b[31m.jpg")
    assert second.endswith(f"ERROR spp_det: {line}")


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("place", ["a full disk", "nobody who reads"])
def test_no_line_is_worth_the_end_of_the_work(tmp_path, place):
    """The terminal may be closed, or the disk under its copy full, hours before the end."""
    program = """
        from spp_det.runtime.progress import track

        def work(**_):
            process.log_to(Path(sys.argv[1]))
            for number in track(range(3), "work"):
                logging.getLogger("spp_det").info("item %d", number)
            process.say("done")
            logging.getLogger("spp_det").info("%d", "no number")

        process.run_app(work)
    """
    if place == "a full disk":
        with FULL.open("w") as stderr:
            ended = run(program, str(tmp_path / "train.log"), stderr=stderr)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        ended = run(program, str(tmp_path / "train.log"), stderr=writing)
        os.close(writing)
    assert ended.returncode == 0
    assert (tmp_path / "train.log").read_text().count("item") == 3


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_refusal_that_cannot_be_said_has_its_exit_code():
    program = """
        from spp_det.errors import UserError

        def work(**_):
            raise UserError("no")

        process.run_app(work)
    """
    with FULL.open("w") as stderr:
        assert run(program, stderr=stderr).returncode == 2


CHURN = """
    import resource, sys
    import numpy as np
    from spp_det.commands.process import tune_process

    if sys.argv[1] == "set":
        tune_process()
    for turn in range(40):
        if turn == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        several = [np.ones(700_000) for _ in range(3)]  # as many pages as selective search's masks
        del several
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def churn(how: str, **environment: str) -> int:
    """Page faults of allocating 500 MB, 17 at a time."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", textwrap.dedent(CHURN), how]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**inherited, **environment}
    )
    return int(ended.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="it is glibc's allocator that is set"
)
def test_memory_that_was_freed_is_used_again_unless_the_environment_says_otherwise():
    faults = churn("set")
    assert churn("leave") > 10 * faults
    assert churn("set", MALLOC_MMAP_THRESHOLD_="1000000", MALLOC_TRIM_THRESHOLD_="1000000") > 10 * faults


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "a count", "a policy"],
)
def test_how_torchs_threads_wait_is_set_unless_the_environment_says_it(monkeypatch, said, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what follows is undone
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process.sys, "platform", "elsewhere")  # the allocator of the tests stays as it is
    process.tune_process()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_one_line(spp_det("evaluate", "~/none.json", "--voc=~/voc"), tmp_path / "voc")
    assert_one_line(spp_det("cache", "~/none"), tmp_path / "none")


def test_messages_before_a_log_are_in_it_too(tmp_path):
    program = """
        def work(**_):
            logging.getLogger("spp_det").warning("early")
            process.log_to(Path(sys.argv[1]))
            logging.getLogger("spp_det").warning("late")

        process.run_app(work)
    """
    assert run(program, str(tmp_path / "train.log")).returncode == 0
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == [
        "early",
        "late",
    ]


def test_a_closed_pipe_is_no_failure():
    reading, writing = os.pipe()
    os.close(reading)
    program = """
        def work(**_):
            for _ in range(2):
                print("x" * 100_000, flush=True)

        process.run_app(work)
    """
    ended = run(program, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
