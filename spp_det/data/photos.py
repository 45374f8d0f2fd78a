"""The photos below a folder, in the order in which a person would name them."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from spp_det.data.names import Links
from spp_det.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

NOT_READ = (
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl", ".nef",
    ".nrw", ".orf", ".pef", ".psd", ".raf", ".raw", ".rw2", ".srw", ".svg", ".x3f",
)  # fmt: skip
"""Suffixes, in lower case, of pictures in formats that `spp_det.images.read_image` does not read."""


def images_below(folder: Path, links: Links) -> list[Path]:
    """The files below a folder whose suffix is one of `IMAGE_SUFFIXES`, in natural order.

    Hidden files and folders are left out: file systems and archives leave ``._photo.jpg`` beside
    ``photo.jpg``. Links to folders are not followed. Pictures in formats that are not read are passed over,
    in one warning that counts them. Raises UserError for a link to a file elsewhere, as ``links`` has it.
    """
    images: list[Path] = []
    passed_over: list[Path] = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        images += [Path(parent, name) for name in names if is_image(name)]
        passed_over += [Path(parent, name) for name in names if _is_not_read(name)]
    if passed_over:
        logger.warning(
            "%s: %d pictures of formats that are not read were passed over, the first is %s; convert "
            "them to JPEG or PNG",
            *(folder, len(passed_over), min(passed_over, key=natural_order)),
        )
    return sorted(map(links.checked, images), key=natural_order)


def is_image(name: str) -> bool:
    """Whether a file's name is that of a photo to read."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _is_not_read(name: str) -> bool:
    return name.lower().endswith(NOT_READ) and not name.startswith(".")


def natural_order(path: Path) -> list[list[tuple[int, str]]]:
    """A sort key: folder by folder, runs of digits by their value, ties by the spelling.

    >>> [path.name for path in sorted(map(Path, ["10.jpg", "2.jpg", "a.jpg"]), key=natural_order)]
    ['2.jpg', '10.jpg', 'a.jpg']
    """
    return [_natural_name(part) for part in path.parts]


def _natural_name(name: str) -> list[tuple[int, str]]:
    pieces = re.split(r"([0-9]+)", name)  # text and digits in turn, text first
    return [(int(piece) if i % 2 else 0, piece) for i, piece in enumerate(pieces)]
