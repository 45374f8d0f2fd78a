"""Scores from 0 to 1 for tools that expect them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def probability(margins: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Margins of SVMs ``[n]`` as numbers from 0 to 1, in the same order, .5 at the margin 0.

    This is the logistic function of the margin: no calibrated figure. A box with .7 is not right seven times
    in ten.
    """
    found: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(margins.astype(np.float64), -50, 50)))
    return found
