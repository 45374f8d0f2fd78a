"""A built wheel, installed beside the packages that are there: from a recipe's name to a report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc, write_voc
from spp_det.version import __version__

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "spp_det", "configs")
pytest.importorskip("pip", reason="a virtual environment without pip, such as uv makes")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

# All commands in one process, which imports the libraries once; `run_path` is what a shell does.
JOURNEY = """
import json, runpy, sys
import spp_det

print(spp_det.__file__)
script, *commands = sys.argv[1:]
for command in map(json.loads, commands):
    sys.argv = [script, *command]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            sys.exit(ended.code)
"""


def run(*command: object, folder: Path, **environment: str) -> str:
    """Its standard output; offline, and with nothing of the checkout on the path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, so that the checkout stays as it is."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    run(*PIP, "wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", out, source, folder=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    run(*PIP, "install", "--no-index", "--no-deps", "--target", target, wheel, folder=target)
    _bring_compiled_kernels(target)
    return target


def _bring_compiled_kernels(target: Path) -> None:
    """Those of the checkout, if it has any, so that they are not compiled anew for this folder. numba takes
    a kernel where its source has the same size and time."""
    for source in (ROOT / "spp_det").rglob("*.py"):
        compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.*.nb?"))
        if compiled:
            there = target / source.relative_to(ROOT)
            times = source.stat()
            os.utime(there, ns=(times.st_atime_ns, times.st_mtime_ns))
            (there.parent / "__pycache__").mkdir(exist_ok=True)
            for path in compiled:
                shutil.copy(path, there.parent / "__pycache__" / path.name)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Few and small, of one class: six take their time."""
    folder = tmp_path / "photos"
    generate_voc(folder, {"trainval": 3, "test": 1}, seed=1, sizes=((110, 96),))
    for split in ("trainval", "test"):
        dataset = read_voc(folder, split)
        records = [replace(record, labels=np.zeros_like(record.labels)) for record in dataset.records]
        write_voc(Dataset(("thing",), records), folder, split)
    return folder


def test_it_holds_the_modules_the_recipes_the_templates_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = [path for path in (ROOT / "spp_det").rglob("*") if path.is_file()]
    ours = {str(path.relative_to(ROOT)) for path in package if path.parent.name != "__pycache__"}
    assert held == ours | {f"spp_det/recipes/{path.name}" for path in (ROOT / "configs").iterdir()}


def test_from_an_empty_folder_it_trains_by_a_recipes_name_detects_and_reports(installed, photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    network = ("backbone.name=zf5_small", "backbone.weights=random", "backbone.scales=[96]")
    settings = (f"data.root={photos}", "data.test=test", "output=mine", "runtime.device=cpu", *network)
    commands = (
        ["train", "squeezenet_svm", *settings],
        ["detect", "mine/model.safetensors", f"{photos}/JPEGImages", "--out", "found", "--device", "cpu"],
        ["report", "mine"],
    )
    words = [json.dumps(command) for command in commands]
    script = installed / "bin" / "spp-det"
    out = run(sys.executable, "-P", "-c", JOURNEY, script, *words, folder=empty, PYTHONPATH=str(installed))
    assert Path(out.splitlines()[0]) == installed / "spp_det" / "__init__.py"

    written = (empty / "mine" / "config.yaml").read_text(encoding="utf-8")
    assert "normalize: hellinger" in written  # the recipe's
    assert {"model.safetensors", "metrics.json"} <= {path.name for path in (empty / "mine").iterdir()}
    assert len(json.loads((empty / "found" / "images.json").read_text())["images"]) == 4
    assert json.loads((empty / "found" / "detections.json").read_text())
    page = (empty / "mine" / "report.html").read_text(encoding="utf-8")
    assert 'id="picture-' in page
    templates = ROOT / "spp_det" / "report" / "templates"
    for template in (*templates.glob("*.css"), *templates.glob("*.js")):
        assert template.read_text(encoding="utf-8").strip() in page, template.name
    assert sorted(path.name for path in empty.iterdir()) == ["found", "mine"]


def test_its_script_answers_from_the_shell(installed, tmp_path):
    script = installed / "bin" / "spp-det"
    assert run(script, "--version", folder=tmp_path, PYTHONPATH=str(installed)) == f"spp_det {__version__}\n"
