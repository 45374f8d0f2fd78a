"""Pascal VOC from its servers, through torchvision: whole, checked, and only what is not there yet."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

from spp_det.data.joined import locate_split
from spp_det.data.voc import read_split
from spp_det.errors import UserError
from spp_det.runtime.files import NO_LINK, open_regular, unlinked

logger = logging.getLogger(__name__)

DEVKIT = "VOCdevkit"  # the folder in every archive

ARCHIVES = {"VOC2007:trainval": "2007", "VOC2007:test": "2007-test", "VOC2012:trainval": "2012"}
"""What can be fetched, named as in ``data.train``, and its key in torchvision's list of archives."""


def download_voc(folder: Path, splits: Sequence[str]) -> None:
    """Fetch and unpack splits into ``folder/VOCdevkit``; a complete split is left alone.

    An archive that already lies in ``folder`` is not fetched again if its checksum is right. Killed at any
    instant, the same call goes on. Raises UserError, one line that says what to fetch by hand and where
    to put it, where a split is none of `ARCHIVES`, the server cannot be reached, or what it sends is not
    the archive.
    """
    for split in splits:
        if split not in ARCHIVES:
            raise UserError(f"{split!r} cannot be downloaded; there are {', '.join(ARCHIVES)}")
    for split in splits:
        # A truncated file looks like a whole one: this mark stays until the archive is unpacked completely.
        unfinished = folder / f".unfinished-{split.replace(':', '-')}"
        if not unfinished.exists() and missing_file(folder / DEVKIT, split) is None:
            logger.info("%s is in %s", split, folder / DEVKIT)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        open_regular(unfinished, os.O_WRONLY | os.O_CREAT | NO_LINK).close()
        for name in (DEVKIT, _archive(split)["filename"]):
            unlinked(folder, name)
        _fetch(folder, split)
        missing = missing_file(folder / DEVKIT, split)
        if missing is not None:
            raise UserError(f"{missing} was not in the archive of {split}; remove {folder} and try again")
        unfinished.unlink()


def missing_file(devkit: Path, split: str) -> Path | None:
    """The first file of a split (see `locate_split`) that is not there; None where it is complete."""
    root, name = locate_split(devkit, split)
    listing = root / "ImageSets" / "Main" / f"{name}.txt"
    if not listing.is_file():
        return listing
    files = (
        root / kind / f"{image_id}{suffix}"
        for image_id in read_split(root, name)
        for kind, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg"))
    )
    return next((file for file in files if not file.is_file()), None)


def _archive(split: str) -> Mapping[str, str]:
    """torchvision's ``filename``, ``md5`` and ``url`` of a split's archive."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # takes seconds; most often all is there

    archive: Mapping[str, str] = DATASET_YEAR_DICT[ARCHIVES[split]]
    return archive


def _fetch(folder: Path, split: str) -> None:
    from torchvision.datasets import VOCDetection

    archive = _archive(split)
    year, name = split.removeprefix("VOC").split(":")
    name_and_md5 = f"{archive['filename']} (MD5 {archive['md5']})"
    by_hand = f"fetch {name_and_md5} by hand into {folder} and give the same command again"
    logger.info("%s: fetching and unpacking %s", split, archive["url"])
    try:
        VOCDetection(str(folder), year=year, image_set=name, download=True)
    except (OSError, HTTPException) as error:  # no network, no such page, a line cut off, a full disk
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(f"could not fetch {archive['url']} ({_one_line(reason)}); {by_hand}") from error
    except (RuntimeError, EOFError, tarfile.TarError) as error:  # a wrong checksum is a RuntimeError
        raise UserError(
            f"{folder / archive['filename']} is not what {archive['url']} should send "
            f"({_one_line(error)}); remove it and try again, or {by_hand}"
        ) from error


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())
