"""Keys of content, and files that are written whole or not at all, also where a process is killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.runtime.cache import digest, file_digest
from spp_det.runtime.whole_files import write_whole

# ---------------------------------------------------------------- writing whole


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    path = tmp_path / "new" / "folders" / "näme.txt"
    write_whole(path, "zwölf\r\n\n")
    assert path.read_bytes() == "zwölf\r\n\n".encode()
    write_whole(path, b"\0\xff")
    assert path.read_bytes() == b"\0\xff"
    assert names_in(path.parent) == [path.name]


def test_several_buffers_are_one_file_that_is_synced_with_its_name(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync

    def watch(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    write_whole(tmp_path / "file", (part for part in (b"a", memoryview(b"bc"), b"")), tmp_path / "partials")
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert synced == [False, True]
    assert names_in(tmp_path / "partials") == []


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    write_whole(path, "x")
    assert path.read_text() == "x"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "file.txt"
    write_whole(path, "old")

    def fail(_handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == [path.name]


def test_a_place_that_cannot_be_written_is_left_clean(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", "x")
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    program = """
        import os, signal, sys
        from pathlib import Path
        from spp_det.runtime.whole_files import write_whole
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        write_whole(Path(sys.argv[1]), "new" * 10_000)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_whole(path, "newer")  # and what the killed one left behind is in nobody's way
    assert path.read_text() == "newer"


def test_threads_that_write_leave_the_process_with_the_rights_it_had(tmp_path):
    """The umask belongs to the whole process."""
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: write_whole(tmp_path / f"{i}.txt", "x"), range(100)))
        assert os.umask(0o027) == 0o027
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == {0o640}
    finally:
        os.umask(before)


# ---------------------------------------------------------------- keys


def test_a_key_tells_apart_what_differs():
    different = [
        (), ("",), (b"",), ("a",), (b"a",), ("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""),
        (1,), (1.5,), ("1",), (True,), (None,), ([1, 2],), ([12],), (1, 2), ([[1], 2],), ({"a": 1},),
        ({"a": 2},), ({"b": 1},), ({"a": 1, "b": 2},),
    ]  # fmt: skip
    keys = [digest(*parts) for parts in different]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert len(key) == 32
        assert set(key) <= set("0123456789abcdef")


def test_a_key_does_not_depend_on_the_order_of_a_mapping():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


def test_a_key_is_the_same_in_every_process():
    assert digest("spp", b"det", {"k": [1, 2.5, None]}) == "a662feb663d52b2bd9692eaf3936dd08"


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_parts_are_never_run_together(a, b):
    assert (digest(*a) == digest(*b)) == (a == b)


def test_the_key_of_a_file_is_that_of_its_content(tmp_path):
    for name, content in (("a.jpg", b"pixels"), ("b.png", b"pixels"), ("c.jpg", b"pixel"), ("d.jpg", b"")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (file_digest(tmp_path / name) for name in ("a.jpg", "b.png", "c.jpg", "d.jpg"))
    assert a == b
    assert len({a, c, d}) == 3
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "absent")
