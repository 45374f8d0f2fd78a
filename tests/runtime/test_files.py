"""The door for files that people bring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spp_det.errors import UserError
from spp_det.runtime.files import read_bytes, read_text


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_text(path, **options)
    assert str(caught.value).startswith(f"{path}: ".replace("\0", "\\x00"))
    return str(caught.value)


def test_text_is_utf_8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "a.txt"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + "größe\r\n".encode())
        assert read_text(path) == "größe\r\n"
    path.write_bytes(b"\xff")
    assert "not a readable text file" in refusal(path)
    assert read_text(path, errors="surrogateescape") == "\udcff"


def test_the_bound_is_of_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    assert "larger than 4 bytes" in refusal(path, most=4)


def test_a_sparse_file_of_terabytes_is_refused_without_being_read(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "larger than 1,000 bytes" in refusal(path, most=1000)


def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        assert "a pipe or a device" in refusal(tmp_path / name)
    assert "a pipe or a device" in refusal(Path("/dev/zero"))
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "absent")
    assert "null" in refusal(tmp_path / "a\0b")
