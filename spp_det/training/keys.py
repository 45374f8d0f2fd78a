"""The keys under which the stages of a training keep their results: one place for all of them.

A key is a digest of everything that the result depends on, the version of the code included. A change of the
code that changes a result raises the version of its stage: no artefact of an older version is then found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spp_det.boxes import Ints
from spp_det.config.network import Pyramid
from spp_det.config.settings import SVM, BoxRegression, Detection, FineTune
from spp_det.model.head import FCHead
from spp_det.runtime.cache import digest
from spp_det.training.folds import Folds

VERSIONS = {
    "maps": 3,  # conv5 of given pixels, weights and scale
    "finetune": 2,  # the fc layers, of given vectors and settings
    "norms": 4,  # the mean norm of given vectors
    "svms": 7,  # the SVMs, of given windows, vectors and settings
    "regressors": 7,  # the box regressors, of given examples
    "probabilities": 1,  # the curves from scores to probabilities, of given detectors
}


def maps_key(image: str, scale: Sequence[object], network: Sequence[str], device: str) -> str:
    """The key of a conv5 map: the image's bytes, the scale, the network. A GPU rounds in its own way."""
    where = () if device == "cpu" else (device,)
    return digest(image, VERSIONS["maps"], scale, network, *where)


def vectors_key(images: str, pyramid: Pyramid, device: str) -> str:
    """The key of all pool5 vectors: the images with their windows and maps, and the pyramid."""
    return digest(images, pyramid.model_dump(mode="json"), device)


def finetune_key(vectors: str, head: FCHead, classes: Sequence[str], settings: FineTune, seed: int) -> str:
    """The key of the fine-tuned fc layers: ``head`` before the training, and the training's settings."""
    asked = settings.model_dump(mode="json", exclude={"enabled", "layer", "checkpoint_every"})
    return digest(VERSIONS["finetune"], vectors, head.digest(), classes, asked, seed)


def norm_key(vectors: str, samples: Sequence[tuple[int, int]], most: int, head: FCHead | None) -> str:
    """The key of the mean norm: images and seeds of the sample, and the most windows of an image."""
    return digest(VERSIONS["norms"], vectors, samples, most, head and head.digest())


def svms_key(
    vectors: str,
    head: FCHead | None,
    classes: Sequence[str],
    order: Ints,
    norm: float,
    settings: SVM,
    folds: Folds,
) -> str:
    """The key of the SVMs: the vectors that they learn from, their scale, the images' order and folds."""
    about = (classes, order.tolist(), norm, settings.model_dump(mode="json"), folds.key())
    return digest(VERSIONS["svms"], vectors, head and head.digest(), *about)


def regressors_key(
    vectors: str, norm: float, generator: np.random.Generator, settings: BoxRegression, folds: Folds
) -> str:
    """The key of the box regressors: the vectors, their scale, the generator that draws examples, folds."""
    state: Mapping[str, object] = generator.bit_generator.state
    about = (norm, state, settings.model_dump(mode="json"), folds.key())
    return digest(VERSIONS["regressors"], vectors, *about)


def probabilities_key(parts: Sequence[str], settings: Detection, sample: Ints) -> str:
    """The key of the curves from scores to probabilities: the keys of SVMs and regressors, the suppression,
    and the images that are looked at."""
    return digest(VERSIONS["probabilities"], parts, settings.model_dump(mode="json"), sample.tolist())
