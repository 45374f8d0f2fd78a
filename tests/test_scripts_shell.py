"""The shell scripts work where they lie, whatever is exported; the versions they install are accepted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.sh"))
HELD = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in HELD if not line.startswith("#")]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def stub(path: Path) -> None:
    """A program that says where it was started, and fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\necho "in $(pwd -P)"\nexit 9\n')
    path.chmod(0o755)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_exported_cdpath_does_not_lead_elsewhere(tmp_path, name):
    project, decoy = tmp_path / "project", tmp_path / "decoy"
    shutil.copytree(ROOT / "scripts", project / "scripts")
    shutil.copytree(ROOT / "configs", project / "configs")
    for file in ("pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / file, project / file)
    stub(project / ".venv" / "bin" / "python")  # the first program of setup.sh
    stub(project / "bin" / "uv")  # of lock.sh
    if name != "setup.sh":
        stub(project / "scripts" / "setup.sh")  # of all others
    stub(decoy / "scripts" / "setup.sh")
    (decoy / "configs").mkdir()
    env = os.environ | {"CDPATH": str(decoy), "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", f"scripts/{name}"], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (9, f"in {project.resolve()}\n"), done.stderr


def test_a_recipe_that_is_unknown_is_answered_in_one_line_with_cdpath_too():
    env = os.environ | {"CDPATH": str(ROOT), "SKIP_SETUP": "1"}
    command = ["bash", "scripts/reproduce_voc07.sh", "voc07_lenet"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("voc07_squeezenet_finetuned.yaml voc07_vgg16.yaml voc07_zf5.yaml\n")


# ---------------------------------------------------------------- the locked versions


def test_every_version_is_locked_to_one_number_without_an_address_or_a_build_of_its_own():
    assert len({pin.name for pin in PINS}) == len(PINS) > 50
    for pin in PINS:
        assert re.fullmatch(r"==[0-9.]+", str(pin.specifier)), pin
        assert pin.url is None
    assert "/" not in "".join(line for line in HELD if not line.startswith("#"))


def test_what_the_project_asks_for_is_locked_to_a_version_that_it_accepts():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = asked["project"]
    wanted = [*asked["build-system"]["requires"], *project["dependencies"]]
    wanted += project["optional-dependencies"]["dev"]
    locked = {pin.name.lower().replace("_", "-"): next(iter(pin.specifier)).version for pin in PINS}
    for requirement in map(Requirement, wanted):
        assert ">=" in str(requirement.specifier), f"{requirement}: has no lower bound"
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(locked[name]), f"{requirement}: locked to {locked[name]}"
