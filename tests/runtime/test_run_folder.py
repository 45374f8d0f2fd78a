"""One run at a time in a folder, whoever else asks and however the one before has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spp_det.config.settings import SVM, Config
from spp_det.errors import UserError
from spp_det.runtime import run_folder
from spp_det.runtime.run_folder import LOCK, alone_in, claimed

HOLDER = """
import sys
from pathlib import Path
from spp_det.runtime.run_folder import alone_in

with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(run_folder.fcntl is None, reason="no such locks here")


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Iterator[Path]:
    """A folder that another process holds."""
    folder = tmp_path_factory.mktemp("held")
    with holding(folder) as process:
        yield folder
        assert process.poll() is None


def test_a_second_run_is_refused_in_one_line_and_changes_nothing(held):
    with pytest.raises(UserError) as caught, alone_in(held):
        pytest.fail("it was let in")
    assert str(caught.value) == f"another run is at work in {held}"
    with pytest.raises(UserError, match="at work"), claimed(Config(), held, frozenset()):
        pytest.fail("it was let in")
    assert [path.name for path in held.iterdir()] == [LOCK]


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_the_folder_is_free_when_the_run_is_over(tmp_path, how):
    with holding(tmp_path) as holder:
        holder.stdin.close() if how == "ends" else holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / LOCK).exists() == (how == "is killed")
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_another_run_s(held):
    with alone_in(held / "other"):
        assert (held / "other").is_dir()


def test_the_ranks_of_one_run_do_not_refuse_each_other(held, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with alone_in(held):
        pass


def test_a_lock_that_was_removed_while_it_was_asked_for_is_asked_for_again(tmp_path, monkeypatch):
    """Else two could hold a file each, one of which has no name any more."""
    flock, asked = run_folder.fcntl.flock, []

    def slow(handle: int, how: int) -> None:
        if not asked:
            (tmp_path / LOCK).unlink()
        asked.append(handle)
        flock(handle, how)

    monkeypatch.setattr(run_folder.fcntl, "flock", slow)
    with alone_in(tmp_path):
        assert len(asked) == 2
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("missing", ["module", "disk"])
def test_where_there_are_no_locks_work_goes_on(tmp_path, monkeypatch, missing):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if missing == "module":
        monkeypatch.setattr(run_folder, "fcntl", None)
    else:
        monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link"), alone_in(tmp_path / "out"):
        pytest.fail("it was let in")
    assert not (tmp_path / "elsewhere").exists()


# ---------------------------------------------------------------- of one configuration


def test_a_claimed_folder_is_its_configuration_s_and_swept(tmp_path):
    old, young = (tmp_path / f".{digit * 16}.partial" for digit in "ab")
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    with claimed(Config(), tmp_path, frozenset()):
        assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, LOCK, "config.yaml"]


@pytest.mark.parametrize("idle", ["svm.C", "svm"])
def test_what_is_idle_may_differ_and_is_written_down(tmp_path, idle):
    def write(value: float, *idle: str) -> str:
        with claimed(Config(svm=SVM(C=value)), tmp_path, frozenset(idle)):
            return Path(tmp_path / "config.yaml").read_text()

    before = write(0.5)
    with pytest.raises(UserError, match=r"svm.C: 0.5 -> 0.25\): name another output, or remove"):
        write(0.25)
    assert (tmp_path / "config.yaml").read_text() == before
    assert "C: 0.25" in write(0.25, idle)


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_auto_is_the_precision_that_the_run_began_with(tmp_path, begun):
    """A machine that would choose another one does not mix the two."""

    def claim(precision: str) -> str:
        with claimed(Config(runtime={"precision": precision}), tmp_path, frozenset()) as config:
            assert f"precision: {config.runtime.precision}" in (tmp_path / "config.yaml").read_text()
            return config.runtime.precision

    assert claim("auto") == "auto"
    (tmp_path / "config.yaml").unlink()
    assert claim(begun) == claim("auto") == claim(begun) == begun
    other = {"float32": "bfloat16", "bfloat16": "float32"}[begun]
    with pytest.raises(UserError, match=rf"runtime.precision: {begun} -> {other}\)"):
        claim(other)


def test_auto_is_the_memory_that_the_run_began_with(tmp_path):
    def claim(memory: int | str) -> int | str:
        with claimed(Config(svm={"memory_mb": memory}), tmp_path, frozenset()) as config:
            return config.svm.memory_mb

    assert claim(1500) == claim("auto") == claim(1500) == 1500
    with pytest.raises(UserError, match=r"svm.memory_mb: 1500 -> 1600\)"):
        claim(1600)
