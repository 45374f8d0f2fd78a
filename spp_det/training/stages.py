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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spp_det.config.settings import Config
from spp_det.data.records import Dataset
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.features import WindowFeatures
from spp_det.model.head import FCHead
from spp_det.model.model_file import features_of
from spp_det.model.probability import Probabilities
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import Hinge, LinearSVMs
from spp_det.runtime.cache import Arrays, Cache, check_form
from spp_det.runtime.devices import give_back_memory, peak_memory
from spp_det.runtime.distributed import world_size
from spp_det.runtime.files import unlinked
from spp_det.runtime.threads import cores
from spp_det.training import keys
from spp_det.training.checkpoint import Checkpoint, CommonCache, as_json, from_json
from spp_det.training.draws import NORM_WINDOWS, Draws
from spp_det.training.finetune import finetune
from spp_det.training.images import TrainingImages
from spp_det.training.inputs import Inputs, check_positives, model_settings, read_inputs
from spp_det.training.mining import FoldsOf, Mining, train_svms
from spp_det.training.network import ready, settled
from spp_det.training.pool import ExamplePool, memory_for
from spp_det.training.regression import CachedRegressors, mean_vector_norm, train_regressors
from spp_det.training.reliability import judged, learn_probabilities

logger = logging.getLogger(__name__)

FOLD_TOLERANCE = 1e-2  # of the duality gap of SVMs that only tell what scores mean


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training: the model, the training's metrics, and its settings without ``auto``."""

    detector: Detector
    metrics: dict[str, Any]
    config: Config


def train(
    config: Config, inputs: Inputs | None = None, begun: Callable[[Config], object] = lambda _: None
) -> Trained:
    """Train a detector, or go on with the training of these settings that was interrupted.

    Writes only the cache; the caller saves the model. ``inputs`` are the result of `read_inputs`, None reads
    them; they serve one training, since fine-tuning changes their fc layers in place. ``begun`` is called
    with the settings in which no ``auto`` is left, before anything is computed. Of several processes each
    must call this, inside `distributed.process_group`, and each gets the same model; their caches may be one
    folder or a folder each. docs/numbers.md says what the model's bits depend on.

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
    features = features_of(network, settings)
    scored = features if head is None or config.fc.layer == "pool5" else head.up_to(config.fc.layer)
    config = settled(config, network, memory_for(config.svm, dataset.records, scored.dimension))
    begun(config)
    images, draws = training_images(dataset, features, config)  # windows [N, 4], conv5 [C, h, w] a scale
    clock.lap("proposals_and_maps")
    stages = _Stages(config, dataset.classes, images, draws)
    softmax = None
    if config.finetune.enabled and head is not None:
        softmax = stages.finetune(head)  # fc6, fc7 and a new fc8 of K + 1 outputs
        clock.lap("finetune")
    head = scored_layers(head, config, features)  # up to fc6 or fc7; None: pool5 itself is scored
    pool5_norm = stages.mean_norm(None)
    norm = pool5_norm if head is None else stages.mean_norm(head)
    clock.lap("norm")
    scorers: list[LinearSVMs | SoftmaxScorer] = []  # of all images first, then without each fold of them
    if config.scorer == "softmax" and softmax is not None:
        scorers.append(softmax)
    else:
        scorers += stages.svms(head, norm)  # [K, D], positives against hard negatives
        clock.lap("svm")
    regressors: list[tuple[BoxRegressor, ...]] = [()] * len(scorers)
    if config.bbox.enabled:
        regressors = stages.regressors(pool5_norm)  # one a pass: pool5 -> a move for each class [K, 4]
        clock.lap("bbox")
    detector, *of_folds = (
        Detector(dataset.classes, features, head, *parts, settings)
        for parts in zip(scorers, regressors, strict=True)
    )
    if of_folds:
        detector.probability = stages.probability(of_folds)  # score -> probability, a curve for each class
        clock.lap("probability")
    metrics = {"images": len(images), "skipped": images.skipped, "precision": network.precision_name}
    metrics |= stages.figures
    metrics |= {"seconds": clock.laps, "peak_memory_mb": peak_memory()}
    return Trained(detector, metrics, config)


def cache_of(config: Config) -> Cache:
    """The cache of a run: ``runtime.cache``, or the folder ``cache`` in its output."""
    return bounded(config.runtime.cache or unlinked(config.output, "cache"), config)


def bounded(folder: Path, config: Config, sharers: int | None = None) -> Cache:
    """The cache in a folder, to which a run adds no map beyond ``runtime.maps_gb``.

    ``sharers`` processes fill it at once; None means those of `distributed`.
    """
    most = config.runtime.maps_gb
    return Cache(folder, None if most is None else {"maps": most * 1e9}, sharers or world_size())


def scored_layers(head: FCHead | None, config: Config, features: WindowFeatures) -> FCHead | None:
    """The fc layers up to ``fc.layer``, compressed if the settings say so, on the network's device."""
    if head is None or config.fc.layer == "pool5":
        return None
    head = head.up_to(config.fc.layer)
    head = head if config.fc.rank is None else head.compressed(config.fc.rank)
    return head.to(features.backbone.mean.device).at(features.backbone.precision)


def training_images(
    dataset: Dataset, features: WindowFeatures, config: Config
) -> tuple[TrainingImages, Draws]:
    """The training images: windows as ``config.proposals`` says, and their conv5 maps in the cache."""
    cache = cache_of(config)
    cache.sweep()
    workers = config.runtime.workers or cores()
    images = TrainingImages(dataset, features, config.proposals, cache, workers, config.strict)
    draws = Draws.of(config, len(images))
    flips = config.svm.flips and config.scorer == "svm"
    while not images.make_maps(draws.order, flips):  # images have vanished: choose again among the others
        draws = Draws.of(config, len(images))
    check_positives(dataset.classes, [image.record for image in images.images])
    give_back_memory()
    return images, draws


class _Stages:
    """The stages after the maps. Each takes its result from the cache, or makes it and leaves it there.

    Attributes:
        figures: the metrics of each stage, by the stage's name.
    """

    def __init__(
        self, config: Config, classes: tuple[str, ...], images: TrainingImages, draws: Draws
    ) -> None:
        self.config = config
        self.classes = classes
        self.images = images
        self.draws = draws
        device = images.features.backbone.mean.device.type
        self.vectors = keys.vectors_key(images.key(), config.pyramid, device)
        self.cache = CommonCache(images.cache.folder)
        self.figures: dict[str, Any] = {}
        self.keys: list[str] = []  # of SVMs and regressors

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
        sample = self.draws.norm_sample(self.images.features, head)

        def make() -> Arrays:
            return {"norm": np.array(mean_vector_norm(self.draws.norm_vectors(self.images, head)))}

        def check(arrays: Arrays) -> None:
            check_form(arrays, norm=np.array(0.0))
            if not arrays["norm"] > 0:
                raise ValueError(f"norm is {arrays['norm']}")

        key = keys.norm_key(self.vectors, sample, NORM_WINDOWS, head)
        norm = float(self.cache.load_or_make("norms", key, make, check)["norm"])
        self.figures["mean_norm"] = norm
        return norm

    def svms(self, head: FCHead | None, norm: float) -> list[LinearSVMs]:
        """One SVM a class, in one pass over the images (P section 4.1); then those without each fold.

        Positives are the objects' own boxes (and windows near them, where ``svm.positive_iou`` is below 1);
        negatives are windows that the SVMs of the moment score too high.
        """
        images, order, settings = self.images, self.draws.order, self.config.svm
        folds = self.draws.folds
        dimension = images.features.dimension if head is None else head.dimension
        key = keys.svms_key(self.vectors, head, self.classes, order, norm, settings, folds)
        self.keys.append(key)
        checkpoint = Checkpoint(images.cache, "mining", key)

        views = images.views(order, settings.flips)
        teaching = images.views(images.teaching(), settings.flips)
        fold_of = np.tile(folds.of, 2)  # of an image and of the mirrored one

        def make() -> Arrays:
            read = partial(Mining.of, dimension=dimension, classes=len(self.classes), settings=settings)
            state = checkpoint.resume(read)
            done = 0 if state is None else state.images
            if done:
                logger.info("mining: going on after %d of %d images", done, len(views))
            positives = images.positives(settings.positive_iou, head, settings.flips)
            if state is not None:
                state.remake(positives, images.stream(views[state.mined()], head))
            rest = images.stream(views[done:], head)
            found: list[LinearSVMs] = []

            def fit_folds(pool: ExamplePool, objective: Hinge) -> None:
                rough = max(settings.tolerance, FOLD_TOLERANCE)
                found.extend(pool.fit_without(fold, objective, rough).svms for fold in range(folds.count))

            svms, figures = train_svms(
                *(positives, rest, self.classes, dimension, norm, settings, state),
                after_image=lambda state: checkpoint.offer(state.arrays),
                at_end=fit_folds,
                folds=FoldsOf(*(fold_of[each].tolist() for each in (teaching, views))),
            )
            found.insert(0, svms)
            weights = {"weight": torch.stack([each.weight for each in found]).numpy()}
            weights |= {"bias": torch.stack([each.bias for each in found]).numpy()}
            return weights | {"figures": as_json(figures)}

        def check(arrays: Arrays) -> None:
            bias = np.zeros((1 + folds.count, len(self.classes)), np.float32)
            check_form(arrays, weight=np.broadcast_to(bias[..., None], (*bias.shape, dimension)), bias=bias)
            if not isinstance(from_json(arrays, "figures"), dict):
                raise ValueError("its figures are no table")

        found = self.cache.load_or_make("svms", key, make, check)
        checkpoint.remove()
        self.figures["svm"] = from_json(found, "figures")
        pairs = zip(torch.from_numpy(found["weight"]), torch.from_numpy(found["bias"]), strict=True)
        return [LinearSVMs(weight, bias) for weight, bias in pairs]

    def regressors(self, norm: float) -> list[tuple[BoxRegressor, ...]]:
        """One box regressor a pass, each for all classes: pool5 of windows near objects (P section 4.1); then
        those without each fold."""
        images, settings, generator = self.images, self.config.bbox, self.draws.generator
        dimension = images.features.dimension
        folds = self.draws.folds
        key = keys.regressors_key(self.vectors, norm, generator, settings, folds)
        self.keys.append(key)
        kept = CachedRegressors(self.cache, key, dimension, settings.passes, folds.count)
        learnt = (images.windows(), images.distinct_vectors, self.classes, dimension, norm)
        return train_regressors(
            *learnt, settings, generator, kept, folds, images.features.backbone.mean.device
        )

    def probability(self, detectors: Sequence[Detector]) -> Probabilities | None:
        """What scores mean, by the detections of each fold's detector in images of that fold."""
        draws = self.draws
        key = keys.probabilities_key(self.keys, self.config.detection, draws.judged)

        def make() -> Arrays:
            found = judged(self.images, draws.judged, draws.folds, detectors)
            return learn_probabilities(found, self.classes, draws.folds.count)

        def check(arrays: Arrays) -> None:
            size = len(self.classes) if len(arrays.get("slope", ())) else 0
            curve = np.zeros(size, np.float32)
            check_form(arrays, slope=curve, intercept=curve)
            if not isinstance(from_json(arrays, "figures"), dict):
                raise ValueError("its figures are no table")

        found = self.cache.load_or_make("probabilities", key, make, check)
        self.figures["probability"] = from_json(found, "figures")
        return Probabilities(found["slope"], found["intercept"]) if len(found["slope"]) else None


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
