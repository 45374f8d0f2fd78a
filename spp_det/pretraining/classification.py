"""Top-k accuracy: an image is classified right where fewer than k other classes score as high as its own."""

from __future__ import annotations

from torch import Tensor


def rank_of(scores: Tensor, label: int) -> int:
    """How many other classes score no less than ``label``: 0 is top-1. ``scores`` is ``[K]``.

    Ties count against it, and so does a score that is not a number: constants must not look right.
    """
    return int((~(scores < scores[label])).sum()) - 1
