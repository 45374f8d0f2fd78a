"""The training, step by step as in the paper: windows, conv5 maps, fine-tuning, SVMs, box regression.

The convolutional layers stay as they were pre-trained; only what follows the pyramid learns (P section 4.1).
K is the number of classes. D is the length of a window's vector: pool5, or the output of the fc layer that is
scored. P is the paper, R the code that its authors released (see the package's docstring).

Each stage leaves its result in the cache under a key, a hash of everything it depends on (`training.keys`).
Long stages leave checkpoints too. A killed run that is started again ends in the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from spp_det.boxes import Ints
from spp_det.config.settings import Config
from spp_det.data.records import Dataset
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.features import WindowFeatures
from spp_det.model.head import FCHead
from spp_det.model.model_file import features_of
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs
from spp_det.runtime.cache import Arrays, Cache, check_form
from spp_det.runtime.devices import give_back_memory, peak_memory
from spp_det.runtime.files import unlinked
from spp_det.runtime.threads import cores
from spp_det.training import keys
from spp_det.training.checkpoint import Checkpoint, CommonCache, as_json, from_json
from spp_det.training.finetune import finetune
from spp_det.training.images import TrainingImages
from spp_det.training.inputs import Inputs, check_positives, model_settings, read_inputs
from spp_det.training.mining import Mining, train_svms
from spp_det.training.network import ready
from spp_det.training.regression import CachedRegressors, mean_vector_norm, train_regressors

logger = logging.getLogger(__name__)

NORM_IMAGES, NORM_WINDOWS = 200, 200  # at most; images, and windows of each, sampled for the mean norm


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training: the model, and the training's metrics."""

    detector: Detector
    metrics: dict[str, Any]


def train(
    config: Config, inputs: Inputs | None = None, begun: Callable[[Backbone], object] = lambda _: None
) -> Trained:
    """Train a detector, or go on with the training of these settings that was interrupted.

    Writes only the cache; the caller saves the model. ``inputs`` are the result of `read_inputs`, None reads
    them; they serve one training, since fine-tuning changes their fc layers in place. ``begun`` is called
    with the network before anything is computed. Of several processes each must call this, inside
    `distributed.process_group`, and each gets the same model; their caches may be one folder or a folder
    each. docs/numbers.md says what the model's bits depend on.

    >>> from pathlib import Path
    >>> from spp_det import load_config
    >>> config = load_config(Path("recipe.yaml"), ["data.root=photos", "output=runs/mine"])
    >>> detector = train(config).detector
    >>> detector.save("runs/mine/model.safetensors")
    """
    clock = _Clock()
    inputs = inputs or read_inputs(config)
    settings, dataset, head = model_settings(config), inputs.splits.train, inputs.head
    network = ready(inputs.network, config)
    begun(network)
    features = features_of(network, settings)
    images, draws = _images(dataset, features, config)  # of each: windows [N, 4], conv5 [C, h, w] a scale
    clock.lap("proposals_and_maps")
    stages = _Stages(config, dataset.classes, images, draws)
    softmax = None
    if config.finetune.enabled and head is not None:
        softmax = stages.finetune(head)  # fc6, fc7 and a new fc8 of K + 1 outputs
        clock.lap("finetune")
    head = _scored_layers(head, config, features)  # up to fc6 or fc7; None: pool5 itself is scored
    pool5_norm = stages.mean_norm(None)
    norm = pool5_norm if head is None else stages.mean_norm(head)
    clock.lap("norm")
    scorer: LinearSVMs | SoftmaxScorer
    if config.scorer == "softmax" and softmax is not None:
        scorer = softmax
    else:
        scorer = stages.svms(head, norm)  # [K, D], positives against hard negatives
        clock.lap("svm")
    regressors: tuple[BoxRegressor, ...] = ()
    if config.bbox.enabled:
        regressors = stages.regressors(pool5_norm)  # one a pass: pool5 -> a move for each class [K, 4]
        clock.lap("bbox")
    detector = Detector(dataset.classes, features, head, scorer, regressors, settings)
    metrics = {"images": len(images), "skipped": images.skipped, "precision": network.precision_name}
    metrics |= stages.figures
    return Trained(detector, metrics | {"seconds": clock.laps, "peak_memory_mb": peak_memory()})


def cache_of(config: Config) -> Cache:
    """The cache of a run: ``runtime.cache``, or the folder ``cache`` in its output."""
    return Cache(config.runtime.cache or unlinked(config.output, "cache"))


def _scored_layers(head: FCHead | None, config: Config, features: WindowFeatures) -> FCHead | None:
    """The fc layers up to ``fc.layer``, compressed if the settings say so, on the network's device."""
    if head is None or config.fc.layer == "pool5":
        return None
    head = head.up_to(config.fc.layer)
    head = head if config.fc.rank is None else head.compressed(config.fc.rank)
    return head.to(features.backbone.mean.device).at(features.backbone.precision)


@dataclass(frozen=True, eq=False)
class _Draws:
    """The random choices of a training, from its one seed.

    Attributes:
        sample: at most `NORM_IMAGES` pairs: an image's index, and the seed that draws its windows. The mean
            norm is measured on them.
        order: int64 ``[images]``, their indices in the order in which mining meets them.
        generator: draws the examples of the box regressors.
    """

    sample: list[tuple[int, int]]
    order: Ints
    generator: np.random.Generator

    @classmethod
    def of(cls, seed: int, images: int) -> _Draws:
        """The choices of a training on so many images."""
        generator = np.random.default_rng(seed)
        drawn = generator.permutation(images)[:NORM_IMAGES].tolist()
        seeds = generator.integers(2**32, size=len(drawn)).tolist()
        return cls(list(zip(drawn, seeds, strict=True)), generator.permutation(images), generator)


def _images(dataset: Dataset, features: WindowFeatures, config: Config) -> tuple[TrainingImages, _Draws]:
    """The training images: windows as ``config.proposals`` says, and their conv5 maps in the cache."""
    cache = cache_of(config)
    cache.sweep()
    workers = config.runtime.workers or cores()
    images = TrainingImages(dataset, features, config.proposals, cache, workers, config.strict)
    draws = _Draws.of(config.seed, len(images))
    while not images.make_maps(draws.order):  # images have vanished: choose again among the others
        draws = _Draws.of(config.seed, len(images))
    check_positives(dataset.classes, [image.record for image in images.images])
    give_back_memory()
    return images, draws


class _Stages:
    """The stages after the maps. Each takes its result from the cache, or makes it and leaves it there.

    Attributes:
        figures: the metrics of each stage, by the stage's name.
    """

    def __init__(
        self, config: Config, classes: tuple[str, ...], images: TrainingImages, draws: _Draws
    ) -> None:
        self.config = config
        self.classes = classes
        self.images = images
        self.draws = draws
        device = images.features.backbone.mean.device.type
        self.vectors = keys.vectors_key(images.key(), config.pyramid, device)
        self.cache = CommonCache(images.cache.folder)
        self.figures: dict[str, Any] = {}

    def finetune(self, head: FCHead) -> SoftmaxScorer:
        """Fine-tune the fc layers, in place: windows on objects against background (P section 4.1)."""
        settings, seed = self.config.finetune, self.config.seed
        key = keys.finetune_key(self.vectors, head, self.classes, settings, seed)
        softmax, self.figures["finetune"] = finetune(self.images, key, head, self.classes, settings, seed)
        return softmax

    def mean_norm(self, head: FCHead | None) -> float:
        """The mean Euclidean norm of window vectors: of pool5 (None), or of the head's outputs.

        SVMs and regressors scale their vectors so that this norm becomes 20 (R), or what the settings say.
        """
        sample = self.draws.sample

        def make() -> Arrays:
            return {"norm": np.array(mean_vector_norm(self.images.samples(sample, NORM_WINDOWS, head)))}

        def check(arrays: Arrays) -> None:
            check_form(arrays, norm=np.array(0.0))
            if not arrays["norm"] > 0:
                raise ValueError(f"norm is {arrays['norm']}")

        key = keys.norm_key(self.vectors, sample, NORM_WINDOWS, head)
        norm = float(self.cache.load_or_make("norms", key, make, check)["norm"])
        self.figures["mean_norm"] = norm
        return norm

    def svms(self, head: FCHead | None, norm: float) -> LinearSVMs:
        """One SVM a class, in one pass over the images (P section 4.1).

        Positives are the objects' own boxes (and windows near them, where ``svm.positive_iou`` is below 1);
        negatives are windows that the SVMs of the moment score too high.
        """
        images, order, settings = self.images, self.draws.order, self.config.svm
        dimension = images.features.dimension if head is None else head.dimension
        key = keys.svms_key(self.vectors, head, self.classes, order, norm, settings)
        checkpoint = Checkpoint(images.cache, "mining", key)

        def make() -> Arrays:
            read = partial(Mining.of, dimension=dimension, classes=len(self.classes), settings=settings)
            state = checkpoint.resume(read)
            done = 0 if state is None else state.images
            if done:
                logger.info("mining: going on after %d of %d images", done, len(order))
            positives = images.positives(settings.positive_iou, head)
            rest = images.stream(order[done:], head)
            svms, figures = train_svms(
                *(positives, rest, self.classes, dimension, norm, settings, state),
                after_image=lambda state: checkpoint.offer(state.arrays),
            )
            return {"weight": svms.weight.numpy(), "bias": svms.bias.numpy(), "figures": as_json(figures)}

        def check(arrays: Arrays) -> None:
            bias = np.zeros(len(self.classes), np.float32)
            check_form(arrays, weight=np.broadcast_to(bias[:, None], (len(bias), dimension)), bias=bias)
            if not isinstance(from_json(arrays, "figures"), dict):
                raise ValueError("its figures are no table")

        found = self.cache.load_or_make("svms", key, make, check)
        checkpoint.remove()
        self.figures["svm"] = from_json(found, "figures")
        return LinearSVMs(torch.from_numpy(found["weight"]), torch.from_numpy(found["bias"]))

    def regressors(self, norm: float) -> tuple[BoxRegressor, ...]:
        """One box regressor a pass, each for all classes: pool5 of windows near objects (P section 4.1)."""
        images, settings, generator = self.images, self.config.bbox, self.draws.generator
        dimension = images.features.dimension
        key = keys.regressors_key(self.vectors, norm, generator, settings)
        kept = CachedRegressors(self.cache, key, dimension, settings.passes)
        return train_regressors(
            *(images.windows(), images.distinct_vectors, self.classes, dimension, norm, settings, generator),
            *(kept, images.features.backbone.mean.device),
        )


class _Clock:
    """The seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note, under the name of a stage, the time since the previous stage ended."""
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self._last = now
        logger.info("%s took %.1f s", name, self.laps[name])
