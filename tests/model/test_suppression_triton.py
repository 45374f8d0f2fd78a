"""The CUDA kernel of suppression against the CPU's; without a GPU, Triton interprets it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.boxes import Keep, iou, nms, soft_nms

pytest.importorskip("triton")
from spp_det.model.suppression_triton import suppress_by_triton

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning:triton"
)  # of numpy, which stands in for a GPU
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_triton(boxes: np.ndarray, scores: np.ndarray, *limits: float | None) -> list[np.ndarray]:
    """Boxes, labels and scores of what is kept."""
    given = (torch.from_numpy(array).to(DEVICE) for array in (boxes, scores))
    found, labels, lowered = (tensor.cpu().numpy() for tensor in suppress_by_triton(*given, *limits))
    there = lowered > -np.inf
    assert not found[~there].any()  # what is none can still be looked up
    assert not labels[~there].any()
    assert (np.flatnonzero(there) == np.arange(there.sum())).all()
    return [found[there], labels[there], lowered[there]]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3), st.booleans(), st.booleans())
def test_it_keeps_what_the_cpu_keeps(seed, count, classes, soft, tied):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 30, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 25, (count, 2))], axis=1).astype(np.float32)
    scores = rng.normal(0, 2, (classes, count)).astype(np.float32)
    if tied and not soft:  # of lowered scores, rounding would decide
        scores = scores.round()
    else:
        boxes += rng.random((count, 4), np.float32)
    each, most = int(rng.integers(1, count + 1)), int(rng.integers(1, 2 * count + 1))
    found, kept_labels, lowered = by_triton(boxes, scores, 0.3, 0.4 if soft else None, -1.0, each, most)
    labels, of = np.nonzero(scores > -1)
    candidates = boxes[of], scores[labels, of]
    keep = Keep(-1.0, each, most)
    if soft:
        kept, expected = soft_nms(*candidates, 0.4, labels, keep)
    else:
        kept = nms(*candidates, 0.3, labels, keep)
        expected = candidates[1][kept]
    assert found.tolist() == of[kept].tolist()
    assert kept_labels.tolist() == labels[kept].tolist()
    np.testing.assert_allclose(lowered, expected, atol=1e-5)


def test_hard_suppression_decides_by_the_cpus_own_ious():
    """Thresholds that are IoUs of the boxes: one bit more or less would change what is kept."""
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((24, 2, 2), np.float32) * 100, axis=1).reshape(24, 4)
    scores = rng.random((1, 24), np.float32)
    for threshold in np.unique(iou(boxes, boxes))[1:-1:9]:
        found, _, _ = by_triton(boxes, scores, float(threshold), None, -1.0, 24, 24)
        assert found.tolist() == nms(boxes, scores[0], float(threshold)).tolist()


@pytest.mark.parametrize("score", [-60.0, -1.0, 0.0, 3.0, 15.0])
@pytest.mark.parametrize("sigma", [0.05, 0.3, 1e4])
def test_scores_are_lowered_by_the_formula(score, sigma):
    """Two boxes with an IoU of a half: the log-odds of e^(-1/4 / sigma) times the probability."""
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5]])
    _, _, lowered = by_triton(boxes, np.float32([[score + 1, score]]), 1.0, sigma, -1000.0, 2, 2)
    log = -0.25 / sigma - np.logaddexp(0, -np.float64(score))
    assert lowered[1] == pytest.approx(log - np.log(-np.expm1(log)), abs=2e-5)


def test_nothing_above_the_threshold_and_no_boxes_are_nothing():
    boxes = np.float32([[0, 0, 1, 1], [2, 2, 3, 3]])
    for scores in ([[-2.0, -3.0]], [[-np.inf, np.nan]]):
        assert [len(part) for part in by_triton(boxes, np.float32(scores), 0.3, None, -1.5, 2, 9)] == [
            0,
            0,
            0,
        ]
    assert [len(part) for part in by_triton(boxes[:0], np.zeros((3, 0), np.float32), 0.3, None, 0, 0, 5)] == [
        0
    ] * 3
