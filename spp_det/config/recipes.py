"""The recipes that come with the package: ``squeezenet_svm`` is the file ``configs/squeezenet_svm.yaml``."""

from __future__ import annotations

import difflib
from pathlib import Path

from spp_det.errors import UserError

_PACKAGE = Path(__file__).parents[1]
# The first that exists: a wheel carries the recipes inside the package, a source checkout has them beside it.
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "configs")


def recipes() -> dict[str, Path]:
    """Every recipe's file by its name, in alphabetical order.

    >>> recipes()["squeezenet_svm"].name
    'squeezenet_svm.yaml'
    """
    folder = next(folder for folder in _FOLDERS if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(config: str | Path) -> Path:
    """The file that a path or the name of a recipe stands for.

    A path is taken as it is where it has a folder in it or a file lies there. Any other word is the name of
    a recipe, with or without ``.yaml``; a folder called so, such as a run's output, does not hide the recipe.
    Raises UserError, one line with the nearest names, where no recipe is called so.
    """
    path = Path(config)
    if len(path.parts) != 1 or _is_file(path):
        return path
    known, name = recipes(), path.name.removesuffix(".yaml")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the recipes are {', '.join(known)}"
    raise UserError(f"there is no config file and no recipe {name[:100]!r}; {hint}")


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False
