"""Pre-training: classification of whole images with the pyramid before the fc layers (P sections 2.3, 3).

Sizes take turns, an epoch each, on the same weights. Several processes (``torchrun``) share each batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from spp_det.config.file import dotted
from spp_det.config.pretrain import PretrainConfig
from spp_det.data.class_folder import read_class_folder
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.head import NAMES
from spp_det.model.head_weights import CLASSIFIERS, LEVELS_KEY
from spp_det.pretraining.checkpoint import load_checkpoint, save_checkpoint
from spp_det.pretraining.class_images import ClassBatches, readable
from spp_det.pretraining.classifier import PyramidClassifier
from spp_det.pretraining.learning import Progress, learn
from spp_det.runtime import distributed
from spp_det.runtime.cache import digest
from spp_det.runtime.threads import cores
from spp_det.runtime.whole_files import write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """The result of a pre-training: the network, in evaluation mode, and the figures of the training."""

    network: PyramidClassifier
    metrics: dict[str, Any]


def pretrain(config: PretrainConfig, device: torch.device) -> Pretrained:
    """Train a network to classify images; where the output has a checkpoint, go on from it.

    Writes only the checkpoint. Several processes must all call this, inside `distributed.process_group`, and
    see the same folders; all end with the same network. The same configuration, machine and number of
    processes give the same bytes on a CPU, interrupted or not.
    """
    workers = config.runtime.workers or cores()
    if config.train.batch % distributed.world_size():
        raise UserError(
            f"train.batch = {config.train.batch}: must be a multiple of {distributed.world_size()} processes"
        )
    every = read_class_folder(config.data.root, config.data.train, follow_links=config.data.follow_links)
    images, skipped = readable(every, workers, config.strict)
    sources = [f"{path.parent.name}/{path.name}" for path in images.paths]
    settings = _settings(config)
    settings |= {"classes": list(images.classes), "images": digest(sources, images.labels.tolist())}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)  # dropout and nn.Linear know no explicit generator
        network = _network(config, len(images.classes)).to(device)
        network.backbone.at(config.runtime.precision)
        if network.backbone.precision == torch.float16:  # auto's, for networks that do not learn
            network.backbone.at("bfloat16")
        settings["runtime.precision"] = network.backbone.precision_name  # others are refused
        checkpoint = config.output / "checkpoint.safetensors"
        progress = load_checkpoint(checkpoint, network, settings)
        if progress.epochs:
            logger.info("going on after %d of %d epochs", len(progress.epochs), config.train.epochs)

        def keep(progress: Progress) -> None:
            if distributed.is_first():
                save_checkpoint(checkpoint, network, progress, settings)
            last, text = progress.epochs[-1], "epoch %d of %d: size %d, loss %.3f, accuracy %.1f%%"
            done = len(progress.epochs)
            logger.info(text, done, config.train.epochs, last.size, last.loss, 100 * last.accuracy)

        batches = ClassBatches(images, config.train, config.seed, workers, device)
        epochs = learn(network, batches, batches.steps, config.train, progress, keep)
    network.eval().requires_grad_(False)
    metrics = {
        "classes": images.classes,
        "images": len(images),
        "skipped": skipped,
        "epochs": [vars(epoch) for epoch in epochs],
    }
    return Pretrained(network, metrics)


def _network(config: PretrainConfig, classes: int) -> PyramidClassifier:
    """The network before its first step; fc layers by torch's own generator."""
    backbone = Backbone(config.backbone.name)
    if config.backbone.weights == "random":
        backbone.randomise(config.seed)
    else:
        backbone.load_weights(config.backbone.weights)
    fc, pyramid = config.fc, config.pyramid
    widths, dropout = (fc.width,) * fc.layers, (0.0, *(fc.dropout,) * fc.layers)
    return PyramidClassifier(backbone, classes, widths, dropout, pyramid.levels, pyramid.mode)


def _settings(config: PretrainConfig) -> dict[str, object]:
    """The settings that the weights depend on, by dotted key."""
    whole, sections = {"seed", "runtime.precision"}, ("backbone.", "pyramid.", "fc.", "train.")
    return {key: value for key, value in dotted(config).items() if key in whole or key.startswith(sections)}


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write the weights under the names that ``backbone.weights=FILE`` expects."""
    write_whole(path, save(_named(backbone)))


def save_network(network: PyramidClassifier, path: Path) -> None:
    """Write the weights for ``backbone.weights=FILE``, without the layer of the classes. Where the network
    has fc6 and fc7, and `CLASSIFIERS` has names for them, the file also serves ``fc.weights=FILE``."""
    state = _named(network.backbone)
    names = CLASSIFIERS.get(network.backbone.name, {})
    if names and len(network.linear) == len(NAMES) + 1:
        for name, layer in zip(NAMES, network.linear, strict=False):
            state[f"{names[name]}.weight"] = layer.weight.detach().cpu()
            state[f"{names[name]}.bias"] = layer.bias.detach().cpu()
        state[LEVELS_KEY] = torch.tensor(network.pool.levels)
    write_whole(path, save(state))


def _named(backbone: Backbone) -> dict[str, Tensor]:
    prefix = backbone.recipe.prefix
    return {prefix + name: t.detach().cpu().contiguous() for name, t in backbone.layers.state_dict().items()}
