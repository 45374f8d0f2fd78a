"""Imports run one way. Reads every module's source; an arrow that runs back, or in a circle, fails here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import spp_det

ROOT = Path(spp_det.__file__).parent

COMMANDS = {"training_run", "pretraining", "detecting", "proposing", "inspecting", "reporting"}
COMMANDS |= {"ablation", "demo", "benchmark"}
LAYERS = (
    # Low to high. A part, one module or one folder directly under spp_det, imports from the layers below
    # its own, and of its own layer only as SIDEWAYS allows.
    {"errors", "version", "boxes", "images", "opencv", "config", "config_file", "cache", "progress"}
    | {"distributed", "devices", "threads", "run_folder"},
    {"proposals", "data", "model"},
    {"training", "evaluation", "inference"},
    {"report"},
    COMMANDS | {"cli", "process", "terminal", "__main__"},
)
SIDEWAYS = {
    "images": {"errors", "opencv"},
    "opencv": {"errors"},
    "config_file": {"config", "errors"},
    "devices": {"errors"},
    "distributed": {"errors", "threads"},
    "model": {"proposals"},  # the detector searches for windows by itself
    "training_run": {"detecting"},  # of the test images
    "demo": {"training_run", "detecting"},
    "benchmark": {"training_run", "detecting", "process"},  # it times whole trainings and folders
    "ablation": {"training_run", "proposing"},
    "process": {"terminal"},
    "run_folder": {"cache", "config", "config_file", "distributed", "errors"},
    "cli": COMMANDS | {"process", "terminal"},
    "__main__": {"cli"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
INNER = [name for name in MODULES if name != "spp_det"]  # all but the list of public names


@cache
def imported(module: str) -> frozenset[str]:
    """Everything that a module imports anywhere in its source: in functions and for type checkers too.

    A name taken from one of our packages counts as that package's module where there is one.
    """
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return frozenset(found)


def ours(module: str) -> set[str]:
    return {name for name in imported(module) if name.split(".")[0] == "spp_det"}


def part(module: str) -> str:
    """The module or folder directly under spp_det that holds a module."""
    return module.split(".")[1]


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


def inside(module: str, *parts: str) -> bool:
    return module != "spp_det" and part(module) in parts


# ---------------------------------------------------------------- the rules


def test_every_module_has_its_place_in_a_layer():
    unknown = {part(module) for module in INNER} - set().union(*LAYERS)
    assert not unknown, "give these a layer"


@pytest.mark.parametrize("module", INNER)
def test_no_arrow_runs_back(module):
    own = part(module)
    for name in ours(module):
        assert name in MODULES, f"{module} imports {name}, which does not exist"
        assert name != "spp_det", f"{module} imports the public names: import from where they are defined"
        other = part(name)
        if other == own:
            continue
        assert layer(other) <= layer(own), f"{module} imports {name} of a higher layer"
        if layer(other) == layer(own):
            assert other in SIDEWAYS.get(own, ()), f"{module} imports {name}, its neighbour"


def test_no_modules_import_each_other_in_a_circle():
    def walk(module: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if module in path:
            yield (*path[path.index(module) :], module)
        elif module not in done:
            for name in sorted(ours(module) - {"spp_det"}):
                yield from walk(name, (*path, module))
            done.add(module)

    done: set[str] = set()
    circles = [" -> ".join(circle) for module in INNER for circle in walk(module, ())]
    assert not circles


def test_what_a_package_offers_it_takes_from_its_own_modules():
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module != "spp_det":
            assert all(name.startswith(module + ".") for name in ours(module)), module


MATHEMATICS = [module for module in INNER if inside(module, "boxes", "model", "evaluation")]
WRITES_FILES = {"spp_det.model.model_file": {"spp_det.cache"}}  # the one door from a detector to the disk


@pytest.mark.parametrize("module", MATHEMATICS)
def test_mathematics_knows_neither_cache_nor_terminal(module):
    forbidden = {"spp_det.cache", "spp_det.progress"} - WRITES_FILES.get(module, set())
    assert not imported(module) & forbidden
    assert not {name.split(".")[0] for name in imported(module)} & {"rich", "typer", "tqdm"}


def test_opencv_is_imported_in_one_place():
    """The one that says what to do where it does not import."""
    assert [module for module in MODULES if "cv2" in {n.split(".")[0] for n in imported(module)}] == [
        "spp_det.opencv"
    ]


def test_nothing_imports_pickle():
    for module in MODULES:
        assert not imported(module) & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}, module


# ---------------------------------------------------------------- the reader of imports itself


def test_imports_are_seen_wherever_they_stand():
    assert "spp_det.detecting" in ours("spp_det.cli")  # inside a function
    assert "spp_det.model.detector" in ours("spp_det")  # for type checkers alone
    assert "spp_det.proposals" in ours("spp_det.model.detector")  # at the top
    assert len(MODULES) > 30
