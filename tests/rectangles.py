"""Random maps of conv5, rectangles of their cells, and levels of a pyramid."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

LEVELS = st.lists(st.integers(1, 8), min_size=1, max_size=5) | st.just([6, 3, 2, 1])


def random_rectangles(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Rectangles inside a map of ``height`` times ``width`` cells, int64 ``[count, 4]``."""
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, width, count), rng.integers(0, height, count)
    return np.stack([x1, y1, rng.integers(x1, width) + 1, rng.integers(y1, height) + 1], axis=1)


@st.composite
def maps_and_rectangles(draw: st.DrawFn) -> tuple[torch.Tensor, np.ndarray]:
    """A float32 map ``[C, h, w]`` in either memory format, and up to 40 rectangles ``[N, 4]``."""
    channels = draw(st.sampled_from([1, 2, 3, 7, 16, 31, 64, 513]) | st.integers(1, 513))
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal((channels, height, width)).astype(np.float32)
    if draw(st.booleans()):  # as after a ReLU: many exact ties
        values = np.maximum(values, 0)
    feature_map = torch.from_numpy(values)
    if draw(st.booleans()):
        feature_map = feature_map[None].to(memory_format=torch.channels_last)[0]
    rectangles = random_rectangles(draw(st.integers(0, 40)), height, width, draw(st.integers(0, 2**32 - 1)))
    return feature_map, rectangles
