"""Log-odds of each class: against the softmax in double precision, also where float32 probabilities are 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spp_det.model.softmax import SoftmaxScorer


def scorer_of_logits(outputs: int) -> SoftmaxScorer:
    """Vectors are the logits themselves."""
    return SoftmaxScorer(torch.eye(outputs), torch.zeros(outputs))


def test_two_equal_classes_and_a_background_as_likely_as_both():
    """p is 1/4, 1/4, 1/2: odds of 1 to 3."""
    scores = scorer_of_logits(3)(torch.tensor([[0.0, 0.0, float(np.log(2))]]))
    torch.testing.assert_close(scores, torch.full((1, 2), -float(np.log(3))))


def test_a_class_is_not_likely_because_the_background_is_unlikely():
    (scores,) = scorer_of_logits(3)(torch.tensor([[9.0, 3.0, 0.0]]))
    assert scores[0] > 0
    assert scores[1] < -5  # though e^3 times as likely as the background


def test_one_class_is_logistic_regression():
    logits = torch.randn(5, 2)
    torch.testing.assert_close(scorer_of_logits(2)(logits)[:, 0], logits[:, 0] - logits[:, 1])


@given(st.lists(st.floats(-200, 200, width=32), min_size=2, max_size=7))
def test_scores_are_log_odds_and_stay_finite(row):
    logits = torch.tensor([row])
    scores = scorer_of_logits(logits.shape[1])(logits)
    assert scores.isfinite().all()
    double = logits.double()
    for k in range(logits.shape[1] - 1):
        others = torch.cat([double[:, :k], double[:, k + 1 :]], dim=1).logsumexp(dim=1)
        torch.testing.assert_close(scores[:, k].double(), double[:, k] - others, atol=1e-4, rtol=1e-5)


def test_the_bias_counts_and_no_vectors_have_no_scores():
    scorer = SoftmaxScorer(torch.zeros(3, 4), torch.tensor([1.0, 0.0, 0.0]))
    expected = torch.tensor([1.0, 0.0, 0.0]).double().softmax(0)[:2].logit().float()
    torch.testing.assert_close(scorer(torch.randn(2, 4)), expected.expand(2, 2))
    assert scorer(torch.zeros(0, 4)).shape == (0, 2)


@pytest.mark.parametrize("threshold", [-1.5, 0.0])
def test_thresholds_are_probabilities(threshold):
    logits = 3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    likely = logits.softmax(dim=1)[:, :-1] > 1 / (1 + np.exp(-threshold))
    assert torch.equal(scorer_of_logits(4)(logits) > threshold, likely)
