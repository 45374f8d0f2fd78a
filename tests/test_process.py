"""How the process of a command ends: by a signal, by a mistake of the user, as one of several."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from spp_det import process
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
        from spp_det import process
        process.GRACE = 0.3

        def work(**_):
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
    assert "goes on from what the cache holds" in ended.stderr


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_signal_ends_a_process_that_is_not_in_python(again):
    """As when it waits for a lost peer: for long where the signal comes once, and at once where twice."""
    program = """
        import ctypes, os, signal, sys, threading, time
        from spp_det import process
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
