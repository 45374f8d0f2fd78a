"""Generated scenes as a data set on disk, in the Pascal VOC layout."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spp_det.data.names import AnyPath
from spp_det.data.synthetic.scenes import CLASSES, SIZES, Scene, scene
from spp_det.data.voc_xml import annotation_xml
from spp_det.errors import UserError
from spp_det.images import encode_jpeg
from spp_det.runtime.files import read_text
from spp_det.runtime.threads import ahead, cores

SPLITS: Mapping[str, int] = {"trainval": 160, "test": 60}

TRAIN_PART = (0.0, 0.55)  # columns of the photographs that backgrounds come from, as fractions
TEST_PART = (0.55, 1.0)

GENERATOR = "spp_det.data.synthetic"
VERSION = 4  # raised with every change that alters a picture
MARKER = "generated.json"  # says what a folder was generated from, and that generate_voc may replace it


def generate_voc(
    root: AnyPath, splits: Mapping[str, int] = SPLITS, seed: int = 0, sizes: Sequence[tuple[int, int]] = SIZES
) -> None:
    """Write a generated data set in the Pascal VOC layout under ``root``: JPEGs, annotations, splits.

    The same arguments give the same bytes on the same machine. Image ``i`` of a split depends on the
    seed, the sizes, the split's name and ``i`` alone, so a larger split begins with the images of a
    smaller one. The backgrounds of a split whose name begins with ``test`` come from other parts of the
    photographs than all the others.

    ``root`` appears whole or not at all. A folder that the same call made before is kept, one from other
    arguments is replaced.

    Args:
        root: the folder to make.
        splits: how many images each split has, by name.
        seed: not negative.
        sizes: the (width, height) that images have, chosen at random, pixels.

    Raises:
        UserError: ``root`` holds something that this function did not make and would have to replace.
        ValueError: an argument is out of range.
    """
    if seed < 0 or any(count < 0 or not name.isidentifier() for name, count in splits.items()):
        raise ValueError(
            f"seed and image counts must not be negative, splits must be words: {seed}, {splits}"
        )
    root = Path(root).resolve()
    recipe = {
        "generator": GENERATOR,
        "version": VERSION,
        "seed": seed,
        "splits": dict(splits),
        "sizes": [list(size) for size in sizes],
    }
    if root.exists():
        if _recipe_of(root) == recipe and _is_complete(root, splits):
            return
        _check_replaceable(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        _write(fresh, splits, seed, sizes)
        (fresh / MARKER).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            root.rename(Path(scratch) / "replaced")
        fresh.rename(root)


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The random generator of one image."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def _recipe_of(root: Path) -> object:
    """The recipe that a folder was generated from; None where it was not generated."""
    try:
        recipe = json.loads(read_text(root / MARKER))
    except (UserError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) and recipe.get("generator") == GENERATOR else None


def _check_replaceable(root: Path) -> None:
    """Raise UserError unless a folder is empty, or was generated and nothing was added to it."""
    if not root.is_dir():
        raise UserError(f"{root}: not a folder; name a new one for the generated data set")
    entries = {entry.name for entry in root.iterdir()}
    if entries and _recipe_of(root) is None:
        raise UserError(f"{root}: not a generated data set, so it is not replaced; name a new folder")
    added = sorted(entries - {"Annotations", "ImageSets", "JPEGImages", MARKER})
    if added:
        raise UserError(f"{root}: holds {added[0]!r}, which was not generated, so it is not replaced")


def _image_id(split: str, index: int) -> str:
    return f"{split}_{index:05d}"


def _is_complete(root: Path, splits: Mapping[str, int]) -> bool:
    """Whether nobody has removed a file since the folder was generated."""
    ids = [_image_id(split, i) for split, count in splits.items() for i in range(count)]
    files = [root / "JPEGImages" / f"{image_id}.jpg" for image_id in ids]
    files += [root / "Annotations" / f"{image_id}.xml" for image_id in ids]
    files += [root / "ImageSets" / "Main" / f"{split}.txt" for split in splits]
    return all(file.is_file() for file in files)


def _write(root: Path, splits: Mapping[str, int], seed: int, sizes: Sequence[tuple[int, int]]) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, count in splits.items():
        part = TEST_PART if split.startswith("test") else TRAIN_PART

        def draw(index: int, split: str = split, part: tuple[float, float] = part) -> None:
            _write_scene(root, _image_id(split, index), scene(image_rng(seed, split, index), sizes, part))

        for _ in ahead(draw, range(count), cores()):
            pass
        ids = "".join(f"{_image_id(split, index)}\n" for index in range(count))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(ids, encoding="utf-8")


def _write_scene(root: Path, image_id: str, drawn: Scene) -> None:
    file_name = f"{image_id}.jpg"
    (root / "JPEGImages" / file_name).write_bytes(encode_jpeg(drawn.image))
    height, width = drawn.image.shape[:2]
    names = [CLASSES[label] for label in drawn.labels]
    text = annotation_xml(file_name, width, height, drawn.boxes, names, drawn.difficult)
    (root / "Annotations" / f"{image_id}.xml").write_text(text, encoding="utf-8")
