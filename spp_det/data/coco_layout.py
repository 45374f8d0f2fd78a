"""Where the instances files and the photos of a COCO data set lie, as each tool lays them out.

- ``annotations/instances_SPLIT.json`` beside ``SPLIT``, ``images/SPLIT`` or ``images`` (COCO, CVAT, datumaro)
- ``SPLIT/_annotations.coco.json`` among the photos of that split (Roboflow)
- ``result.json`` or any other one, beside ``images`` (Label Studio)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spp_det.data.coco_file import load_json
from spp_det.data.names import can_be_a_file, leads_out
from spp_det.errors import UserError

ROBOFLOW = "_annotations.coco.json"
INSTANCES = "instances_"


def coco_files(root: Path) -> dict[str, Path]:
    """The instances files of a folder by the name of their split, in natural reading order.

    Files with names of their own (see above) are not opened. Where there is none, every ``.json`` directly in
    the folder whose content is COCO's counts, under its name without the suffix.
    """
    found = {path.parent.name: path for path in sorted(root.glob(f"*/{ROBOFLOW}")) if path.is_file()}
    if (root / ROBOFLOW).is_file():
        found[root.absolute().name] = root / ROBOFLOW
    inner = [path for path in sorted((root / "annotations").glob("*.json")) if path.is_file()]
    named = [path for path in inner if path.name.startswith(INSTANCES)]
    found |= {path.stem.removeprefix(INSTANCES): path for path in named or inner}
    if not found:
        found = {path.stem: path for path in sorted(root.glob("*.json")) if _is_instances(path)}
    return found


def training_file(root: Path, files: Mapping[str, Path]) -> str:
    """The split of an unnamed training: the only one, or the one whose name begins with ``train``.

    Raises UserError, one line that lists them, where that names none or several.
    """
    names = [name for name in files if name.lower().startswith("train")] if len(files) > 1 else list(files)
    if len(names) == 1:
        return names[0]
    listed = ", ".join(str(path.relative_to(root)) for path in files.values()) or "none"
    raise UserError(f"{root}: say which file to train on, data.train=FILE.json; its COCO files: {listed}")


def photo_folder(root: Path, path: Path, content: Mapping[str, Any]) -> Path:
    """The folder that the ``file_name`` of the first photo is below: the root, or a folder inside it."""
    first = next((image.get("file_name") for image in content["images"]), None)
    if not isinstance(first, str) or not can_be_a_file(first) or leads_out(first):
        return root
    split = path.parent.name if path.name == ROBOFLOW else path.stem.removeprefix(INSTANCES)
    places = [root, root / "images" / split, root / split, root / "images", root / "JPEGImages"]
    if path.absolute().is_relative_to(root.absolute()):
        places.insert(1, path.parent)
    return next((folder for folder in places if (folder / first).is_file()), root)


def _is_instances(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content = load_json(path)
    except UserError:
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()
