"""The loop of gradient descent that pre-training runs, on crops of a demo or on a million images alike."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from spp_det.errors import UserError
from spp_det.runtime import distributed
from spp_det.runtime.progress import track

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The course of a training; the names are those of `spp_det.config.pretrain.Training`."""

    sizes: Sequence[int]
    epochs: int
    learning_rate: float
    optimizer: Literal["sgd", "adamw"] = "adamw"
    momentum: float = 0.9
    schedule: Literal["steps", "one_cycle"] = "one_cycle"
    drops: Sequence[int] = ()
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0

    def size(self, epoch: int) -> int:
        """The side of the images of an epoch, counted from 0: all sizes in turn (P section 2.3)."""
        return self.sizes[epoch % len(self.sizes)]


@dataclass(frozen=True)
class Epoch:
    """What an epoch saw: the size of its images, their mean loss and the accuracy, while they were learnt."""

    size: int
    loss: float
    accuracy: float


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds beside the weights.

    Attributes:
        epochs: those that are over.
        optimizer: the optimiser's ``state_dict()`` after them; None before the first.
    """

    epochs: list[Epoch]
    optimizer: dict[str, Any] | None = None

    @property
    def tree(self) -> list[dict[str, Any]]:
        """The epochs as JSON has them."""
        return [asdict(epoch) for epoch in self.epochs]


Batches = Callable[[int, int], Iterable[tuple[Tensor, Tensor]]]
"""An epoch's number, from 0, and its size to this process's share of images ``[B, 3, size, size]`` and labels
``[B]``, on the network's device."""


def learn(
    network: nn.Module,
    batches: Batches,
    steps: int,
    plan: Plan,
    progress: Progress | None = None,
    after_epoch: Callable[[Progress], None] = lambda _: None,
) -> list[Epoch]:
    """Minimise the cross-entropy of a classifier ``[B, 3, H, W] -> [B, K]`` by the plan, in place.

    Every random number is torch's own generator's, or of ``batches``: who restores or seeds it there
    gets an interrupted training to end in the same bits.

    Args:
        network: its weights as they were when ``progress`` was made.
        steps: batches of each epoch.
        progress: where to go on; None is the beginning.
        after_epoch: called with the new progress whenever an epoch is over.

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
        size = plan.size(epoch)
        sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, images
        for images, labels in batches(epoch, size):
            scores = parallel(images)
            loss = F.cross_entropy(scores, labels, label_smoothing=plan.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            correct = (scores.detach().argmax(1) == labels).sum()
            sums += torch.tensor([len(labels) * loss.item(), correct.item(), len(labels)])
        distributed.share_buffers(network)
        loss_sum, right, count = distributed.total(sums).tolist()
        if not math.isfinite(loss_sum):
            raise UserError(
                f"train.learning_rate = {plan.learning_rate:g}: the loss of epoch {epoch + 1} is not a "
                "number; take a lower rate"
            )
        progress.epochs.append(Epoch(size, loss_sum / count, right / count))
        progress.optimizer = optimiser.state_dict()
        logger.debug("epoch %d: size %d, accuracy %.3f", epoch + 1, size, right / count)
        after_epoch(progress)
    return progress.epochs


def _optimiser(network: nn.Module, plan: Plan) -> Optimizer:
    if plan.optimizer == "sgd":
        return SGD(
            network.parameters(), plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
    return AdamW(network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)


def _schedule(optimiser: Optimizer, plan: Plan, steps: int, done: int) -> LRScheduler:
    """The learning rate as a function of the step's number alone, so that a checkpoint need not hold it."""
    if plan.schedule == "one_cycle":
        total = plan.epochs * steps
        return OneCycleLR(optimiser, plan.learning_rate, total_steps=total, last_epoch=done - 1)

    def rate(step: int) -> float:
        return 0.1 ** sum(step >= drop * steps for drop in plan.drops)

    return LambdaLR(optimiser, rate, last_epoch=done - 1)
