"""Files of detections in any format that ``detect`` writes, as a COCO results list and what its ids mean.

    detections.json           COCO's results list, or a folder that holds it
    detections.csv            one line a detection
    voc/ yolo/                an XML or text file an image
    devkit/                   comp4_det_test_CLASS.txt, a file a class

``images.json`` (see `spp_det.evaluation.results`) lies beside the file or folder, or in the folder. Only
YOLO's files, which know neither names nor pixels, cannot be read without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spp_det.data.bounds import MAX_COORDINATE
from spp_det.data.coco import xywh
from spp_det.data.names import Stems, can_be_a_file, leads_out
from spp_det.data.voc_xml import read_annotation
from spp_det.detections.align import LISTING, check_listing
from spp_det.detections.formats import Found, devkit_files, read_csv, read_devkit, read_yolo
from spp_det.errors import UserError

DETECTIONS = "detections.json"


@dataclass(frozen=True, eq=False)
class ResultsFile:
    """A COCO results list and the listing of its ids, as `json` reads them; neither is checked here.

    Attributes:
        results: the list.
        listing: the content of an ``images.json``, or None where there is none.
        name, listing_name: what errors call the two.
    """

    results: Any
    listing: Any
    name: str
    listing_name: str


def read_detections(path: Path) -> ResultsFile:
    """Read a file or a folder of detections of any of the formats above.

    Raises UserError, naming file and line, where it is none of these, cannot be read, is malformed, or
    speaks of an image or class that the listing lacks.
    """
    if path.is_dir() and (path / DETECTIONS).is_file():
        path = path / DETECTIONS
    listing_path = path.with_name(LISTING)
    if (path / LISTING).is_file():
        listing_path = path / LISTING
    listing = read_json(listing_path) if listing_path.exists() else None
    if path.is_dir() or path.suffix.lower() == ".csv":
        if listing is not None:
            check_listing(listing, str(listing_path))
        try:
            found = list(_found(path, listing))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
        results, listing = _as_coco(found, listing, path)
    else:
        results = read_json(path)
    return ResultsFile(results, listing, str(path), str(listing_path))


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bad syntax, bad UTF-8, nested without end
        raise UserError(f"{path}: is not JSON: {error}") from None


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
        files = {entry["file_name"]: path / f"{stem}.xml" for stem, entry in listed} or _annotated(path)
        return (row for name, file in files.items() for row in _read_xml(file, name))
    if not any(path.rglob("*.txt")):
        raise UserError(f"{path}: holds no detections: no {DETECTIONS}, .xml or .txt")
    if listing is None:
        raise UserError(f"{path}: has no {LISTING} in or beside it, so labels and fractions mean nothing")
    names = [category["name"] for category in listing["categories"]]
    return (row for stem, entry in listed for row in _read_yolo(path / f"{stem}.txt", entry, names))


def _name(entry: Mapping[str, Any], folder: Path) -> str:
    """The name of a listed image, which is to lead to a file in the folder and nowhere else."""
    name: str = entry["file_name"]
    if not PurePosixPath(name).name or leads_out(name) or not can_be_a_file(name):
        raise UserError(f"{folder}: {LISTING} lists {name[:100]!r}, which is no file's name below a folder")
    return name


def _annotated(folder: Path) -> dict[str, Path]:
    """Image name -> annotation, as the files and what they say of their images tell."""
    files = sorted(folder.rglob("*.xml"))
    named = {}
    for file in files:
        image = PurePosixPath(file.relative_to(folder)).with_suffix("")
        stated = PurePosixPath(read_annotation(file).file_name or "").name  # without folders: those are here
        named[str(image.with_name(stated or image.name))] = file
    return named


def _read_xml(path: Path, image: str) -> Iterable[Found]:
    annotation = read_annotation(path)
    rows = zip(annotation.names, annotation.scores.tolist(), annotation.boxes.tolist(), strict=True)
    for number, (name, score, (x1, y1, x2, y2)) in enumerate(rows, 1):
        if math.isnan(score):
            raise UserError(f"{path}: object {number} ({name}) has no <score>, so it is no detection")
        yield Found(image, name, score, (x1, y1, x2, y2))


def _read_yolo(path: Path, entry: Mapping[str, Any], names: list[str]) -> Iterable[Found]:
    image, sides = entry["file_name"], [entry.get(side) for side in ("width", "height")]
    width, height = (side if isinstance(side, int) else 0 for side in sides)
    if not (0 < width <= MAX_COORDINATE and 0 < height <= MAX_COORDINATE):
        raise UserError(f"{path}: the size of {image} is not in {LISTING}")
    try:
        rows = read_yolo(path, (width, height))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, but {LISTING} lists {image}") from None
    for label, score, box in rows:
        if not 0 <= label < len(names):
            raise UserError(f"{path}: label {label} is none of the {len(names)} classes in {LISTING}")
        yield Found(image, names[label], score, box)


def _as_coco(found: list[Found], listing: Any, path: Path) -> tuple[list[dict[str, Any]], Any]:
    """The results list, and the listing; where there was none, one of what was found."""
    if listing is None:
        images, names = (dict.fromkeys(row[i] for row in found) for i in (0, 1))
        listing = {
            "images": [{"id": number, "file_name": image} for number, image in enumerate(images, 1)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        }
    image_ids = {entry["file_name"]: entry["id"] for entry in listing["images"]}
    category_ids = {entry["name"]: entry["id"] for entry in listing["categories"]}
    for row in found:
        if row.image not in image_ids or row.name not in category_ids:
            what = f"image {row.image}" if row.image not in image_ids else f"class {row.name}"
            raise UserError(f"{path}: its {what} is not in {LISTING}")
    results = [
        {
            "image_id": image_ids[row.image],
            "category_id": category_ids[row.name],
            "bbox": xywh(row.box),
            "score": row.score,
        }
        for row in found
    ]
    return results, listing
