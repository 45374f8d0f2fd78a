"""The fine-tuned network's own scores, in place of SVMs: fc8 and a softmax over classes and background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Floats, Ints


@dataclass(frozen=True, eq=False)
class SoftmaxScorer:
    """``score = log(p / (1 - p))`` of each class, with p from the softmax of fc8.

    Like an SVM's margin, log-odds are above 0 where the answer is yes, and spread to both sides of 0; so one
    threshold and one suppression serve both scorers. The default threshold of -1.5 is p = .18; p = .05 is
    -2.94. Log-odds rank as p does. The difference from the background's logit alone would not: a window of
    one class would score high for every other class that is merely likelier than the background.

    Attributes:
        weight: float32 ``[K + 1, D]`` of fc8; the background's row is the last.
        bias: float32 ``[K + 1]``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[N, D] -> [N, K]`` log-odds."""
        return self.scores(F.linear(vectors, self.weight, self.bias))

    def scores(self, logits: Tensor) -> Tensor:
        """The log-odds ``[N, K]`` of logits ``[N, K + 1]``."""
        # log(1 - p) is the log of the summed exponentials of all logits but the class's own. Where p <= 1/2,
        # as it is for all but the largest logit, nothing cancels in 1 - p; the largest is left out of its
        # sum.
        total = logits.logsumexp(dim=1, keepdim=True)
        others = total + torch.log1p(-(logits - total).exp())
        best = logits.argmax(dim=1, keepdim=True)
        others.scatter_(1, best, logits.scatter(1, best, -torch.inf).logsumexp(dim=1, keepdim=True))
        return (logits - others)[:, :-1]

    def of_classes(self, vectors: Tensor, labels: Ints) -> Floats:
        """``[n, D], [n] -> [n]``: of each vector the log-odds of its own class."""
        return self(vectors).cpu().numpy()[np.arange(len(labels)), labels]

    def to(self, device: torch.device) -> SoftmaxScorer:
        """The same scorer on another device."""
        return SoftmaxScorer(self.weight.to(device), self.bias.to(device))
