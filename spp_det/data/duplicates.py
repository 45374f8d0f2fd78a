"""Photos that a data set holds twice: the same bytes, or the same picture saved again.

A photo that is both learnt from and scored on makes every figure too good. A copy that was saved again, in
another format, quality or size, has other bytes and other pixels; what remains is what the picture looks like
from afar. So a photo is shrunk to 32 x 32 grey values, and two photos are one where these correlate by
`ALIKE`. Measured on 764 photos of two data sets: copies at JPEG quality 30, of half the size, or stretched to
300 x 225 correlate by .9975 and more, copies made a sixth brighter by .987; different photos by .89 and less,
but for two photos of one blood smear (.976). Copies that were cropped, turned or mirrored are not found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from spp_det.boxes import Floats, Ints
from spp_det.errors import UserError
from spp_det.images import RGB, UnreadableImageError, decode, skipped
from spp_det.runtime.cache import file_digest
from spp_det.runtime.files import check_regular
from spp_det.runtime.opencv import cv2
from spp_det.runtime.progress import track
from spp_det.runtime.threads import ahead, cores

ALIKE = 0.985  # the correlation from which two photos are one
SIDE = 32  # of a shrunk photo, pixels
FLAT = 2.0  # grey values; a photo that varies by less looks like any other
ROWS = 256  # photos that are compared with all others at a time

Pairs = list[tuple[int, int]]


def same_bytes(paths: Sequence[Path]) -> Pairs:
    """The files of equal bytes, each paired with the first of its kind, as indices.

    Only files whose length another file has are read. Files that cannot be are paired with none.
    """
    by_length = _alike(paths, lambda path: path.stat().st_size)
    found = []
    for indices in by_length:
        for same in _alike([paths[index] for index in indices], file_digest):
            found += [(indices[same[0]], indices[other]) for other in same[1:]]
    return found


def same_picture(paths: Sequence[Path]) -> tuple[Pairs, dict[int, str]]:
    """The photos that look alike, as pairs of indices, and what is wrong with damaged ones, by index.

    Every photo is decoded.
    """
    rows: dict[int, Floats] = {}
    damaged: dict[int, str] = {}
    files = track(ahead(_shrunk_file, paths, cores()), "looking for copies", len(paths))
    for index, (picture, damage) in enumerate(files):
        if picture is not None:
            rows[index] = picture
        if damage:
            damaged[index] = damage
    if not rows:
        return [], damaged
    return _correlated(np.array(list(rows)), np.stack(list(rows.values()))), damaged


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Indices below ``count`` that pairs connect, each group in order.

    >>> groups(6, [(4, 1), (1, 5)])
    [[1, 4, 5]]
    """
    first = list(range(count))  # each points to an earlier one of its group, the first to itself

    def first_of(index: int) -> int:
        while first[index] != index:
            index = first[index]
        return index

    for pair in pairs:
        low, high = sorted(map(first_of, pair))
        first[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(count):
        members[first_of(index)].append(index)
    return [found for found in members.values() if len(found) > 1]


def shrunk(image: RGB) -> Floats | None:
    """A photo from afar, ``[SIDE * SIDE]`` of mean 0 and norm 1; None where it is of one colour."""
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    values = gray.astype(np.float32).ravel()
    values -= values.mean()
    if values.std() < FLAT:
        return None
    unit: Floats = values / np.linalg.norm(values)
    return unit


def _shrunk_file(path: Path) -> tuple[Floats | None, str]:
    """A file's photo from afar, and what is wrong with the file."""
    try:
        pixels, truncated = decode(path)
    except UnreadableImageError as error:
        return None, skipped(path, error)["reason"]
    return shrunk(pixels), "a part of the file is missing" if truncated else ""


def _correlated(indices: Ints, pictures: Floats) -> Pairs:
    found: Pairs = []
    for start in range(0, len(pictures), ROWS):
        alike = pictures[start : start + ROWS] @ pictures[start:].T >= ALIKE
        first, second = np.nonzero(np.triu(alike, 1))
        found += zip(indices[start + first].tolist(), indices[start + second].tolist(), strict=True)
    return found


def _alike(paths: Sequence[Path], key: Callable[[Path], Hashable]) -> list[list[int]]:
    """Indices of the files that have a key in common with another file, for each such key."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        try:
            check_regular(path)
            members[key(path)].append(index)
        except (OSError, ValueError, UserError):
            continue
    return [indices for indices in members.values() if len(indices) > 1]
