"""Imports run one way. Reads every module's source; an arrow that runs back, or in a circle, fails here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import spp_det

ROOT = Path(spp_det.__file__).parent

ROOMS = (
    # Low to high. A room is a module or a folder directly under spp_det; it imports from lower rows alone.
    {"kernels"},
    {"version", "errors", "boxes"},
    {"config"},
    {"runtime"},
    {"images"},
    {"data", "proposals", "drawing"},
    {"model"},
    {"training"},
    {"detections", "pretraining"},
    {"evaluation"},
    {"report", "inference"},
    {"serving"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
TOP = set().union(*ROOMS) - {"version", "__main__"}
MOST_ROOMS = 19
MOST_LINES = {"spp_det": 320, "tests": 500}  # of a file: a longer one usually hides two ideas


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


def row(name: str) -> int:
    return next(index for index, names in enumerate(ROOMS) if name in names)


def inside(module: str, *parts: str) -> bool:
    return module != "spp_det" and part(module) in parts


# ---------------------------------------------------------------- the rules


def test_the_top_of_the_package_holds_the_listed_rooms_alone():
    entries = {path.stem for path in ROOT.iterdir() if not path.name.startswith(("__", "."))}
    assert entries - {"version", "py"} == TOP
    assert len(TOP) <= MOST_ROOMS


@pytest.mark.parametrize("folder", MOST_LINES)
def test_a_file_is_read_in_one_sitting(folder):
    lengths = {
        str(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((ROOT.parent / folder).rglob("*"))
        if path.suffix in {".py", ".js", ".css", ".j2"}
    }
    assert not {path: lines for path, lines in lengths.items() if lines > MOST_LINES[folder]}


@pytest.mark.parametrize("module", INNER)
def test_no_arrow_runs_back(module):
    own = part(module)
    for name in ours(module):
        assert name in MODULES, f"{module} imports {name}, which does not exist"
        assert name != "spp_det", f"{module} imports the public names: import from where they are defined"
        other = part(name)
        if other == own:
            continue
        assert row(other) < row(own), f"{module} imports {name}, which does not lie below it"


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
FILES = {"spp_det.runtime.cache", "spp_det.runtime.whole_files"}
WRITES_FILES = {"spp_det.model.model_file"}  # the one door from a detector to the disk


@pytest.mark.parametrize("module", MATHEMATICS)
def test_mathematics_knows_neither_cache_nor_terminal(module):
    files = set() if module in WRITES_FILES else FILES
    assert not imported(module) & {"spp_det.runtime.progress", *files}
    assert not {name.split(".")[0] for name in imported(module)} & {"rich", "typer", "tqdm"}


def test_opencv_is_imported_in_one_place():
    """The one that says what to do where it does not import."""
    assert [module for module in MODULES if "cv2" in {n.split(".")[0] for n in imported(module)}] == [
        "spp_det.runtime.opencv"
    ]


def test_nothing_imports_pickle():
    for module in MODULES:
        assert not imported(module) & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}, module


# ---------------------------------------------------------------- the reader of imports itself


def test_imports_are_seen_wherever_they_stand():
    assert "spp_det.inference" in ours("spp_det.commands.detect")  # inside a function
    assert "spp_det.model.detector" in ours("spp_det")  # for type checkers alone
    assert "spp_det.proposals.source" in ours("spp_det.model.detector")  # at the top
    assert len(MODULES) > 30
