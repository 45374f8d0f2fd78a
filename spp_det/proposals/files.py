"""Proposals in files: windows from another program, or from `spp-det proposals`.

.npz    one array ``[N, 4]`` an image, under the image's id; boxes as everywhere here (see `spp_det.boxes`)
.json   ``{"image id": [[x1, y1, x2, y2], ...], ...}``, the same boxes
.mat    R-CNN's ``selective_search_data``: ``images``, a cell of ids, and ``boxes``, a cell of ``[N, 4]``
        matrices (y1, x1, y2, x2), 1-based and inclusive

Nothing is ever unpickled. Boxes are not compared with their images here: see `spp_det.proposals.source`.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from spp_det.boxes import Boxes, as_boxes
from spp_det.errors import UserError, one_line
from spp_det.proposals.mat import read_cells
from spp_det.runtime.files import check_unpacked, open_regular, read_bytes, read_text
from spp_det.runtime.whole_files import write_whole

ByImage = dict[str, Boxes]  # image id -> float32 [N, 4]

MOST = 2**20  # windows that an .npz may hold of one image; methods give thousands


def read_proposals(path: Path) -> ByImage:
    """The windows of every image that the file knows, in its order, as boxes float32 ``[N, 4]``.

    Raises UserError, one line naming the file and where known the image, for a file that is absent, damaged
    or of another kind, and for boxes that are not rows of four finite numbers.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise UserError(f"{path}: proposals are read from {', '.join(_READERS)} files")
    found: ByImage = {}
    try:
        for image_id, values in _READERS[suffix](path):
            found[image_id] = _boxes(values, path, image_id)
    except UserError as error:
        raise (
            error if str(error).startswith(one_line(str(path))) else UserError(f"{path}: {error}")
        ) from error
    except MemoryError as error:
        raise UserError(f"{path}: its boxes do not fit into memory, or it is damaged") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # the three libraries that read have many exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a {suffix} of proposals, or is damaged: {reason}") from error
    return found


def write_proposals(path: Path, proposals: Mapping[str, Boxes]) -> None:
    """Write a ``.npz`` or ``.json`` that `read_proposals` reads back, whole or not at all.

    Equal proposals give equal bytes. Raises UserError for another suffix.
    """
    check_writable(path)
    if path.suffix.lower() == ".npz":
        write_whole(path, _npz(proposals))
    else:
        lists = {image_id: boxes.tolist() for image_id, boxes in proposals.items()}
        write_whole(path, json.dumps(lists) + "\n")


def check_writable(path: Path) -> None:
    """Raise UserError where `write_proposals` has no format for that suffix."""
    if path.suffix.lower() not in (".npz", ".json"):
        raise UserError(f"{path}: proposals are written to .npz or .json files")


def _boxes(values: Any, path: Path, image_id: str) -> Boxes:
    try:
        with np.errstate(over="ignore"):  # to infinity, which is refused below
            boxes = as_boxes(np.asarray(values, dtype=np.float64))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: the boxes of {image_id} are not rows of four numbers") from error
    if not np.isfinite(boxes).all():
        raise UserError(f"{path}: a box of {image_id} is not finite")
    return boxes


def _read_npz(path: Path) -> Iterator[tuple[str, Any]]:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        check_unpacked(archive, os.fstat(file.fileno()).st_size)
        for name in archive.namelist():
            image_id = name.removesuffix(".npy")
            with archive.open(name) as member:
                _check_header(member, path, image_id)
            with archive.open(name) as member:
                yield image_id, np.lib.format.read_array(member, allow_pickle=False)


def _check_header(member: IO[bytes], path: Path, image_id: str) -> None:
    """Look at an array's stated shape before memory is made for it: a few bytes may claim terabytes."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if dtype.kind not in "biuf":
        raise UserError(f"{path}: the boxes of {image_id} are not numbers (pickled objects are never read)")
    if math.prod(shape) > 4 * MOST:
        raise UserError(f"{path}: claims {math.prod(shape)} coordinates for {image_id}; {4 * MOST} are most")


def _npz(proposals: Mapping[str, Boxes]) -> bytes:
    """As ``np.savez_compressed``, to which an id like ``file`` would be an argument of its own."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for image_id, boxes in proposals.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, boxes, allow_pickle=False)
            # A plain ZipInfo has no date: equal proposals give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{image_id}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return data.getvalue()


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    tree = json.loads(read_text(path))
    if not isinstance(tree, dict):
        raise UserError(f'{path}: must hold {{"image id": [[x1, y1, x2, y2], ...], ...}}')
    yield from tree.items()


def _read_mat(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        variables = read_cells(read_bytes(path), ("boxes", "images"))
    except NotImplementedError as error:  # MATLAB's v7.3 is HDF5
        raise UserError(f"{path}: save it by MATLAB's save(..., '-v7'); v7.3 files are not read") from error
    if not {"boxes", "images"} <= variables.keys():
        raise UserError(f"{path}: has no variables boxes and images, as R-CNN's selective_search_data do")
    boxes, images = variables["boxes"], variables["images"]
    if len(boxes) != len(images):
        raise UserError(f"{path}: holds boxes of {len(boxes)} images, but {len(images)} images")
    for image_id, inclusive in zip(images, boxes, strict=True):
        if not isinstance(image_id, str):
            raise ValueError("an entry of images is no text")
        yxyx = _boxes(inclusive, path, image_id)  # whole numbers, of whatever type
        yield image_id, yxyx[:, [1, 0, 3, 2]] - np.array([1, 1, 0, 0], np.float32)


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".mat": _read_mat,
    ".npz": _read_npz,
    ".json": _read_json,
}
