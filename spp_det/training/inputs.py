"""What a training starts from: its data and its pre-trained weights, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spp_det.config.settings import Config
from spp_det.data.dataset import Splits, read_splits
from spp_det.data.records import Record
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.features import WindowFeatures
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelSettings, features_of


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a training starts from, read and checked.

    Attributes:
        splits: the data.
        network: with its pre-trained weights, on the CPU.
        head: the pre-trained fully connected layers, or None where pool5 itself is scored.
    """

    splits: Splits
    network: Backbone
    head: FCHead | None


def read_inputs(config: Config) -> Inputs:
    """Read the data and the weights of a training; nothing is computed or written.

    Raises UserError for everything that is wrong with either, and for a class without a positive.
    """
    splits = read_splits(config.data, config.seed)
    check_positives(splits.train.classes, splits.train.records)
    network = Backbone(config.backbone.name, config.backbone.stride)
    network.load_weights(config.backbone.weights, config.seed)
    return Inputs(splits, network, pretrained_fc(config, features_of(network, model_settings(config))))


def model_settings(config: Config) -> ModelSettings:
    """The part of a configuration that a model file keeps."""
    return ModelSettings(**{name: getattr(config, name) for name in ModelSettings.model_fields})


def check_positives(classes: Sequence[str], records: Sequence[Record]) -> None:
    """Raise UserError for a class without a positive: an object that is neither difficult nor a crowd.

    The objects themselves are positives of every later stage, so no stage needs to check again.
    """
    counts = np.zeros(len(classes), np.int64)
    for record in records:
        np.add.at(counts, record.labels[~(record.difficult | record.crowd)], 1)
    if not len(counts):
        raise UserError("the training annotations hold no object, so there is no class to learn")
    if not counts.all():
        raise UserError(
            f"class {classes[int(counts.argmin())]!r} has no positive example in the training images: no "
            "object of it that is neither difficult nor a crowd"
        )


def pretrained_fc(config: Config, features: WindowFeatures) -> FCHead | None:
    """The pre-trained fully connected layers on the CPU, with layers that only the fine-tuning needs.

    None where pool5 itself is scored.
    """
    fc, backbone = config.fc, features.backbone
    if fc.layer == "pool5":
        return None
    layer = (config.finetune.layer if config.finetune.enabled else None) or fc.layer
    head = FCHead(layer, features.dimension, fc.width, seed=None)
    return head.load_weights(fc.weights, backbone.name, features.levels, backbone.channels, config.seed)
