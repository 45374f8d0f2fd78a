"""What describes the regions of a segmented image (Uijlings et al., IJCV 2013, section 3.2).

A region has a size, a bounding box, neighbours, and two histograms, each of which sums to one:

colour    25 bins a channel.
texture   10 bins for each of 8 directions and each channel: Gaussian derivatives along x, y and the two
          diagonals, whose positive and negative halves are planes of their own. The bins of a plane lie
          evenly between its least and its greatest value in the image.

Derivatives along the diagonals are taken as OpenCV's selective search takes them, which its results show: the
image is rotated by 45 degrees into a canvas that holds it whole, with black around it, derived there along x
and y, and the two derivatives are rotated back.

In most planes, most pixels lie in the bin of zero. So only a pixel's other bins are kept (`Texture`) and
counted; the count of the bin of zero is the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Ints
from spp_det.kernels import numba
from spp_det.proposals.segmentation import Labels
from spp_det.runtime.opencv import cv2

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

COLOUR_BINS = 25  # a channel
TEXTURE_BINS = 10  # a direction and channel
DIRECTIONS = 8
SHORTEST_PIECE, LONGEST_PIECE = 2048, 30_000  # pixels; OpenCV rotates no side of 32768
OVERLAP = 4  # pixels, beyond which the ends of a piece are not seen


@dataclass(frozen=True, eq=False)
class Texture:
    """The texture bins of an image's pixels, row by row, without the bins of zero.

    Attributes:
        counts: uint8 ``[H * W]``, the number of bins that are kept of each pixel.
        bins: uint8, the kept bins of one pixel after the other, each as ``10 * plane + bin``, where the plane
            is ``8 * channel + direction``.
        zeros: int64 ``[8 * C]``, the bin of zero in each plane.
    """

    counts: Bytes
    bins: Bytes
    zeros: Ints


@dataclass(frozen=True, eq=False)
class Regions:
    """The R regions of a segmentation.

    Attributes:
        sizes: int64 ``[R]`` in pixels.
        boxes: int64 ``[R, 4]``, ``(x1, y1, x2, y2)`` half-open in pixels.
        pairs: int64 ``[P, 2]``, neighbours, the lower number first, sorted. A pixel of one lies beside,
            above, or above and to the left of a pixel of the other.
        colour, texture: float32 ``[R, 25 * C]`` and ``[R, 80 * C]``, histograms.
    """

    sizes: Ints
    boxes: Ints
    pairs: Ints
    colour: Floats
    texture: Floats


def texture_of(image: Bytes) -> Texture:
    """The texture bins of every pixel of an image uint8 ``[H, W, C]``, C at most 3."""
    height, width, channels = image.shape
    derivatives = [_derivative(image, along_x) for along_x in (True, False)] + diagonal_derivatives(image)
    scales, zeros = _scales(derivatives)
    counts = np.empty(height * width, np.uint8)
    bins = np.empty(4 * channels * height * width + 1, np.uint8)
    used = _texture_bins(tuple(derivatives), scales, zeros, counts, bins)
    return Texture(counts, bins[:used].copy(), zeros)


def _derivative(image: Bytes, along_x: bool) -> Floats:
    derivative = cv2.Scharr(image, cv2.CV_32F, int(along_x), int(not along_x))
    return np.asarray(derivative, dtype=np.float32).reshape(image.shape)


def diagonal_derivatives(image: Bytes) -> list[Floats]:
    """The derivatives of an image uint8 ``[H, W, C]`` along its two diagonals, float32 ``[H, W, C]`` each.

    A long image is cut into overlapping pieces: the canvas of the whole would be far larger than the image.
    """
    longer = int(np.argmax(image.shape[:2]))
    length, shorter = image.shape[longer], image.shape[1 - longer]
    piece = min(max(SHORTEST_PIECE, 16 * shorter), LONGEST_PIECE)
    if length <= piece:
        return _rotated_derivatives(image, cut=True)
    whole = [np.empty(image.shape, np.float32) for _ in range(2)]
    for start in range(0, length, piece):
        first, stop = max(0, start - OVERLAP), min(length, start + piece)
        part = image.take(range(first, min(length, stop + OVERLAP)), axis=longer)
        for target, derivative in zip(whole, _rotated_derivatives(part, cut=False), strict=True):
            inner = derivative.swapaxes(0, longer)[start - first : stop - first]
            target.swapaxes(0, longer)[start:stop] = inner
    return whole


def _rotated_derivatives(image: Bytes, cut: bool) -> list[Floats]:
    """The two derivatives, taken in one canvas. ``cut``: an image longer than its canvas is rotated back as
    OpenCV does it, which lets the image begin where the canvas begins."""
    height, width = image.shape[:2]
    centre = width / 2, height / 2
    rotation = cv2.getRotationMatrix2D(centre, 45, 1)
    corners = cv2.boxPoints((centre, (width, height), 45))
    left, top = np.floor(corners.min(0)).astype(int).tolist()
    right, bottom = np.ceil(corners.max(0)).astype(int).tolist()
    across, down = right - left + 1, bottom - top + 1
    rotation[:, 2] += across / 2 - centre[0], down / 2 - centre[1]
    rotated = np.asarray(cv2.warpAffine(image, rotation, (across, down)), dtype=np.uint8)
    rotated = rotated.reshape(down, across, -1)
    back = cv2.getRotationMatrix2D((across // 2, down // 2), -45, 1)
    begin = np.array([(across - width) // 2, (down - height) // 2])
    back[:, 2] -= np.maximum(begin, 0) if cut else begin
    derivatives = []
    for along_x in (True, False):
        turned = cv2.warpAffine(_derivative(rotated, along_x), back, (width, height))
        derivatives.append(np.asarray(turned, dtype=np.float32).reshape(image.shape))
    return derivatives


def _scales(derivatives: list[Floats]) -> tuple[Floats, Ints]:
    """How values of a plane become bytes: factor and summand float32 ``[8 * C, 2]``, and the bins of 0."""
    channels = derivatives[0].shape[2]
    scales = np.zeros((channels, DIRECTIONS, 2), np.float32)
    for axis, derivative in enumerate(derivatives):
        rows = derivative.reshape(len(derivative), -1)
        lowest, highest = rows[0].copy(), rows[0].copy()
        _extremes(rows, lowest, highest)
        least = lowest.reshape(-1, channels).min(0).astype(float)
        most = highest.reshape(-1, channels).max(0).astype(float)
        for half, clip in enumerate((np.maximum, np.minimum)):
            low, high = clip(least, 0), clip(most, 0)
            for c in range(channels):
                span = high[c] - low[c]
                if span > 0:
                    scales[c, 2 * axis + half] = 255 / span, -255 * low[c] / span
    shifts = scales[:, :, 1].reshape(-1)
    zeros = np.rint(shifts).clip(0, 255).astype(np.int64) * TEXTURE_BINS // 256
    return scales.reshape(-1, 2), zeros


def describe(image: Bytes, labels: Labels, count: int, texture: Texture) -> Regions:
    """Describe the ``count`` regions of an image uint8 ``[H, W, C]`` by ``labels`` int32 ``[H, W]``."""
    channels = image.shape[2]
    sizes, boxes = np.zeros(count, np.int64), np.empty((count, 4), np.int64)
    keys = _measure(labels, sizes, boxes)
    keys.sort()
    pairs = np.stack(np.divmod(keys, count), axis=1)
    colour = np.zeros((count, COLOUR_BINS * channels), np.int32)
    textures = np.zeros((count, TEXTURE_BINS * DIRECTIONS * channels), np.int32)
    _count(image, labels, texture.counts, texture.bins, texture.zeros, sizes, colour, textures)
    pixels = sizes.astype(np.float32)[:, None]
    colour_parts = colour.astype(np.float32) / (np.float32(channels) * pixels)
    texture_parts = textures.astype(np.float32) / (np.float32(DIRECTIONS * channels) * pixels)
    return Regions(sizes, boxes, pairs, colour_parts, texture_parts)


# ---------------------------------------------------------------- kernels


_NONE = 255  # no bin: bins have numbers up to 239
_ROUND = np.float32(3 << 22)  # added to a float32, it leaves the rounded number in the last bits


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _texture_bins(derivatives, scales, zeros, counts, bins):  # type: ignore[no-untyped-def]
    """Write ``counts`` and ``bins`` of `Texture`, return the number of bins written."""
    height, width, channels = derivatives[0].shape
    codes = np.empty((len(zeros), 256), np.uint8)  # of each byte in each plane
    for plane in range(len(zeros)):
        for level in range(256):
            own = level * TEXTURE_BINS >> 8
            codes[plane, level] = _NONE if own == zeros[plane] else TEXTURE_BINS * plane + own
    row = np.empty((4 * channels, width), np.uint8)
    rounded = np.empty(width, np.float32)
    used = 0
    for y in range(height):
        for i in range(4 * channels):
            values = derivatives[i % 4][y, :, i // 4]
            _row_bins(
                values, scales[2 * i : 2 * i + 2], codes[2 * i : 2 * i + 2].reshape(512), rounded, row[i]
            )
        for x in range(width):
            before = used
            for i in range(4 * channels):
                bins[used] = row[i, x]  # no branch: the next bin replaces a `_NONE`
                used += row[i, x] != _NONE
            counts[y * width + x] = used - before
    return used


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _row_bins(values, scales, codes, rounded, own):  # type: ignore[no-untyped-def]
    """``own [W] = codes [512]`` of the bytes that ``values [W]`` become; negative values use the second half.

    OpenCV makes bytes by a fused product and sum: one rounding to float32, and one to the nearest integer.
    """
    scale_up, shift_up = np.float64(scales[0, 0]), np.float64(scales[0, 1])
    scale_down, shift_down = np.float64(scales[1, 0]), np.float64(scales[1, 1])
    bits = rounded.view(np.int32)
    for x in range(len(values)):  # side by side in memory, as vector instructions need them
        rounded[x] = values[x]
    for x in range(len(values)):
        value = np.float64(rounded[x])
        up = np.float32(value * scale_up + shift_up) + _ROUND
        down = np.float32(value * scale_down + shift_down) + (_ROUND + np.float32(256))
        rounded[x] = down if value < 0 else up
    for x in range(len(values)):
        own[x] = codes[bits[x] & 511]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _extremes(values, least, most):  # type: ignore[no-untyped-def]
    """Write the extremes of the columns of ``values [H, D]``. ``least`` and ``most`` hold the first row."""
    for y in range(1, len(values)):
        row = values[y]
        for i in range(len(row)):
            least[i] = row[i] if row[i] < least[i] else least[i]
            most[i] = row[i] if row[i] > most[i] else most[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _measure(labels, sizes, boxes):  # type: ignore[no-untyped-def]
    """Write sizes and boxes; return, in any order, ``low * R + high`` of every two regions that touch."""
    height, width = labels.shape
    regions = len(sizes)
    boxes[:, :2] = max(height, width)
    boxes[:, 2:] = 0
    slots = 16
    while slots < 8 * regions:  # neighbours are fewer than three times the regions, as in every flat map
        slots *= 2
    table = np.full(slots, -1, np.int64)
    found = 0
    last = np.int64(-1)
    strip = min(height, width) == 1
    for y in range(height):
        for x in range(width):
            own = labels[y, x]
            sizes[own] += 1
            box = boxes[own]
            box[0], box[1] = min(box[0], x), min(box[1], y)
            box[2], box[3] = max(box[2], x + 1), max(box[3], y + 1)
            for step in range(1, 4):  # right, down, and both
                down, right = step >> 1, step & 1
                if y + down == height or x + right == width:
                    continue
                if not strip and (y + down == 0 or x + right == 0):
                    continue
                other = labels[y + down, x + right]
                if other == own:
                    continue
                key = np.int64(min(own, other)) * regions + max(own, other)
                if key == last:
                    continue
                last = key
                slot = key * 0x9E3779B1 & slots - 1
                while table[slot] != key:
                    if table[slot] < 0:
                        table[slot] = key
                        found += 1
                        break
                    slot = slot + 1 & slots - 1
    keys = np.empty(found, np.int64)
    for slot in range(slots):
        if table[slot] >= 0:
            found -= 1
            keys[found] = table[slot]
    return keys


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _count(image, labels, counts, bins, zeros, sizes, colour, texture):  # type: ignore[no-untyped-def]
    """Count the pixels of each region in each bin, ``colour`` and ``texture [R, D]``, which come as zeros."""
    height, width, channels = image.shape
    place = 0
    for y in range(height):
        for x in range(width):
            own = labels[y, x]
            for c in range(channels):
                colour[own, COLOUR_BINS * c + (image[y, x, c] * COLOUR_BINS >> 8)] += 1
            for _ in range(counts[y * width + x]):
                texture[own, bins[place]] += 1
                place += 1
    for own in range(len(sizes)):
        for plane in range(len(zeros)):
            first = TEXTURE_BINS * plane
            texture[own, first + zeros[plane]] = sizes[own] - texture[own, first : first + TEXTURE_BINS].sum()
