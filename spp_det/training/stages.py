"""The order of the training: data, proposals, maps, fine-tuning, SVMs, box regression.

Each stage leaves its result in the cache, under the key of all that it depends on; the long ones leave
checkpoints on the way. A run that was killed anywhere goes on from there, to the same bytes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spp_det.boxes import Ints
from spp_det.config.settings import SVM, Config, Data
from spp_det.data.coco import read_coco
from spp_det.data.joined import read_voc_splits
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector, Scorer, features_of
from spp_det.model.features import WindowFeatures
from spp_det.model.head import FCHead
from spp_det.model.model_file import Settings
from spp_det.model.svm import LinearSVMs
from spp_det.runtime import distributed
from spp_det.runtime.cache import Arrays, Cache, check_form, digest
from spp_det.runtime.devices import choose_device, give_back_memory, peak_memory
from spp_det.runtime.progress import track
from spp_det.runtime.threads import cores
from spp_det.training import mining, regression
from spp_det.training.checkpoint import Checkpoint, CommonCache
from spp_det.training.finetune import finetune
from spp_det.training.images import TrainingImages
from spp_det.training.regression import Fitted, Which, mean_vector_norm, train_regressors

logger = logging.getLogger(__name__)

NORM_IMAGES, NORM_WINDOWS = 200, 200  # sampled for the mean norm of the vectors


def read_dataset(data: Data, split: str | Sequence[str], classes: tuple[str, ...] | None = None) -> Dataset:
    """A split of the configured data set, or several joined; ``classes`` to insist on, or None for theirs."""
    splits = [split] if isinstance(split, str) else split
    if data.format == "voc":
        return read_voc_splits(data.root, splits, classes, follow_links=data.follow_links)
    (split,) = splits
    dataset = read_coco(split, data.root, follow_links=data.follow_links)
    if classes is not None and classes != dataset.classes:
        raise UserError(
            f"data.classes: {split} has the categories {', '.join(dataset.classes)}, in this order; "
            "a COCO file is learned whole, so leave data.classes out"
        )
    return dataset


def cache_of(config: Config) -> Cache:
    """Where a run keeps what costs time."""
    return Cache(config.runtime.cache or config.output / "cache")


def _check_positives(classes: Sequence[str], records: Sequence[Record]) -> None:
    """Raise UserError for a class without an object to learn from, before hours of work rather than after."""
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


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training ends in: the model, and what to know about how it came to be."""

    detector: Detector
    metrics: dict[str, Any]


def train(config: Config) -> Trained:
    """Train a detector, from wherever an earlier call with these settings was interrupted.

    Writes only the cache; the caller saves the model. Several processes are all to call it, inside
    `distributed.process_group`, and all get the same model. Their caches may be one folder or a folder each.

    >>> from pathlib import Path
    >>> from spp_det import load_config
    >>> config = load_config(Path("recipe.yaml"), ["data.root=photos", "output=runs/mine"])
    >>> detector = train(config).detector
    >>> detector.save("runs/mine/model.safetensors")
    """
    clock = _Clock()
    dataset = read_dataset(config.data, config.data.train, config.data.classes)
    _check_positives(dataset.classes, dataset.records)
    workers = config.runtime.workers or cores()
    device = distributed.own_device(choose_device(config.runtime.device))
    settings = Settings(
        features=config.features,
        proposals=config.proposals,
        backbone=config.backbone,
        pyramid=config.pyramid,
        fc=config.fc,
        scorer=config.scorer,
        detection=config.detection,
    )
    backbone = Backbone(config.backbone.name).load_weights(config.backbone.weights, config.seed)
    backbone.to(device).at(config.runtime.precision)
    features = features_of(backbone, settings)
    cache = cache_of(config)
    cache.sweep()
    common = CommonCache(cache.folder)
    images = TrainingImages(dataset, features, config.proposals, cache, workers, config.strict)
    whole = False
    while not whole:  # where images have vanished the others are drawn as if those had never been there
        generator = np.random.default_rng(config.seed)
        drawn = generator.permutation(len(images))[:NORM_IMAGES].tolist()
        seeds = generator.integers(2**32, size=len(drawn))
        order = generator.permutation(len(images))
        whole = images.make_maps(order)
    _check_positives(dataset.classes, [image.record for image in images.images])
    give_back_memory()
    clock.lap("proposals_and_maps")
    head = _head(config, features)
    metrics: dict[str, Any] = {"images": len(images), "skipped": images.skipped}
    vectors_key = digest(images.key(), config.pyramid.model_dump(mode="json"))
    if config.finetune.enabled and head is not None:
        softmax, metrics["finetune"] = finetune(
            images, vectors_key, head, dataset.classes, config.finetune, config.seed
        )
        clock.lap("finetune")
    if head is not None and config.fc.layer != "pool5":
        head = head.up_to(config.fc.layer)
        head = head if config.fc.rank is None else head.compressed(config.fc.rank)
        head.to(device).at(backbone.precision)
    owners = images.owners(drawn)

    def sampled() -> Iterator[Tensor]:
        samples = list(zip(drawn, seeds, owners, strict=True))
        for index, seed, owner in track(samples, "length of the vectors"):
            if owner == distributed.rank():
                yield images.sample(index, NORM_WINDOWS, np.random.default_rng(seed))

    vectors_key = digest(vectors_key, device.type)
    head_key = None if head is None else head.digest()
    drawn_key = digest(vectors_key, regression.VERSION, drawn, seeds.tolist(), NORM_WINDOWS)
    pool5_norm = _norm(common, digest(drawn_key), sampled, owners)
    norm = pool5_norm
    if head is not None:
        norm = _norm(common, digest(drawn_key, head_key), lambda: map(head, sampled()), owners)
    metrics["mean_norm"] = norm
    clock.lap("norm")
    if config.scorer == "softmax":
        scorer: Scorer = softmax
    else:
        key = digest(
            *(mining.VERSION, vectors_key, head_key, dataset.classes, order.tolist(), norm),
            config.svm.model_dump(mode="json"),
        )
        scorer, metrics["svm"] = _svms(images, key, head, order, dataset.classes, norm, config.svm)
        clock.lap("svm")
    regressors: tuple[BoxRegressor, ...] = ()
    if config.bbox.enabled:
        key = digest(
            *(regression.VERSION, vectors_key, pool5_norm, generator.bit_generator.state),
            config.bbox.model_dump(mode="json"),
        )
        regressors = train_regressors(
            images.windows(),
            images.distinct_vectors,
            dataset.classes,
            features.dimension,
            pool5_norm,
            config.bbox,
            generator,
            _Regressors(common, key, features.dimension, config.bbox.passes),
        )
        clock.lap("bbox")
    detector = Detector(dataset.classes, features, head, scorer, regressors, settings)
    return Trained(detector, metrics | {"seconds": clock.laps, "peak_memory_mb": peak_memory()})


def _head(config: Config, features: WindowFeatures) -> FCHead | None:
    """The fully connected layers as they start, on the CPU, those that fine-tuning alone sees too; None where
    windows are scored by pool5 itself."""
    fc, backbone = config.fc, features.backbone
    if fc.layer == "pool5":
        return None
    layer = (config.finetune.layer if config.finetune.enabled else None) or fc.layer
    head = FCHead(layer, features.dimension, fc.width, seed=None)
    return head.load_weights(fc.weights, backbone.name, features.levels, backbone.channels, config.seed)


def _norm(
    cache: CommonCache, key: str, sampled: Callable[[], Iterable[Tensor]], owners: Sequence[int]
) -> float:
    """The mean norm of sampled vectors, from the cache or computed."""

    def compute() -> Arrays:
        return {"norm": np.array(mean_vector_norm(sampled(), owners))}

    def check(arrays: Arrays) -> None:
        check_form(arrays, norm=np.array(0.0))
        if not arrays["norm"] > 0:
            raise ValueError(f"norm is {arrays['norm']}")

    return float(cache.load_or_make("norms", key, compute, check)["norm"])


def _svms(
    images: TrainingImages,
    key: str,
    head: FCHead | None,
    order: Ints,
    classes: tuple[str, ...],
    norm: float,
    settings: SVM,
) -> tuple[LinearSVMs, dict[str, object]]:
    """The SVMs and their figures: from the cache, or mined, from where the last run was stopped."""
    checkpoint = Checkpoint(images.cache, "mining", key)
    dimension = images.features.dimension if head is None else head.dimension
    shapes = {"weight": (len(classes), dimension), "bias": (len(classes),)}

    def mine() -> Arrays:
        state = _state(checkpoint, dimension, len(classes), settings)
        done = 0 if state is None else state.images
        if done:
            logger.info("mining: going on after %d of %d images", done, len(order))
        svms, figures = mining.train_svms(
            images.positives(settings.positive_iou, head),
            images.stream(order, "hard negatives", head, done),
            classes,
            dimension,
            norm,
            settings,
            state,
            lambda state: checkpoint.offer(state.arrays),
        )
        text = np.frombuffer(json.dumps(figures).encode(), np.uint8)
        return {"weight": svms.weight.numpy(), "bias": svms.bias.numpy(), "figures": text}

    forms = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}

    def check(arrays: Arrays) -> None:
        check_form(arrays, **forms)
        if not isinstance(_figures(arrays), dict):
            raise ValueError("its figures are none")

    found = CommonCache(images.cache.folder).load_or_make("svms", key, mine, check)
    checkpoint.remove()
    svms = LinearSVMs(torch.from_numpy(found["weight"]), torch.from_numpy(found["bias"]))
    return svms, _figures(found)


def _figures(arrays: Arrays) -> Any:
    """The JSON in an artefact. Raises ValueError where there is none."""
    try:
        return json.loads(arrays["figures"].tobytes())
    except (KeyError, RecursionError) as error:
        raise ValueError("its figures are none") from error


def _state(checkpoint: Checkpoint, dimension: int, classes: int, settings: SVM) -> mining.Mining | None:
    """Where the mining was stopped. A function of its own, so that the arrays, copied, do not live on."""
    arrays = checkpoint.load()
    try:
        return None if arrays is None else mining.Mining.of(arrays, dimension, classes, settings)
    except ValueError as error:
        logger.warning("mining: %s is damaged (%s); beginning anew", checkpoint.path, error)
        return None


class _Regressors:
    """What was fitted for (label, pass) to vectors ``[D]``, in the cache."""

    def __init__(self, cache: CommonCache, key: str, dimension: int, passes: int) -> None:
        self.cache = cache
        self.key = key
        self.passes = passes
        self.forms = {
            "weight": np.broadcast_to(np.float32(0), (4, dimension)),
            "bias": np.zeros(4, np.float32),
        }

    def get(self, which: Which) -> Fitted | None:
        def check(arrays: Arrays) -> None:
            check_form(arrays, **self.forms)
            left_out = arrays.get("left_out")
            if which[1] < self.passes - 1 and (left_out is None or left_out.shape[1:] != (4,)):
                raise ValueError("left_out is not [n, 4]")

        return self.cache.load_checked("regressors", digest(self.key, which), check)

    def __setitem__(self, which: Which, fitted: Fitted) -> None:
        self.cache.store("regressors", digest(self.key, which), fitted)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self._last = now
        logger.info("%s took %.1f s", name, self.laps[name])
