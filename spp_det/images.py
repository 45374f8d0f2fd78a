"""Any image file, array or PIL image as RGB uint8 ``[H, W, 3]``; no other module decodes images."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError, features

from spp_det.errors import UserError, one_line
from spp_det.runtime.encoded import Header, check_bytes, png_has_exif, usable_jpegs
from spp_det.runtime.files import open_regular
from spp_det.runtime.opencv import cv2

logger = logging.getLogger(__name__)

RGB = npt.NDArray[np.uint8]  # [H, W, 3]

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif",
    ".avif", ".jfif", ".jpe", ".jp2", ".mpo", ".pgm", ".ppm",
)  # fmt: skip
"""Suffixes, in lower case, of the files that a search for images picks up."""

# No other formats are opened: Pillow knows harmful formats, such as EPS, which runs Ghostscript.
# AVIF is younger than the oldest Pillow that this package accepts.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000") + (
    ("AVIF",) if "avif" in features.modules else ()
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> the turn that undoes it
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
_ORIENTATION_TAG = 0x0112


class UnreadableImageError(UserError):
    """The file is empty, missing or no image; the message is one line with its name and the reason."""


class Skipped(TypedDict):
    """A file that a run has left out, as an entry of the run's figures."""

    file: str
    reason: str


def skipped(path: Path, error: UserError) -> Skipped:
    """The entry in the figures for a file that cannot be read."""
    return {"file": str(path), "reason": str(error).removeprefix(one_line(f"{path}: "))}


class Decoded(NamedTuple):
    pixels: RGB
    truncated: bool


def read_image(path: str | os.PathLike[str]) -> RGB:
    """Decode an image file to RGB uint8 ``[H, W, 3]``, C-contiguous, upright by its EXIF orientation.

    The format is told by the content, never by the suffix; of an animation the first frame counts.

    - Grayscale, palette and CMYK images are converted; embedded colour profiles are not applied.
    - Transparent pixels are laid over white, as a browser shows them: the colours that a file stores beneath
      them are arbitrary, and people who drew the boxes never saw them.
    - 16-bit channels keep their high byte, so that 65535 becomes 255. For 32-bit integers and floats a file
      states no range: the first of 0..1 (floats only), 0..255 and 0..65535 that holds every value is mapped
      to 0..255, else the image's own minimum to maximum.
    - A truncated JPEG has its full size, the missing part filled in by the decoder; a warning names
      the file, once in a process.

    Whatever its shape, a picture takes at most 64 bytes of memory a pixel while it is decoded, and at most
    200 MB more. Safe to call from several threads at once. Raises `UnreadableImageError` for a file that is
    missing, empty, no image, damaged beyond use, over Pillow's limit of pixels (a decompression bomb) or over
    the memory at hand, and for a file of more than 1 GiB, of 64 MiB where it is WebP or AVIF.
    """
    pixels, truncated = decode(path)
    if truncated:
        warn_truncated(Path(path))
    return pixels


def decode(path: str | os.PathLike[str]) -> Decoded:
    """Decode as `read_image` does, without the warning; ``truncated`` says whether the JPEG is truncated."""
    with _opened(Path(path)) as (file, image):
        try:
            image.load()
        except OSError:
            if image.format not in ("JPEG", "MPO"):
                raise
            pixels = image.width * image.height
            return Decoded(_to_rgb(_load_truncated_jpeg(file, pixels)), truncated=True)
        return Decoded(_to_rgb(image), truncated=False)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """``(width, height)`` in pixels of what `read_image` returns, from the header; raises the same errors.

    Only a PNG with EXIF data after its pixels is decoded.
    """
    return image_turn(path)[0]


def image_turn(path: str | os.PathLike[str]) -> tuple[tuple[int, int], int]:
    """The size as `image_size` has it, and the EXIF orientation, 1 to 8, that `read_image` undoes."""
    with _opened(Path(path)) as (file, image):
        width, height = image.size
        orientation = _orientation(image) if _needs_exif(image, file) else 1
        return ((height, width) if orientation in SIDEWAYS else (width, height)), orientation


def as_image(source: npt.NDArray[np.uint8] | Image.Image | str | os.PathLike[str]) -> RGB:
    """An array, a PIL image or the path of a file as RGB uint8 ``[H, W, 3]``, C-contiguous.

    Arrays are uint8, ``[H, W, 3]`` in RGB order or ``[H, W]`` grayscale; one that already fits is
    returned itself, not a copy. PIL images and files are treated as `read_image` treats files.

    Raises ValueError for an array of another shape or dtype or without pixels, TypeError for anything
    else, `UnreadableImageError` for a file or PIL image that cannot be decoded.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "PIL image"
        try:
            source.load()
            return _to_rgb(source)
        except Exception as error:
            raise UnreadableImageError(f"{name}: {_reason(error)}") from error
    raise TypeError(f"an image is a uint8 array, a PIL image or a path, not {type(source).__name__}")


def resize_shorter_side(image: RGB, size: int, max_side: int) -> RGB:
    """Resize so that ``min(H', W') == size``, or less where the longer side would pass ``max_side``.

    uint8 ``[H, W, 3] -> [H', W', 3]``; ``size`` and ``max_side`` in pixels, ``size <= max_side``. The
    aspect ratio is kept to the nearest pixel and every side has at least one. Shrinking averages areas,
    enlarging interpolates linearly. An image that has its size already is returned itself, not a copy.

    Raises ValueError where ``size`` is below 1 or above ``max_side``. (SPP-net, section 3.1.)

    >>> resize_shorter_side(np.zeros((480, 640, 3), np.uint8), size=240, max_side=2400).shape
    (240, 320, 3)
    """
    if not 1 <= size <= max_side:
        raise ValueError(f"size must be between 1 and max_side ({max_side}), got {size}")
    height, width = image.shape[:2]
    shorter, longer = min(height, width), max(height, width)
    factor = min(size / shorter, max_side / longer)
    new_width, new_height = (max(1, int(side * factor + 0.5)) for side in (width, height))
    if (new_width, new_height) == (width, height):
        return image
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (new_width, new_height), interpolation=method), dtype=np.uint8)


def encode_jpeg(image: RGB, quality: int = 92) -> bytes:
    """An RGB uint8 ``[H, W, 3]`` image as the contents of a JPEG file."""
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def encode_png(image: RGB) -> bytes:
    """An RGB uint8 ``[H, W, 3]`` image as the contents of a PNG file, to the last bit."""
    _, encoded = cv2.imencode(".png", image[:, :, ::-1])
    return encoded.tobytes()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """The open file and its identified image, not decoded; every failure as an `UnreadableImageError`."""
    try:
        with open_regular(path) as file:
            check_bytes(file)
            header = Header(file)
            with Image.open(cast("BinaryIO", header), formats=_FORMATS) as image:
                header.end()
                _check_tiles(image)
                yield file, image
    except UnreadableImageError:
        raise
    except UserError as error:
        raise UnreadableImageError(str(error)) from error
    except Exception as error:  # decoders raise anything at all on damaged data
        raise UnreadableImageError(f"{path}: {_reason(error)}") from error


def _check_tiles(image: Image.Image) -> None:
    """Raise ValueError for a TIFF whose tiles, which are decoded whole, are much larger than the picture."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(322, 1) * tags.get(323, 1) > 2**22 + image.width * image.height:  # TileWidth, TileLength
        raise ValueError("its tiles are larger than the picture")


def _to_rgb(image: Image.Image) -> RGB:
    """A loaded PIL image as an upright RGB array of its own."""
    method = _UPRIGHT.get(_orientation(image))
    if method is not None:
        image = image.transpose(method)
    if image.mode.startswith("I;16"):
        return _gray_to_rgb((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _gray_to_rgb(_scale_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return _checked(np.array(image.convert("RGB")))


def _scale_to_8_bit(values: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``[H, W]`` values of no stated range as uint8; NaN and infinities count as zero."""
    real = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(real.min()), float(real.max())
    usual = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    top = next((top for top in usual if high <= top), None)
    if low >= 0 and top is not None:
        low, high = 0.0, top
    return np.rint((real - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def _gray_to_rgb(gray: npt.NDArray[np.uint8]) -> RGB:
    return np.repeat(gray[:, :, None], 3, axis=2)


def _checked(array: npt.NDArray[np.uint8]) -> RGB:
    """The array itself where it is an image, stacked to three channels where it is grayscale."""
    found = f"got {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8, values 0 to 255; {found}")
    if array.size == 0:
        raise ValueError(f"an image array must have pixels; {found}")
    if array.ndim == 2:
        return _gray_to_rgb(array)
    if array.ndim == 3 and array.shape[2] == 3:
        return np.ascontiguousarray(array)
    hint = ""
    if array.ndim == 3 and array.shape[2] == 4:
        hint = ": drop the alpha channel with image[:, :, :3]"
    elif array.ndim == 3 and array.shape[0] == 3:
        hint = ": channels come last, image.transpose(1, 2, 0)"
    elif array.ndim == 4:
        hint = ": give a batch as a list of images"
    raise ValueError(f"an image array must be RGB [H, W, 3] or grayscale [H, W]; {found}{hint}")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a PIL image; 1, upright, where its EXIF data is absent or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a picture is not worth less for a broken tag
        return 1


def _needs_exif(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the size of an image that is not decoded yet may depend on its EXIF data."""
    if image.format == "TIFF":
        return False  # Pillow turns a TIFF by itself and states the turned size from the start
    if image.format == "PNG" and "exif" not in image.info:
        place = file.tell()
        found = png_has_exif(file)
        file.seek(place)
        return found
    return True


def _load_truncated_jpeg(file: BinaryIO, pixels: int) -> Image.Image:
    """Decode what is there of a JPEG, by adding the end marker that was lost.

    Pillow's own switch for this, ``ImageFile.LOAD_TRUNCATED_IMAGES``, is a global that would act on every
    thread and on the caller's program. Raises OSError where no part can be decoded.
    """
    for data in usable_jpegs(file, pixels):
        image = Image.open(BytesIO(data), formats=("JPEG",))
        with suppress(OSError):
            image.load()
            return image
    raise OSError("a JPEG without any part that can be decoded")


_warned: set[Path] = set()
_warned_lock = threading.Lock()


def warn_truncated(path: Path) -> None:
    """Log that a file is a truncated JPEG, once in this process; also for results from a cache."""
    key = path.absolute()
    with _warned_lock:
        if key in _warned:
            return
        _warned.add(key)
    logger.warning("%s: truncated JPEG; the part that can be decoded is used", path)


def _reason(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or in a format that is not supported"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, MemoryError):
        return "too large for the memory at hand"
    return " ".join(str(error).split()) or type(error).__name__
