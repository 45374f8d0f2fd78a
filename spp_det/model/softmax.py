"""The fine-tuned network's own scores, in place of SVMs: fc8 and a softmax over classes and background."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class SoftmaxScorer:
    """``score = log(p / (1 - p))`` of each class, with p from the softmax of fc8.

    Log-odds of the class against all else together, not log-probabilities: like an SVM's margin they are
    above 0 where the answer is yes and spread to both sides of it, so that one threshold and one suppression
    serve both scorers. The default threshold of -1.5 is p = .18; p = .05 is -2.94. They rank as p does, so
    a window of one class does not score high for another one that is merely likelier than the background,
    as it could if the background's logit alone were subtracted.

    Attributes:
        weight: float32 ``[K + 1, D]`` of fc8; the background's row is the last.
        bias: float32 ``[K + 1]``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[N, D] -> [N, K]`` log-odds."""
        logits = F.linear(vectors, self.weight, self.bias)  # [N, K + 1]
        # log sum exp of all logits but one's own. For all but the largest p <= 1/2, and nothing cancels in
        # 1 - p; the largest is left out of its sum instead.
        total = logits.logsumexp(dim=1, keepdim=True)
        others = total + torch.log1p(-(logits - total).exp())
        best = logits.argmax(dim=1, keepdim=True)
        others.scatter_(1, best, logits.scatter(1, best, -torch.inf).logsumexp(dim=1, keepdim=True))
        return (logits - others)[:, :-1]

    def to(self, device: torch.device) -> SoftmaxScorer:
        """The same scorer on another device."""
        return SoftmaxScorer(self.weight.to(device), self.bias.to(device))
