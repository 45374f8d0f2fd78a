"""Every kind of image that people have, written to disk for real and read back."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from spp_det.images import (
    IMAGE_SUFFIXES,
    UnreadableImageError,
    as_image,
    image_size,
    read_image,
    resize_shorter_side,
)
from spp_det.runtime.opencv import cv2

H, W = 40, 60


def picture() -> npt.NDArray[np.uint8]:
    """Four flat quadrants of different colour, higher than none of its mirror images: ``[40, 60, 3]``."""
    image = np.zeros((H, W, 3), np.uint8)
    image[: H // 2, : W // 2] = (200, 40, 40)
    image[: H // 2, W // 2 :] = (40, 200, 40)
    image[H // 2 :, : W // 2] = (40, 40, 200)
    image[H // 2 :, W // 2 :] = (230, 230, 60)
    return image


GRAY = np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))
GRAY_RGB = np.repeat(GRAY[:, :, None], 3, axis=2)


def assert_similar(found: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8], tolerance: float = 6) -> None:
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape
    assert found.flags["C_CONTIGUOUS"]
    assert np.abs(found.astype(int) - wanted.astype(int)).mean() <= tolerance


# ---------------------------------------------------------------- formats and modes


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.jpg", {"quality": 95}, 6),
        ("a.JPEG", {"quality": 95, "progressive": True}, 6),
        ("a.png", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.tif", {}, 0),
        ("a.tiff", {"compression": "tiff_lzw"}, 0),
        ("a.bmp", {}, 0),
        ("a.gif", {}, 6),
        ("a.ppm", {}, 0),
        ("a.jp2", {}, 1),
    ],
)
def test_reads_every_format(tmp_path: Path, name: str, options: dict[str, Any], tolerance: float) -> None:
    Image.fromarray(picture()).save(tmp_path / name, **options)
    assert_similar(read_image(tmp_path / name), picture(), tolerance)
    assert image_size(tmp_path / name) == (W, H)
    assert Path(name).suffix.lower() in IMAGE_SUFFIXES


@pytest.mark.skipif(
    "avif" not in features.modules or not features.check_module("avif"), reason="this Pillow has no AVIF"
)
def test_reads_avif(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.avif", quality=90)
    assert_similar(read_image(tmp_path / "a.avif"), picture())


def test_content_and_not_the_suffix_tells_the_format(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jpg", format="PNG")
    assert_similar(read_image(str(tmp_path / "a.jpg")), picture(), 0)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in (picture(), picture()[::-1].copy())]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert_similar(read_image(tmp_path / "a.webp"), picture(), 0)


@pytest.mark.parametrize(
    ("name", "mode", "wanted", "tolerance"),
    [
        ("a.jpg", "CMYK", picture(), 6),
        ("a.tif", "CMYK", picture(), 3),
        ("a.jpg", "L", None, 3),
        ("a.png", "L", None, 0),
        ("a.png", "P", picture(), 20),
        ("a.tif", "YCbCr", picture(), 3),
    ],
)
def test_modes_are_converted(
    tmp_path: Path, name: str, mode: str, wanted: npt.NDArray[np.uint8] | None, tolerance: float
) -> None:
    source = GRAY_RGB if wanted is None else wanted
    Image.fromarray(source).convert(mode).save(tmp_path / name)
    assert_similar(read_image(tmp_path / name), source, tolerance)


def test_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GRAY > 127).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.where(GRAY_RGB > 127, 255, 0))


# ---------------------------------------------------------------- transparency


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:, : W // 2] = 0
    alpha[0, :] = 128
    Image.fromarray(np.dstack([picture(), alpha])).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert (found[1:, : W // 2] == 255).all()
    assert np.array_equal(found[1:, W // 2 :], picture()[1:, W // 2 :])
    assert_similar(found[:1], (picture()[:1] / 2 + 127.5).astype(np.uint8), 1)


def test_gray_with_alpha(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([GRAY, np.where(GRAY < 100, 0, 255).astype(np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.where(GRAY_RGB < 100, 255, GRAY_RGB))


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])], ids=["one index", "alpha of each index"])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    indices = np.tile(np.array([0, 1, 2], np.uint8), (4, 2))
    image = Image.fromarray(indices).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=transparency)
    found = read_image(tmp_path / "a.png")
    assert found[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]] * 2


def test_colour_declared_transparent(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png", transparency=(200, 40, 40))
    found = read_image(tmp_path / "a.png")
    assert (found[: H // 2, : W // 2] == 255).all()
    assert np.array_equal(found[H // 2 :], picture()[H // 2 :])


# ---------------------------------------------------------------- more than 8 bits


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_gray_is_scaled(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 255, 256, 257, 32768, 65279, 65280, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]


def test_16_bit_gray_of_the_other_byte_order(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535, 257]], ">u2")).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255, 1]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_scaled(tmp_path: Path, name: str, channels: int) -> None:
    alpha = np.full((H, W, channels - 3), 65535, np.uint16)
    bgr = np.dstack([picture()[:, :, ::-1].astype(np.uint16) * 257, alpha])
    assert cv2.imwrite(str(tmp_path / name), bgr)
    assert np.array_equal(read_image(tmp_path / name), picture())


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-10, 0, 10]], np.int32), [0, 128, 255]),
        (np.array([[0, 10**6, 2 * 10**6]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 0.5, 200]], np.float32), [0, 0, 200]),
        (np.array([[0, 65535, 32768]], np.float32), [0, 255, 128]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
        (np.array([[0, 0, 0]], np.float32), [0, 0, 0]),
        (np.array([[-7, -7, -7]], np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_values_are_scaled(
    tmp_path: Path, values: npt.NDArray[np.int32 | np.float32], wanted: list[int]
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 2].tolist() == wanted


# ---------------------------------------------------------------- orientation

TURN = Image.Transpose
STORED = {  # what a camera that wrote this orientation would store of the upright picture
    1: None,
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_90,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_270,
}


def stored_with_orientation(orientation: int) -> tuple[Image.Image, Image.Exif]:
    image = Image.fromarray(picture())
    method = STORED.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (image if method is None else image.transpose(method)), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    image, exif = stored_with_orientation(orientation)
    image.save(tmp_path / name, exif=exif, quality=95)
    assert_similar(read_image(tmp_path / name), picture(), 12)
    assert image_size(tmp_path / name) == (W, H)


def test_orientation_of_a_png_that_states_it_after_its_pixels(tmp_path: Path) -> None:
    image, exif = stored_with_orientation(6)
    image.save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    last = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert np.array_equal(read_image(tmp_path / "a.png"), picture())
    assert image_size(tmp_path / "a.png") == (W, H)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_without_meaning_is_upright(tmp_path: Path, orientation: int) -> None:
    image, exif = stored_with_orientation(orientation)
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), picture())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_lose_a_picture(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage", quality=95
    )
    assert_similar(read_image(tmp_path / "a.jpg"), picture())
    assert image_size(tmp_path / "a.jpg") == (W, H)


# ---------------------------------------------------------------- arrays, PIL images, paths


def test_as_image_takes_what_a_reader_of_the_docs_would_try(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    for source in (
        picture(),
        Image.fromarray(picture()),
        Image.open(tmp_path / "a.png"),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        assert_similar(as_image(source), picture(), 0)


def test_as_image_does_not_copy_an_image_that_fits() -> None:
    image = picture()
    assert as_image(image) is image


def test_as_image_makes_views_contiguous() -> None:
    assert_similar(as_image(picture()[:, ::-1]), picture()[:, ::-1].copy(), 0)


def test_as_image_accepts_gray_arrays() -> None:
    assert np.array_equal(as_image(GRAY), GRAY_RGB)


def test_as_image_leaves_the_callers_pil_image_alone() -> None:
    image, exif = stored_with_orientation(6)
    image.info["exif"] = exif.tobytes()
    assert np.array_equal(as_image(image), picture())
    assert image.size == (H, W)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((4, 5, 3), np.float32), r"uint8.*got float32 \[4, 5, 3\]"),
        (np.zeros((4, 5, 3), np.int64), "uint8"),
        (np.zeros((0, 5, 3), np.uint8), "pixels"),
        (np.zeros((4, 5, 4), np.uint8), "alpha"),
        (np.zeros((3, 40, 50), np.uint8), "transpose"),
        (np.zeros((2, 4, 5, 3), np.uint8), "list of images"),
        (np.zeros((4, 5, 2), np.uint8), r"\[H, W, 3\]"),
        (np.zeros(4, np.uint8), r"\[H, W, 3\]"),
    ],
)
def test_as_image_says_what_is_wrong_with_an_array(array: npt.NDArray[np.uint8], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        as_image(array)


def test_as_image_refuses_other_things() -> None:
    with pytest.raises(TypeError, match="not list"):
        as_image([[1, 2, 3]])  # type: ignore[arg-type]
    with pytest.raises(UnreadableImageError, match="pixels"):
        as_image(Image.new("RGB", (0, 0)))


# ---------------------------------------------------------------- resizing


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200), st.integers(0, 300))
def test_resize_keeps_the_shorter_side_and_the_limit(height: int, width: int, size: int, spare: int) -> None:
    max_side = size + spare
    resized = resize_shorter_side(np.zeros((height, width, 3), np.uint8), size, max_side)
    new_height, new_width = resized.shape[:2]
    assert min(new_height, new_width) >= 1
    assert max(new_height, new_width) <= max_side
    if max(height, width) * size / min(height, width) <= max_side:
        assert min(new_height, new_width) == size
        longer = max(height, width) * size / min(height, width)
        assert abs(max(new_height, new_width) - longer) <= 0.5 + 1e-6
    else:
        assert max(new_height, new_width) == max_side


@pytest.mark.parametrize(
    ("shape", "size", "max_side", "wanted"),
    [
        ((333, 500), 480, 2000, (480, 721)),
        ((500, 333), 688, 1000, (1000, 666)),
        ((3, 2000), 480, 2000, (3, 2000)),
        ((1, 10000), 480, 2000, (1, 2000)),
        ((1, 1), 688, 1200, (688, 688)),
        ((640, 480), 480, 2000, (640, 480)),
    ],
)
def test_resize_by_hand(shape: tuple[int, int], size: int, max_side: int, wanted: tuple[int, int]) -> None:
    assert resize_shorter_side(np.zeros((*shape, 3), np.uint8), size, max_side).shape == (*wanted, 3)


def test_resize_shrinks_by_area_and_enlarges_linearly() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = np.repeat(checks.astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.isin(resize_shorter_side(image, 32, 100), (127, 128)).all()  # no pixel is skipped
    doubled = resize_shorter_side(picture(), 2 * H, 200)
    assert_similar(doubled[::2, ::2].copy(), picture(), 3)
    assert len(np.unique(doubled[:, W])) > 3  # the edge is blended


def test_resize_returns_an_image_that_fits_as_it_is() -> None:
    image = picture()
    assert resize_shorter_side(image, H, 1000) is image


@pytest.mark.parametrize(("size", "max_side"), [(0, 10), (-5, 10), (11, 10)])
def test_resize_refuses_impossible_sizes(size: int, max_side: int) -> None:
    with pytest.raises(ValueError, match="size must be between 1 and max_side"):
        resize_shorter_side(picture(), size, max_side)
