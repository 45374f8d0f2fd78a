"""Numbers as colours: amounts from dark to bright, and votes against and for from blue to red."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spp_det.drawing.palette import Color
from spp_det.images import RGB
from spp_det.runtime.opencv import cv2

AGAINST: Color = (0, 90, 181)  # blue and red of equal lightness, told apart with every colour blindness
FOR: Color = (220, 50, 32)
_STRONGEST = 0.72  # opacity of a tint: the picture beneath stays visible

Numbers = npt.NDArray[np.floating]


def heat(values: Numbers) -> RGB:
    """``[h, w] -> [h, w, 3]``: from dark blue at 0, or at the lowest number if that is negative, to yellow.

    NaN and infinities count as 0.
    """
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low = min(0.0, float(numbers.min(initial=0.0)))
    span = float(numbers.max(initial=0.0)) - low
    shades = np.rint((numbers - low) * (255 / span if span > 0 else 0.0)).astype(np.uint8)
    colors = cv2.applyColorMap(shades, cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(colors.reshape(*values.shape, 3)[:, :, ::-1])


def tint(background: RGB, value: float, limit: float) -> RGB:
    """Pixels tinted by a number, fully at ``limit`` (`FOR`) and ``-limit`` (`AGAINST`).

    uint8 ``[..., 3] -> [..., 3]``; 0 leaves them as they are.
    """
    share = min(1.0, abs(value) / limit) if limit > 0 else 0.0
    opacity = _STRONGEST * share
    color = np.array(FOR if value > 0 else AGAINST, np.float64)
    return np.rint(background * (1 - opacity) + color * opacity).astype(np.uint8)


def faded(image: RGB) -> RGB:
    """A picture in light greys, so that all colours on it come from `tint`."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    pale = np.rint(115 + gray * (140 / 255)).astype(np.uint8)
    return np.repeat(pale[:, :, None], 3, axis=2)
