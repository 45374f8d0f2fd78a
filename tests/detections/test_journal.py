"""What is noted is there after any end of the process; what was under way is not. (See also test_write.)"""

from __future__ import annotations

import contextlib
import json
import logging
import os

import pytest

from spp_det.detections.journal import NAME, STALE, Journal
from spp_det.errors import UserError

RUN = {"model": "a", "images": [2, "ab"]}


def noted(folder) -> list:
    journal = Journal(folder, RUN, [], resume=True)
    journal.close()
    return [entry["found"] for entry in journal.entries()]


def note(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        with journal.entry({"found": number}):
            pass


def test_an_entry_whose_block_has_not_ended_does_not_count(tmp_path):
    journal = Journal(tmp_path, RUN, [], resume=False)
    note(journal, 1, 2)
    with pytest.raises(OSError, match="full"), journal.entry({"found": 3}):
        raise OSError("full")
    journal.close()
    assert noted(tmp_path) == [1, 2]
    again = Journal(tmp_path, RUN, [], resume=True)
    note(again, 4)
    again.close()
    assert noted(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"run"', b"\x00" * 50, b"[]\n"])
def test_without_a_whole_first_line_it_begins_anew(tmp_path, damage):
    (tmp_path / NAME).write_bytes(damage)
    assert noted(tmp_path) == []


def test_after_a_damaged_line_nothing_counts(tmp_path):
    """After a power failure blocks of a file may be zeros."""
    journal = Journal(tmp_path, RUN, [], resume=False)
    note(journal, 1, 2, 3)
    journal.close()
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data.replace(b'{"found": 2', b"\x00" * 11))
    assert noted(tmp_path) == [1]


def test_killed_while_it_removed_an_earlier_run_it_takes_none_of_that_for_done(tmp_path):
    journal = Journal(tmp_path, RUN, [], resume=False)
    with journal.entry({"found": 1, "files": ["yolo/a.txt"]}):
        (tmp_path / "yolo").mkdir()
        (tmp_path / "yolo" / "a.txt").touch()
    journal.close()
    (tmp_path / NAME).rename(tmp_path / STALE)
    assert noted(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_run_of_another_version_says_what_differs(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"files": []}) + "\n")
    with pytest.raises(UserError, match='model was null and is now "a"'):
        noted(tmp_path)


# ---------------------------------------------------------------- what killed runs leave

OURS, STRANGER_S = f".{'a' * 16}.partial", ".mine.partial"


def interrupted(folder) -> None:
    """A run that died while it wrote the second of two files."""
    (folder / "yolo").mkdir()
    journal = Journal(folder, RUN, [], resume=False)
    for number, name in enumerate(("a", "b")):
        entry = {"found": number, "files": [f"yolo/{name}.txt"]}
        with contextlib.suppress(KeyboardInterrupt), journal.entry(entry):
            if name == "b":
                raise KeyboardInterrupt
            (folder / "yolo" / "a.txt").touch()
    journal.close()
    for scrap in (OURS, STRANGER_S):
        (folder / "yolo" / scrap).touch()


def test_going_on_removes_the_scraps_of_the_killed_run_and_no_others(tmp_path, caplog):
    interrupted(tmp_path)
    with caplog.at_level(logging.INFO, "spp_det"):
        assert noted(tmp_path) == [0]
    assert sorted(path.name for path in (tmp_path / "yolo").iterdir()) == [STRANGER_S, "a.txt"]
    (record,) = caplog.records
    assert f"{tmp_path / NAME}: its end is torn" in record.getMessage()
    caplog.clear()
    assert noted(tmp_path) == [0]
    assert not caplog.records


def test_beginning_anew_removes_the_scraps_of_the_killed_run_and_no_others(tmp_path):
    interrupted(tmp_path)
    Journal(tmp_path, RUN, [], resume=False).close()
    assert [path.name for path in (tmp_path / "yolo").iterdir()] == [STRANGER_S]


def test_old_scraps_in_the_folder_itself_are_swept(tmp_path):
    for name in (OURS, STRANGER_S):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    Journal(tmp_path, RUN, [], resume=True).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [STRANGER_S, NAME]


def test_a_damaged_first_line_is_said(tmp_path, caplog):
    (tmp_path / NAME).write_bytes(b"{")
    assert noted(tmp_path) == []
    assert f"{tmp_path / NAME}: its first line is damaged; beginning anew" in caplog.text


@pytest.mark.parametrize("start", [b"", b'{"run": {}}\n', b"{"])
def test_a_journal_without_end_is_neither_kept_in_memory_nor_waited_for(tmp_path, start):
    """A sparse file that somebody has left there."""
    (tmp_path / NAME).write_bytes(start)
    os.truncate(tmp_path / NAME, 2**32)
    journal = Journal(tmp_path, RUN, [], resume=False)
    note(journal, 1)
    journal.close()
    assert noted(tmp_path) == [1]
    assert not (tmp_path / STALE).exists()
