"""Suppression class by class, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.boxes import as_boxes
from spp_det.config.settings import Detection
from spp_det.model.suppression import suppress


def test_soft_suppression_lowers_scores_class_by_class():
    """Box 1 overlaps box 0 by half: of its class its probability is e^-(1/4 / 0.5) of what it was."""
    places = as_boxes([(0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 10, 5)])
    labels, scores = np.array([0, 0, 1]), np.float32([2, 1, 1])
    kept, lowered = suppress(places, labels, scores, Detection(soft_nms=0.5))
    p = np.exp(-0.5) / (1 + np.exp(-1))
    assert kept.tolist() == [0, 1, 2]
    assert lowered == pytest.approx([2, np.log(p / (1 - p)), 1])
    kept, lowered = suppress(places, labels, scores, Detection(soft_nms=0.5, score_threshold=-0.2))
    assert kept.tolist() == [0, 2]
    kept, lowered = suppress(places, labels, scores, Detection(nms=0.3))
    assert (kept.tolist(), lowered.tolist()) == ([0, 2], [2, 1])
