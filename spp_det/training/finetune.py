"""Fine-tuning: fc6, fc7 and a new fc8 learn to tell K classes and the background apart (P section 4.1, R).

The convolutional layers stay as they are, so conv5 is computed once and read from the cache; each step
pools its windows from there. A mirrored window is the window's vector with left and right bins exchanged.
It is exactly the vector of the mirrored *map*, but conv5 of the mirrored *image* is another map. On
objects of web photos (SqueezeNet, pool5) the cosine of the two vectors is .88 in the mean; moving a window by
8 pixels, half a cell, gives .91, and not mirroring .64. Maps of mirrored images would double the cache.

Several processes share each step: every one learns from the windows of its own images, the gradients are
summed, and all weights stay equal. Only dropout's choices then differ from a training by one process.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.boxes import Ints
from spp_det.config.settings import FineTune
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.head import FCHead
from spp_det.model.pyramid import mirrored_bins
from spp_det.model.softmax import SoftmaxScorer
from spp_det.runtime import distributed
from spp_det.runtime.cache import Arrays, check_form
from spp_det.runtime.progress import track
from spp_det.runtime.sharing import seed_torch
from spp_det.runtime.threads import ahead
from spp_det.training.batches import WATCHED, Batch, BatchSampler, Candidates, hold_out
from spp_det.training.checkpoint import Checkpoint, as_json, from_json
from spp_det.training.images import TrainingImages

logger = logging.getLogger(__name__)

FC8_SIGMA = 0.01  # (P section 4.1)
CENTRE_STEPS = 20  # batches whose mean vector stands for the mean of all windows
HELD_OUT_WINDOWS = 2048  # to measure on at most, because their vectors stay in memory

Row = dict[str, float | None]


def finetune(
    images: TrainingImages, key: str, head: FCHead, classes: tuple[str, ...], settings: FineTune, seed: int
) -> tuple[SoftmaxScorer, dict[str, object]]:
    """Train the head's layers, in place, with a new fc8 behind them.

    Stopped and called again with the same arguments, the training goes on from its last checkpoint in the
    images' cache, to the same weights. Called after its end, it only reads the weights.

    Args:
        key: of the checkpoints; see `keys.finetune_key`.
        head: the layers before the training, uncompressed; afterwards trained, frozen and in evaluation mode.
        classes: their names; every class has an object that is neither difficult nor a crowd.

    Returns the scorer made of fc8, and figures: ``log``, a row for every ``settings.log_every`` steps with
    mean ``loss`` and ``accuracy`` on the windows trained on since the last row, and both on fixed windows of
    the held-out images. Raises UserError where the loss is not finite.
    """
    candidates = [Candidates.of(windows, settings) for windows in images.windows()]
    learnt, watched = hold_out(candidates, len(classes), settings, seed)
    scales = len(images.features.scales)
    sampler = BatchSampler(candidates, learnt, len(classes), scales, settings, seed)
    device = images.features.backbone.mean.device
    training = _Training(head.at(None), classes, settings, seed, images.features.backbone)
    checkpoint = Checkpoint(images.cache, "finetune", key)
    total = settings.steps + settings.last_steps
    state = checkpoint.cache.load_checked(checkpoint.stage, key, partial(training.check, total=total))
    done = 0 if state is None else training.restore(state)
    if done < total:
        logger.info("fine-tuning: from step %d; %d images held out", done, len(watched))
        held_out = _held_out(images, sampler, watched)
        if done == 0:
            if settings.centre:
                training.network.centre_on(_mean_vector(images, sampler))
            training.write_row(0, held_out)

        def prepare(step: int) -> tuple[Tensor, Tensor, int]:
            batch = sampler.step(step)
            return *_examples(images, _own(images, batch)), batch.seed

        batches = ahead(prepare, range(done, total), workers=1, waiting=1)
        forked = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=forked):
            for vectors, targets, dropout_seed in track(
                batches, "fine-tuning", total, unit="steps", done=done
            ):
                seed_torch(dropout_seed)
                training.step(vectors, targets, done)
                done += 1
                if done % settings.log_every == 0 or done == total:
                    training.write_row(done, held_out)
                at_once = done % settings.checkpoint_every == 0 or done == total
                checkpoint.offer(partial(training.state, done), at_once)
    training.network.eval().requires_grad_(False)
    training.network.centre_on(torch.zeros_like(training.network.centre))
    fc8 = training.network.fc8
    figures = {"steps": total, "held_out_images": len(watched), "log": training.log}
    return SoftmaxScorer(fc8.weight.detach(), fc8.bias.detach()), figures


class _Network(nn.Module):
    """``[B, D] -> [B, K + 1]`` logits, the background's last."""

    def __init__(self, head: FCHead, outputs: int, dropout: float, seed: int) -> None:
        super().__init__()
        self.head: FCHead = head
        self.dropout = dropout
        self.fc8 = nn.utils.skip_init(nn.Linear, head.dimension, outputs)
        generator = torch.Generator().manual_seed(seed + 2**32)  # not the seed of a random fc6
        nn.init.normal_(self.fc8.weight, 0, FC8_SIGMA, generator)
        nn.init.zeros_(self.fc8.bias)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(head.linear("fc6").in_features))

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.fc8(self.head(vectors - self.centre, self.dropout))
        return logits

    @torch.no_grad()
    def centre_on(self, mean: Tensor) -> None:
        """Let fc6 see the vectors minus ``mean [D]``, and correct its bias, so that the logits stay the same.

        Only learning differs. Vectors that are never negative have a large common part, their mean, with half
        their length or more. It tells no classes apart, but would dominate the gradients.
        """
        fc6 = self.head.linear("fc6")
        fc6.bias.add_(fc6.weight @ (mean - self.centre))
        self.centre.copy_(mean)


class _Training:
    """The network, its optimiser and the log: everything that a checkpoint holds.

    Attributes:
        log: the rows written so far.
    """

    def __init__(
        self, head: FCHead, classes: tuple[str, ...], settings: FineTune, seed: int, backbone: Backbone
    ) -> None:
        device = backbone.mean.device
        self.settings = settings
        self.rounding = torch.autocast(device.type, torch.bfloat16, enabled=rounds(backbone))
        self.paced = 0, time.perf_counter()  # steps at the last row of the log, and its time
        self.network = _Network(head, len(classes) + 1, settings.dropout, seed).to(device)
        self.network.requires_grad_(True)
        self.parallel = distributed.parallel(self.network)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=device.type in ("cpu", "cuda"),  # a single pass over 69 million weights
        )
        self.log: list[Row] = []
        # Since the last row of the log: the summed loss, the windows classified right, all windows.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def step(self, vectors: Tensor, targets: Tensor, number: int) -> None:
        """Step ``number``, from 0, of stochastic gradient descent, on this process's part of a batch."""
        rate = self.settings.learning_rate * (1 if number < self.settings.steps else 0.1)
        self.optimiser.param_groups[0]["lr"] = rate
        self.network.train()
        with self.rounding:
            logits = self.parallel(vectors).float()
        share = distributed.world_size() / self.settings.batch  # gradients are averaged over the processes
        loss = share * F.cross_entropy(logits, targets, reduction="sum")
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.sums += distributed.total(_sums(logits.detach(), targets))

    def write_row(self, done: int, held_out: tuple[Tensor, Tensor] | None) -> None:
        """Add a row to the log, after ``done`` steps. Raises UserError where the loss is not finite."""
        row: Row = {"step": done} | _means(self.sums, "")
        self.sums.zero_()
        if held_out is not None:
            row |= self._measure(*held_out)
        self.log.append(row)
        shown = (f"{name} {value:.4g}" for name, value in row.items() if name != "step" and value is not None)
        pace = (done - self.paced[0]) / (time.perf_counter() - self.paced[1])
        self.paced = done, time.perf_counter()
        logger.info("fine-tuning: step %d, %s, %.1f steps/s", done, ", ".join(shown), pace)
        if any(value is not None and not math.isfinite(value) for value in row.values()):
            rate = self.settings.learning_rate
            raise UserError(f"finetune.learning_rate = {rate:g}: the loss is no longer finite; lower it")

    @torch.inference_mode()
    def _measure(self, vectors: Tensor, targets: Tensor) -> Row:
        """Loss and accuracy on held-out windows, and the accuracy on the positives among them."""
        self.network.eval()
        size = self.settings.batch
        logits = torch.cat([self.network(part.float()) for part in vectors.split(size)])
        objects = targets < logits.shape[1] - 1
        row = _means(distributed.total(_sums(logits, targets)), "held_out_")
        of_objects = distributed.total(_sums(logits[objects], targets[objects]))
        return row | {"held_out_object_accuracy": _means(of_objects, "")["accuracy"]}

    def state(self, done: int) -> Arrays:
        """The state after ``done`` steps: everything that the rest of the training depends on."""
        arrays = {"step": np.array(done), "sums": self.sums.cpu().numpy()}
        arrays["log"] = as_json(self.log)
        arrays["centre"] = self.network.centre.cpu().numpy()
        for name, parameter in self.network.named_parameters():
            arrays[f"weights.{name}"] = parameter.detach().cpu().numpy()
            arrays[f"momentum.{name}"] = self.optimiser.state[parameter]["momentum_buffer"].cpu().numpy()
        return arrays

    def check(self, arrays: Arrays, total: int) -> None:
        """Raise ValueError for arrays that are no state of this training of ``total`` steps."""
        forms = {"step": np.array(0), "sums": np.zeros(3), "centre": self.network.centre.cpu().numpy()}
        for name, parameter in self.network.named_parameters():
            form = np.broadcast_to(np.float32(0), tuple(parameter.shape))
            forms |= {f"weights.{name}": form, f"momentum.{name}": form}
        check_form(arrays, **forms)
        if not 0 < arrays["step"] <= total:
            raise ValueError(f"step is {arrays['step']} of {total}")
        log = from_json(arrays, "log")
        if not (isinstance(log, list) and all(isinstance(row, dict) for row in log)):
            raise ValueError("its log is no list of rows")

    @torch.no_grad()
    def restore(self, arrays: Arrays) -> int:
        """Go back to a state that `check` has passed. Returns the number of steps that led to it."""
        self.log, self.paced = from_json(arrays, "log"), (int(arrays["step"]), time.perf_counter())
        self.sums.copy_(torch.from_numpy(arrays["sums"]))
        self.network.centre.copy_(torch.from_numpy(arrays["centre"]))
        for name, parameter in self.network.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[f"weights.{name}"]))
            momentum = torch.from_numpy(arrays[f"momentum.{name}"]).to(parameter.device)
            self.optimiser.state[parameter]["momentum_buffer"] = momentum.clone()
        return int(arrays["step"])


def rounds(network: Backbone) -> bool:
    """Whether products are rounded to bfloat16 in training: on a GPU whose network computes in 16 bits.

    Weights and their updates stay float32. float16 would lose small gradients.
    """
    return network.mean.device.type == "cuda" and network.precision != torch.float32


def _own(images: TrainingImages, batch: Batch) -> Batch:
    """The windows of a batch that lie in this process's images."""
    own = images.owned(batch.images)
    of_windows = ("images", "windows", "labels", "scales", "mirrored")
    return replace(batch, **{name: getattr(batch, name)[own] for name in of_windows})


def _examples(images: TrainingImages, batch: Batch) -> tuple[Tensor, Tensor]:
    """A batch's vectors float32 ``[B, D]`` and labels ``[B]``, on the device of the features."""
    features = images.features
    parts = [torch.zeros(0, features.dimension, device=features.backbone.mean.device)]
    for image in np.unique(batch.images):  # ascending, as they are in the batch
        mine = batch.images == image
        parts.append(images.vectors_at(int(image), batch.windows[mine], batch.scales[mine]))
    vectors = torch.cat(parts)
    channels = features.backbone.channels
    bins = vectors.view(len(vectors), features.dimension // channels, channels)
    mirrored = torch.from_numpy(batch.mirrored).to(vectors.device)
    order = torch.from_numpy(mirrored_bins(features.levels)).to(vectors.device)
    bins[mirrored] = bins[mirrored][:, order]
    return vectors, torch.from_numpy(batch.labels).to(vectors.device)


def _mean_vector(images: TrainingImages, sampler: BatchSampler) -> Tensor:
    """The mean vector ``[D]`` of the windows of the first steps."""
    device = images.features.backbone.mean.device
    total = torch.zeros(images.features.dimension + 1, dtype=torch.float64, device=device)  # and the count
    for step in track(range(CENTRE_STEPS), "mean vector", unit="steps"):
        vectors, _ = _examples(images, _own(images, sampler.step(step)))
        total[:-1] += vectors.sum(dim=0)
        total[-1] += len(vectors)
    total = distributed.total(total)
    return (total[:-1] / total[-1]).float()


def _held_out(images: TrainingImages, sampler: BatchSampler, watched: Ints) -> tuple[Tensor, Tensor] | None:
    """Vectors float16 ``[n, D]`` and labels ``[n]`` of windows of the held-out images ``watched``.

    Positives have the same share as in training. As in detection, each window is pooled at its own scale and
    none is mirrored.
    """
    if not len(watched):
        return None
    offered = [sampler.candidates[image] for image in watched]
    size = min(HELD_OUT_WINDOWS, max(2, sum(map(len, offered))))
    batch = _own(images, sampler.draw(watched, size, np.random.default_rng([sampler.seed, WATCHED])))
    parts = [torch.zeros(0, images.features.dimension, device=images.features.backbone.mean.device).half()]
    for image in track(np.unique(batch.images), "held-out windows"):
        parts.append(images.vectors_at(int(image), batch.windows[batch.images == image]).half())
    vectors = torch.cat(parts)
    return vectors, torch.from_numpy(batch.labels).to(vectors.device)


def _sums(logits: Tensor, targets: Tensor) -> Tensor:
    """float64 ``[3]``: the loss summed over the windows, the windows classified right, all windows."""
    loss = F.cross_entropy(logits, targets, reduction="sum")
    right = (logits.argmax(dim=1) == targets).sum()
    return torch.stack([loss.double(), right.double(), right.new_tensor(len(targets)).double()])


def _means(sums: Tensor, prefix: str) -> Row:
    """Loss and accuracy from `_sums`; None where there was no window."""
    loss, right, count = sums.tolist()
    return {
        f"{prefix}loss": loss / count if count else None,
        f"{prefix}accuracy": right / count if count else None,
    }
