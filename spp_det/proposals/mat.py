"""Cells of texts and of matrices from MATLAB's ``.mat`` files of format 5, which is all that R-CNN's hold.

scipy reads these files too, but believes the lengths that they state: one wrong byte may crash the process
or keep it busy for ever. Here every length is held against the bytes that there are.

A file is a header of 128 bytes and a row of elements: a type, a length and that many bytes, padded to
multiples of eight. A variable is an element made of elements: flags, sizes, name, and its values.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spp_det.runtime.files import most_unpacked

Value = npt.NDArray[Any] | str
Order = Literal["<", ">"]  # of bytes

HEADER = 128  # bytes
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, TEXT, NUMERIC = 1, 4, range(6, 16)  # classes of variables
COMPLEX = 0x800
EMPTY = np.zeros((0, 0))  # how MATLAB writes an entry that nobody filled


def read_cells(data: bytes, names: Collection[str]) -> dict[str, list[Value]]:
    """The variables of those names that are cells, each as the list of its entries, column by column.

    An entry is a text or a numeric array. Raises ValueError where the bytes are no such file, are damaged, or
    a wanted variable holds anything else; NotImplementedError for MATLAB's newer format, which is HDF5.
    """
    if data[:10] == b"MATLAB 7.3":
        raise NotImplementedError("MATLAB's v7.3")
    orders: dict[bytes, Order] = {b"IM": "<", b"MI": ">"}
    order = orders.get(data[126:HEADER])
    if order is None:
        raise ValueError("not MATLAB's format 5")
    found: dict[str, list[Value]] = {}
    left = most_unpacked(len(data))
    for kind, body in _elements(memoryview(data)[HEADER:], order):
        if kind == COMPRESSED:
            inflated = _inflated(body, left)
            left -= len(inflated)
            kind, body = next(_elements(memoryview(inflated), order))
        if kind == MATRIX and (name := _name(body, order)) in names:
            cells = _variable(body, order)
            if not isinstance(cells, list):
                raise ValueError(f"{name} is no cell")
            found[name] = cells
    return found


def _inflated(body: memoryview, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof or len(data) > most:
        raise ValueError("a compressed variable is cut off, or too large")
    return data


def _elements(data: memoryview, order: Order) -> Iterator[tuple[int, memoryview]]:
    """The elements in a row: type and bytes of each."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it is cut off")
        kind, length = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # up to four bytes, packed into the head itself
            kind, length, start = kind & 0xFFFF, kind >> 16, place + 4
            if length > 4:
                raise ValueError("an element is longer than its place")
        if start + length > len(data):
            raise ValueError("it is cut off")
        yield kind, data[start : start + length]
        place = start + length if kind == COMPRESSED else place + 8 * -(-(start + length - place) // 8)


def _name(variable: memoryview, order: Order) -> str:
    parts = list(islice(_elements(variable, order), 3))
    return bytes(parts[2][1]).decode("latin-1") if len(parts) == 3 else ""


def _variable(variable: memoryview, order: Order, inside: bool = False) -> Value | list[Value]:
    """The value of a variable, or of an entry inside a cell."""
    if not variable and inside:
        return EMPTY
    elements = _elements(variable, order)  # a list of them would take thirty times their bytes
    head = [body for _, body in islice(elements, 3)]
    if len(head) < 3 or len(head[0]) != 8 or len(head[1]) > 256:
        raise ValueError("a variable lacks its flags, sizes or name")
    (flags,) = struct.unpack_from(f"{order}I", head[0])
    sizes = np.frombuffer(head[1], f"{order}i4").tolist()
    kind = flags & 0xFF
    if kind == CELL and not inside:
        entries: list[Value] = []
        for of, body in elements:
            entry = _variable(body, order, inside=True)
            if of != MATRIX or isinstance(entry, list):
                raise ValueError("an entry of a cell is none")
            entries.append(entry)
        if len(entries) != math.prod(sizes):
            raise ValueError("a cell's size is not that of its entries")
        return entries
    values = list(islice(elements, 2))
    if len(values) != 1 or flags & COMPLEX:
        raise ValueError("a variable is neither a text nor a matrix of numbers")
    ((stored, body),) = values
    if kind == TEXT and stored in TEXTS:
        code = TEXTS[stored]
        return bytes(body).decode(
            code + {"<": "-le", ">": "-be"}[order] if code[-2:] in ("16", "32") else code
        )
    if kind not in NUMERIC or stored not in NUMBERS:
        raise ValueError("a variable is neither a text nor a matrix of numbers")
    array = np.frombuffer(body, np.dtype(NUMBERS[stored]).newbyteorder(order))
    if len(sizes) < 2 or min(sizes) < 0 or math.prod(sizes) != len(array):
        raise ValueError("a matrix's size is not that of its values")
    return array.reshape(sizes, order="F")
