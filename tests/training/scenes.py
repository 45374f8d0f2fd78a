"""Annotated images without pixels, with their windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.data.records import Record
from spp_det.training.windows import LabelledWindows


def record(boxes, labels, difficult=(), crowd=()) -> Record:
    """Objects; ``difficult`` and ``crowd`` list the indices of those that are."""
    indices = np.arange(len(labels))
    return Record(
        image_id="a",
        path=Path("a.jpg"),
        boxes=as_boxes(boxes),
        labels=np.array(labels, np.int64),
        difficult=np.isin(indices, difficult),
        crowd=np.isin(indices, crowd),
    )


@st.composite
def scenes(draw: st.DrawFn) -> LabelledWindows:
    """Small integer boxes, so that overlaps and ties abound."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    objects, proposals = draw(st.integers(0, 6)), draw(st.integers(0, 25))
    corner = rng.integers(0, 8, (objects + proposals, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 8, corner.shape)], axis=1)
    marked = record(boxes[:objects], rng.integers(0, 3, objects))
    marked.difficult[:], marked.crowd[:] = rng.random((2, objects)) < 0.2
    return LabelledWindows.of(marked, as_boxes(boxes[objects:]))
