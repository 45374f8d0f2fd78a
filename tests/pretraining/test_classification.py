"""Top-k by ranks: ties and numbers that are none count against the true class."""

from __future__ import annotations

import pytest
import torch

from spp_det.pretraining.classification import rank_of

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "label", "rank"),
    [
        ([0.1, 0.7, 0.2], 1, 0),
        ([0.1, 0.7, 0.2], 2, 1),
        ([0.1, 0.7, 0.2], 0, 2),
        ([0.5, 0.5, 0.0], 0, 1),
        ([0.3, 0.3, 0.3], 1, 2),
        ([NAN, NAN, NAN], 0, 2),
        ([0.9, NAN, 0.1], 0, 1),
        ([1.0], 0, 0),
    ],
)
def test_rank(scores, label, rank):
    assert rank_of(torch.tensor(scores), label) == rank
