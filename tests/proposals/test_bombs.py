"""Small files of windows that unpack to gigabytes, by bytes or by the number of their parts."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from spp_det.errors import UserError
from spp_det.proposals.files import read_proposals
from spp_det.proposals.mat import read_cells
from tests.proposals.test_mat import element, matrix, whole
from tests.stress.memory import MIB, growth, measurable

pytestmark = pytest.mark.skipif(not measurable(), reason="no peak of memory is told here")
DOUBLES = matrix(6, (1, 10_000), b"", element(9, bytes(80_000), "<"))


def packed(*variables: bytes) -> bytes:
    """A ``.mat`` of compressed variables."""
    bodies = [zlib.compress(variable, 9) for variable in variables]
    return whole(b"".join(struct.pack("<II", 15, len(body)) + body for body in bodies))


def big(name: bytes, size: int) -> bytes:
    return matrix(1, (1, 1), name, matrix(9, (1, size), b"", element(2, bytes(size), "<")))


def empties(name: bytes, count: int) -> bytes:
    return matrix(1, (1, count), name, element(14, b"", "<") * count)


MATS = {
    "bytes": lambda: packed(big(b"boxes", 60 * MIB), big(b"images", 1)),
    "many variables": lambda: packed(*(big(b"boxes", 12 * MIB) for _ in range(40))),
    "another variable": lambda: packed(big(b"other", 60 * MIB)),
    "empty entries": lambda: packed(empties(b"boxes", 8 * MIB), empties(b"images", 8 * MIB)),
    "just within": lambda: packed(empties(b"boxes", MIB // 2), empties(b"images", MIB // 2)),
}


@pytest.mark.parametrize("kind", MATS)
def test_a_mat_takes_little_memory_whatever_it_unpacks_to(tmp_path, kind):
    path = tmp_path / "a.mat"
    path.write_bytes(MATS[kind]())
    assert path.stat().st_size < MIB
    assert growth(lambda: refused(path)) < 200 * MIB


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_proposals(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_unpacks_beyond_measure_is_refused():
    assert len(read_cells(packed(matrix(1, (1, 1), b"a", DOUBLES)), ["a"])["a"]) == 1
    with pytest.raises(ValueError, match="too large"):
        read_cells(packed(big(b"a", 20 * MIB)), ["a"])


def member(shape: tuple[int, ...], dtype: str = "f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(shape, dtype), allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize(
    ("count", "shape", "said"), [(2, (2**20, 4), "would take"), (20_000, (0, 4), "would take")]
)
def test_an_npz_takes_little_memory_whatever_it_unpacks_to(tmp_path, count, shape, said):
    path, data = tmp_path / "a.npz", member(shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            archive.writestr(f"{number}.npy", data)
    if count == 20_000:  # its many members are a good part of its bytes
        found: list[int] = []
        assert growth(lambda: found.append(len(read_proposals(path)))) < 50 * MIB
        assert found == [count]
    else:
        assert growth(lambda: refused(path)) < 100 * MIB
        assert said in refused(path)


@pytest.mark.parametrize("dtype", ["f8", "u1", "i8"])
def test_what_packs_well_is_read(tmp_path, dtype):
    """Equal windows of many images, which nobody has, but tests do."""
    boxes = np.tile(np.array([[1, 2, 30, 40]], dtype), (2000, 1))
    np.savez_compressed(tmp_path / "a.npz", **{str(number): boxes for number in range(100)})
    assert len(read_proposals(tmp_path / "a.npz")) == 100
