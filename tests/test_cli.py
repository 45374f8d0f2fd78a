"""The commands together: their list, who may share their work, and that help waits for nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spp_det.version import __version__
from tests.command_line import assert_one_line, spp_det


@pytest.mark.parametrize("command", ["ablate", "evaluate"])
def test_what_one_process_does_is_refused_to_several(tmp_path, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(spp_det(command, tmp_path / "recipe.yaml"), command, "without torchrun")


def test_no_command_at_all_shows_the_help():
    ended = spp_det()
    assert ended.code == 2
    assert "evaluate" in ended.out


def test_version_and_help():
    assert spp_det("--version").out == f"spp_det {__version__}\n"
    ended = spp_det("--help")
    assert ended.code == 0
    for command in ("train", "detect", "evaluate", "proposals", "inspect", "demo", "pretrain", "ablate"):
        assert command in ended.out


def test_help_waits_for_nothing_heavy():
    """Nor do refusals; and `tune_process` sets what torch reads when it is imported."""
    program = "import sys, spp_det.cli; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(ended.stdout.split())
    assert "spp_det.commands.benchmark" in modules
    assert not modules & {"torch", "numpy", "cv2", "pydantic", "jinja2", "PIL", "rich.progress"}
