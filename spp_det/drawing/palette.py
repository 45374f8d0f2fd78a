"""One colour a class: the same class index always has the same colour, however many there are."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]  # RGB, 0..255
Floats = npt.NDArray[np.float64]

# Okabe and Ito's palette, told apart with every kind of colour blindness; white in place of their
# black, which is lost on dark photographs.
FIRST: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
)
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)


def class_color(label: int) -> Color:
    """The RGB colour of class ``label`` (0-based). Colours repeat only after two thousand classes."""
    palette = _palette(1 << max(int(label), 31).bit_length())
    return palette[label % len(palette)]


def text_color(background: Color) -> Color:
    """Black or white, whichever has the higher contrast on ``background`` (WCAG 2)."""
    luminance = float(_linear(np.array(background)) @ [0.2126, 0.7152, 0.0722])
    return BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else WHITE


@cache
def _palette(count: int) -> tuple[Color, ...]:
    """`FIRST`, then again and again the candidate that lies farthest from all colours before it."""
    levels = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _oklab(candidates)
    vivid = (lab[:, 0] > 0.42) & (np.hypot(lab[:, 1], lab[:, 2]) > 0.07)  # neither near black nor grey
    candidates, lab = candidates[vivid], lab[vivid]

    colors = list(FIRST)
    nearest = np.min([_distance(lab, color) for color in colors], axis=0)
    while len(colors) < min(count, len(candidates)):
        red, green, blue = candidates[nearest.argmax()].tolist()
        colors.append((red, green, blue))
        nearest = np.minimum(nearest, _distance(lab, colors[-1]))
    return tuple(colors)


def _distance(lab: Floats, color: Color) -> Floats:
    return np.asarray(np.linalg.norm(lab - _oklab(np.array(color)), axis=-1))


def _linear(rgb: npt.NDArray[np.integer]) -> Floats:
    """sRGB 0..255 as linear light 0..1."""
    value = rgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _oklab(rgb: npt.NDArray[np.integer]) -> Floats:
    """sRGB 0..255 in Oklab (Ottosson 2020), where distance is difference as the eye sees it."""
    cones = _linear(rgb) @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.asarray(
        np.cbrt(cones)
        @ np.array(
            [
                [0.2104542553, 1.9779984951, 0.0259040371],
                [0.7936177850, -2.4285922050, 0.7827717662],
                [-0.0040720468, 0.4505937099, -0.8086757660],
            ]
        )
    )
