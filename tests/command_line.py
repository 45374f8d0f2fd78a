"""The command line, run in the process of the tests."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from spp_det import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def spp_det(*arguments: object) -> Ended:
    """Run the command line in this process, and undo what it does to logging."""
    root, package = logging.getLogger(), logging.getLogger("spp_det")
    handlers, level = list(root.handlers), package.level
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr("sys.argv", ["spp-det", *map(str, arguments)])
        patch.setenv("PYTHONSAFEPATH", "1")  # as the command does; undone behind it
        patch.setattr("signal.signal", lambda *_: None)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            for handler in set(root.handlers) - set(handlers):
                root.removeHandler(handler)
                handler.close()
            package.setLevel(level)
            logging.captureWarnings(False)
    return Ended(ended.value.code or 0, out.getvalue(), err.getvalue())


def assert_one_line(ended: Ended, *parts: object) -> None:
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    for part in parts:
        assert str(part) in ended.err


def assert_last_line(ended: Ended, *parts: object) -> None:
    """A command that had begun to work ends in one line of error, the last on stderr."""
    last = ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert_one_line(Ended(ended.code, ended.out, f"{last}\n"), *parts)


def rows_of(folder: Path) -> list[dict]:
    """The COCO results list of a folder of detections."""
    return json.loads((folder / "detections.json").read_text())


def names_of(folder: Path) -> list[str]:
    """The images of a folder of detections."""
    return [image["file_name"] for image in json.loads((folder / "images.json").read_text())["images"]]
