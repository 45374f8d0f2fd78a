"""The loop of gradient descent that pre-training runs, on crops of a demo or on a million images alike."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from spp_det.config.pretrain import Training
from spp_det.errors import UserError
from spp_det.runtime import distributed
from spp_det.runtime.progress import track

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """The figures of an epoch: the size of its images, and mean loss and accuracy while they were learnt."""

    size: int
    loss: float
    accuracy: float


@dataclass
class Progress:
    """The progress of a training: what a checkpoint holds beside the weights.

    Attributes:
        epochs: the finished epochs.
        optimizer: the optimiser's ``state_dict()`` after them; None before the first epoch.
    """

    epochs: list[Epoch]
    optimizer: dict[str, Any] | None = None


Batches = Callable[[int, int], Iterable[tuple[Tensor, Tensor]]]
"""From an epoch's number, from 0, and the size of its images to this process's share of the batches: images
``[B, 3, size, size]`` and labels ``[B]``, on the network's device."""


def learn(
    network: nn.Module,
    batches: Batches,
    steps: int,
    plan: Training,
    progress: Progress | None = None,
    after_epoch: Callable[[Progress], None] = lambda _: None,
) -> list[Epoch]:
    """Minimise the cross-entropy of a classifier ``[B, 3, H, W] -> [B, K]`` by the plan, in place.

    All random numbers come from torch's own generator or from ``batches``: where ``batches`` seeds that
    generator, an interrupted training ends in the same bits.

    Args:
        network: with the weights that belong to ``progress``.
        steps: the number of batches in each epoch.
        progress: where to go on; None is the beginning.
        after_epoch: called with the new progress at the end of each epoch.

    Returns all epochs, those of ``progress`` included.
    """
    progress = progress or Progress([])
    optimiser = _optimiser(network, plan)
    if progress.optimizer is not None:
        optimiser.load_state_dict(progress.optimizer)
    done = len(progress.epochs)
    schedule = _schedule(optimiser, plan, steps, done * steps)
    parallel = distributed.parallel(network)
    for epoch in track(range(done, plan.epochs), "pre-training", plan.epochs, unit="epochs", done=done):
        network.train()
        size = plan.sizes[epoch % len(plan.sizes)]  # all sizes in turn (P section 2.3)
        sums = torch.zeros(3, dtype=torch.float64, device=next(network.parameters()).device)
        start = time.perf_counter()
        for images, labels in batches(epoch, size):
            scores = parallel(images)
            loss = F.cross_entropy(scores, labels, label_smoothing=plan.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            sums[0] += len(labels) * loss.detach().double()  # a device is not waited for
            sums[1] += (scores.detach().argmax(1) == labels).sum()
            sums[2] += len(labels)
        distributed.share_buffers(network)
        loss_sum, right, count = distributed.total(sums).tolist()
        if not math.isfinite(loss_sum):
            raise UserError(
                f"train.learning_rate = {plan.learning_rate:g}: the loss of epoch {epoch + 1} is not a "
                "number; take a lower rate"
            )
        progress.epochs.append(Epoch(size, loss_sum / count, right / count))
        progress.optimizer = optimiser.state_dict()
        pace = steps / (time.perf_counter() - start)
        logger.info("epoch %d: size %d, accuracy %.3f, %.1f steps/s", epoch + 1, size, right / count, pace)
        after_epoch(progress)
    return progress.epochs


def _optimiser(network: nn.Module, plan: Training) -> Optimizer:
    if plan.optimizer == "sgd":
        return SGD(
            network.parameters(), plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
    return AdamW(network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)


def _schedule(optimiser: Optimizer, plan: Training, steps: int, done: int) -> LRScheduler:
    """The learning rate as a function of the step's number alone, so that a checkpoint need not hold it."""
    if plan.schedule == "one_cycle":
        total = plan.epochs * steps
        return OneCycleLR(optimiser, plan.learning_rate, total_steps=total, last_epoch=done - 1)

    def rate(step: int) -> float:
        return 0.1 ** sum(step >= drop * steps for drop in plan.drops)

    return LambdaLR(optimiser, rate, last_epoch=done - 1)
