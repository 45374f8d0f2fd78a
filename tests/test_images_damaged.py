"""Image files that are cut are used as far as they go; files of no use are refused in one line."""

from __future__ import annotations

import io
import logging
import struct
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from spp_det.images import UnreadableImageError, as_image, decode, image_size, read_image


def noise(height: int = 64, width: int = 96) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---------------------------------------------------------------- truncation


def jpeg(progressive: bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "JPEG", quality=60, progressive=progressive)
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_anywhere_in_its_pixels_has_its_full_size(tmp_path: Path, progressive: bool) -> None:
    data = jpeg(progressive)
    first_scan = data.index(b"\xff\xda")
    whole = as_image(Image.open(io.BytesIO(data)))
    path = tmp_path / "a.jpg"
    for end in range(first_scan + 40, len(data), 29):
        path.write_bytes(data[:end])
        found = read_image(path)
        assert found.shape == whole.shape
        if not progressive and end > len(data) // 2:
            assert np.array_equal(found[:12], whole[:12])


def test_progressive_jpeg_cut_inside_a_later_header(tmp_path: Path) -> None:
    data = jpeg(progressive=True)
    path = tmp_path / "a.jpg"
    header = data.rindex(b"\xff\xc4")
    for end in range(header, header + 40):
        path.write_bytes(data[:end])
        assert read_image(path).shape == (64, 96, 3)


def test_truncation_warns_once_and_names_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = jpeg(progressive=False)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        for name in ("a.jpg", "b.jpg", "a.jpg"):
            read_image(tmp_path / name)
    assert [str(tmp_path / name) in caplog.text for name in ("a.jpg", "b.jpg")] == [True, True]
    assert len(caplog.records) == 2
    assert {record.name for record in caplog.records} == {"spp_det.images"}


def test_whether_a_file_is_truncated_is_told_each_time_and_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = jpeg(progressive=False)
    for name, content in (("whole.jpg", data), ("cut.jpg", data[: len(data) // 2])):
        (tmp_path / name).write_bytes(content)
        for _ in range(2):
            found = decode(tmp_path / name)
            assert found.truncated == (name == "cut.jpg")
            assert np.array_equal(found.pixels, decode(tmp_path / name).pixels)
    assert not caplog.records
    assert np.array_equal(read_image(tmp_path / "cut.jpg"), found.pixels)


def test_truncation_is_handled_without_a_global_switch(tmp_path: Path) -> None:
    data = jpeg(progressive=False)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_image, [tmp_path / "cut.jpg"] * 32))
    assert all(np.array_equal(image, images[0]) for image in images)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_truncated_jpeg_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[:-2000])
    assert read_image(tmp_path / "a.jpg").shape == (96, 64, 3)
    assert image_size(tmp_path / "a.jpg") == (64, 96)


# ---------------------------------------------------------------- files that are of no use


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404\n\nnot found</html>", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (b"\0" * 1000, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (png_bytes()[:5000], "truncated"),
        (png_header(30_000, 30_000), "limit"),
        (png_header(2**31 - 1, 2**31 - 1), "limit"),
    ],
    ids=["empty", "text", "jpeg start", "zeros", "eps", "cut png", "bomb", "largest"],
)
def test_unusable_file_is_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("reader", [read_image, image_size])
def test_missing_file_and_folder(tmp_path: Path, reader: object) -> None:
    assert callable(reader)
    with pytest.raises(UnreadableImageError, match=r"nowhere\.jpg: no such file"):
        reader(tmp_path / "nowhere.jpg")
    with pytest.raises(UnreadableImageError, match="a folder, not a file"):
        reader(tmp_path)


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on damaged metadata
def test_damaged_bytes_never_raise_anything_else(position: int, patch: bytes) -> None:
    data = bytearray(jpeg(progressive=True) if position % 2 else png_bytes())
    data[position : position + len(patch)] = patch
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        with suppress(UnreadableImageError):
            found = read_image(file.name)
            assert found.dtype == np.uint8
            assert found.ndim == 3
