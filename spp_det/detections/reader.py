"""Files of detections in any format that ``detect`` writes, as a COCO results list and what its ids mean.

    detections.json           `spp_det.detections.coco`: COCO's results list, or a folder that holds it
    detections.csv            `spp_det.detections.csv`: one line a detection
    voc/                      `spp_det.detections.voc_xml`: an annotation file an image
    yolo/                     `spp_det.detections.yolo`: a text file an image
    devkit/                   `spp_det.detections.devkit`: comp4_det_test_CLASS.txt, a file a class

``images.json`` (see `spp_det.detections.coco`) lies beside the file or folder, or in the folder. Only YOLO's
files, which hold neither names nor pixels, cannot be read without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from spp_det.data.coco_file import load_json
from spp_det.data.names import Links, Stems, can_be_a_file, leads_out
from spp_det.detections.coco import DETECTIONS, LISTING, as_results, check_listing
from spp_det.detections.csv import read_csv
from spp_det.detections.devkit import devkit_files, read_devkit
from spp_det.detections.types import Found
from spp_det.detections.voc_xml import annotated_images, read_xml
from spp_det.detections.yolo import read_listed
from spp_det.errors import UserError


class ResultsFile(NamedTuple):
    """A COCO results list and the listing of its ids, as `json` reads them; neither is checked here."""

    results: Any
    listing: Any  # the content of an images.json, or None
    name: str  # of the results, in errors
    listing_name: str


def read_detections(path: Path, *, follow_links: bool = False) -> ResultsFile:
    """Read a file or a folder of detections of any of the formats above.

    Raises UserError, naming file and line, where it is none of these, cannot be read, is malformed, or
    speaks of an image or class that the listing lacks; unless ``follow_links`` also for a link out of the
    folder, before anything behind it is read.
    """
    links = Links(path, follow=follow_links)
    if path.is_dir() and (path / DETECTIONS).is_file():
        path = links.checked(path / DETECTIONS)
    listing_path = Links(path.parent, follow=follow_links).checked(path.with_name(LISTING))
    if path.is_dir():
        for entry in path.rglob("*"):
            if entry.is_symlink():
                links.checked(entry)
        if (path / LISTING).is_file():
            listing_path = path / LISTING
    listing = load_json(listing_path) if listing_path.exists() else None
    if path.is_dir() or path.suffix.lower() == ".csv":
        if listing is not None:
            check_listing(listing, str(listing_path))
        try:
            found = list(_found(path, listing))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
        results, listing = as_results(found, listing, str(path))
    else:
        results = load_json(path)
    return ResultsFile(results, listing, str(path), str(listing_path))


def _found(path: Path, listing: Any) -> Iterable[Found]:
    """The detections of a file or folder that is not COCO's."""
    if not path.is_dir():
        return read_csv(path)
    stem = Stems()
    listed = [] if listing is None else [(stem(_name(entry, path)), entry) for entry in listing["images"]]
    if devkit_files(path):
        name_of = {stem: entry["file_name"] for stem, entry in listed}
        return (row._replace(image=name_of.get(row.image, row.image)) for row in read_devkit(path))
    if any(path.rglob("*.xml")):
        listed_files = {entry["file_name"]: path / f"{stem}.xml" for stem, entry in listed}
        files = listed_files or annotated_images(path)
        return (row for name, file in files.items() for row in read_xml(file, name))
    if not any(path.rglob("*.txt")):
        raise UserError(f"{path}: holds no detections: no {DETECTIONS}, .xml or .txt")
    if listing is None:
        raise UserError(
            f"{path}: no {LISTING} lies in or beside it, which holds the names of YOLO's class numbers and "
            "the sizes of the photos"
        )
    names = [category["name"] for category in listing["categories"]]
    return (row for stem, entry in listed for row in read_listed(path / f"{stem}.txt", entry, names, LISTING))


def _name(entry: Mapping[str, Any], folder: Path) -> str:
    """The file name of a listed image. Raises UserError where it could lead out of the folder."""
    name: str = entry["file_name"]
    if not PurePosixPath(name).name or leads_out(name) or not can_be_a_file(name):
        raise UserError(f"{folder}: {LISTING} lists {name[:100]!r}, which is no file's name below a folder")
    return name
