"""MATLAB's cells: what scipy writes is read as scipy reads it, and lengths are never believed."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from spp_det.proposals.mat import read_cells

DTYPES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
ENTRIES = st.one_of(
    st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=9),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(
            dtype, arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)
        )
    ),
)


def saved(entries, compressed: bool = False, **others: object) -> bytes:
    cell = np.empty((1, len(entries)), object)
    for index, entry in enumerate(entries):
        cell[0, index] = entry
    file = io.BytesIO()
    savemat(file, {**others, "a": cell}, do_compression=compressed)
    return file.getvalue()


@settings(max_examples=40)
@given(st.lists(ENTRIES, min_size=1, max_size=5), st.booleans())
def test_what_scipy_writes_is_read_as_scipy_reads_it(entries, compressed):
    data = saved(entries, compressed, b=3.0, c="text")
    theirs = loadmat(io.BytesIO(data))["a"].ravel()
    ours = read_cells(data, ["a"])["a"]
    assert len(ours) == len(theirs) == len(entries)
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, str):
            assert mine == other.item()
        else:
            np.testing.assert_array_equal(mine, other)
            assert mine.dtype == other.dtype


def element(kind: int, body: bytes, order: str) -> bytes:
    return struct.pack(f"{order}II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(kind: int, sizes: tuple[int, int], name: bytes, values: bytes, order: str = "<") -> bytes:
    head = element(6, struct.pack(f"{order}II", kind, 0), order)
    head += element(5, struct.pack(f"{order}ii", *sizes), order) + element(1, name, order)
    return element(14, head + values, order)


def whole(body: bytes, order: str = "<") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + {"<": b"\0\1IM", ">": b"\1\0MI"}[order] + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_by_hand(order):
    """Either order of bytes, doubles that are stored as bytes, and an entry that nobody filled."""
    numbers = matrix(6, (2, 2), b"", struct.pack(f"{order}I", 4 << 16 | 2) + bytes([1, 2, 3, 4]), order)
    text = matrix(4, (1, 2), b"", element(4, "hé".encode(f"utf-16-{'lb'[order == '>']}e"), order), order)
    cell = matrix(1, (3, 1), b"cell", numbers + text + element(14, b"", order), order)
    first, second, third = read_cells(whole(cell, order), ["cell"])["cell"]
    assert first.tolist() == [[1, 3], [2, 4]]
    assert second == "hé"
    assert third.shape == (0, 0)
    assert read_cells(whole(cell, order), ["other"]) == {}


def test_lengths_are_held_against_the_bytes_that_there_are():
    doubles = element(9, bytes(8), "<")
    number = matrix(6, (1, 1), b"", doubles)
    wrong = {
        "cut off": matrix(1, (1, 1), b"a", number)[:-9],
        "size is not that of its entries": matrix(1, (2**31 - 1, 2**31 - 1), b"a", number),
        "size is not that of its values": matrix(1, (1, 1), b"a", matrix(6, (-1, -1), b"", doubles)),
        "is no cell": matrix(6, (1, 1), b"a", doubles),
        "neither a text nor a matrix": matrix(1, (1, 1), b"a", matrix(1, (1, 1), b"", number)),
        "longer than its place": struct.pack("<II", 9 << 16 | 5, 0),
        "lacks its flags": matrix(1, (1, 1), b"a", element(14, element(6, b"", "<"), "<")),
        "incorrect header": element(15, b"nonsense", "<"),
    }
    for said, body in wrong.items():
        with pytest.raises(ValueError, match=said):
            read_cells(whole(body), ["a"])
    with pytest.raises(ValueError, match="not MATLAB's"):
        read_cells(b"", ["a"])
