"""``python -m spp_det`` and its children import nothing from the folder where the user stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RAN = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"
PLANTED = ("numpy.py", "cv2.py", "torch/__init__.py", "yaml.py", "typer.py", "sitecustomize.py")


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Path:
    """The current folder, full of modules that tell when they are run."""
    for name in PLANTED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(RAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_children_of_a_command_import_nothing_of_the_current_folder(planted):
    """Whatever starts them: a pool of processes, a compiler."""
    (planted / "multiprocessing.py").write_text(RAN)
    (planted / "child.py").write_text("")
    child = "import importlib.util; print(importlib.util.find_spec('child'))"
    program = f"""
import subprocess, sys
sys.path.pop(0)
import typer
from spp_det.commands.process import run_app
app = typer.Typer()
@app.command()
def main():
    subprocess.run([sys.executable, "-c", {child!r}], check=True)
sys.argv[1:] = []
run_app(app)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "None\n", run.stderr
    assert list(planted.rglob("*.ran")) == []


@pytest.mark.parametrize(
    "arguments", [["info", "--json"], ["proposals", "--voc", ".", "--recall"], ["--help"]]
)
def test_a_command_runs_nothing_of_the_current_folder(planted, arguments):
    run = subprocess.run([sys.executable, "-m", "spp_det", *arguments], capture_output=True, text=True)
    assert list(planted.rglob("*.ran")) == []
    assert run.returncode == (2 if "proposals" in arguments else 0)
    assert "Traceback" not in run.stderr
