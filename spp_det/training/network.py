"""The network of a training, and the precision that it computes in: one for all processes of a run."""

from __future__ import annotations

import logging
from typing import get_args

import numpy as np

from spp_det.config.settings import SVM, Config
from spp_det.config.values import Precision
from spp_det.model.backbone import Backbone
from spp_det.runtime import distributed
from spp_det.runtime.devices import choose_device

logger = logging.getLogger(__name__)


def ready(network: Backbone, config: Config) -> Backbone:
    """The same network, on the configured device and at its precision.

    All processes compute at the precision that the first one chooses: their machines may differ.
    """
    network.to(choose_device(config.runtime.device)).at(config.runtime.precision)
    names = get_args(Precision)
    chosen = distributed.from_first({"precision": np.array(names.index(network.precision_name))})
    assert chosen is not None
    precision: Precision = names[int(chosen["precision"])]
    network = network if network.precision_name == precision else network.at(precision)
    logger.info("%s computes in %s: %s", network.name, network.precision_name, network.reason)
    return network


def settled(config: Config, network: Backbone, svm: SVM) -> Config:
    """The configuration with the network's precision in place of ``auto``, and these settings of the SVMs:
    another machine keeps to both."""
    runtime = config.runtime.model_copy(update={"precision": network.precision_name})
    return config.model_copy(update={"runtime": runtime, "svm": svm})
