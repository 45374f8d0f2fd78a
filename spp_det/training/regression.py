"""Training the box regressor: windows near an object learn to move onto it (P section 4.1, R)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spp_det.boxes import Ints, encode_deltas
from spp_det.config import BoxRegression
from spp_det.errors import UserError
from spp_det.model.bbox import BoxRegressor, fit_ridge
from spp_det.training.windows import LabelledWindows

VERSION = 1  # of what is fitted to given windows and vectors, and of mean norms; part of their cache keys
Fitted = dict[str, npt.NDArray[Any]]  # one class's ``weight`` and ``bias``


def train_regressor(
    windows: Sequence[LabelledWindows],
    vectors_of: Callable[[int, Ints], tuple[Tensor, Ints]],
    classes: tuple[str, ...],
    dimension: int,
    mean_norm: float,
    settings: BoxRegression,
    generator: np.random.Generator,
    once: Callable[[int, Callable[[], Fitted]], Fitted] = lambda _, fit: fit(),
) -> BoxRegressor:
    """Fit each class's regressor on windows that overlap one of its objects by ``settings.min_iou``.

    Args:
        windows: the labelled windows of every training image.
        vectors_of: for chosen windows ``[n]`` of an image, vectors ``[M, D]`` and the one of each ``[n]``.
        mean_norm: as for the SVMs; ``settings.ridge`` is meant for vectors of mean norm ``settings.norm``.
        generator: draws ``settings.max_windows`` examples where a class has more.
        once: gets a label and what fits its class, and returns what that gives, or gave in an earlier run.
    """
    pairs = [image.near(settings.min_iou) for image in windows]
    ridge = settings.ridge * (mean_norm / settings.norm) ** 2  # for the vectors as they are
    weight, bias = torch.zeros(len(classes), 4, dimension), torch.zeros(len(classes), 4)

    def fit(chosen: list[tuple[int, Ints, Ints]]) -> Fitted:
        vectors: list[Tensor] = []
        vector_of, targets = [np.zeros(0, np.int64)], []
        for image, index, objects in chosen:
            found, found_of = vectors_of(image, index)
            vector_of.append(found_of + sum(map(len, vectors)))
            vectors.append(found.half())
            boxes = windows[image].boxes
            targets.append(encode_deltas(boxes[index], boxes[objects]))  # objects come first among them
        weight, bias = fit_ridge(
            torch.cat(vectors), np.concatenate(targets), ridge, np.concatenate(vector_of)
        )
        return {"weight": weight.numpy(), "bias": bias.numpy()}

    for label in range(len(classes)):
        chosen = _draw(windows, pairs, label, settings.max_windows, generator)  # in every run alike
        if chosen:
            fitted = once(label, partial(fit, chosen))
            weight[label], bias[label] = torch.from_numpy(fitted["weight"]), torch.from_numpy(fitted["bias"])
    return BoxRegressor(weight, bias)


def _draw(
    windows: Sequence[LabelledWindows],
    pairs: Sequence[tuple[Ints, Ints]],
    label: int,
    most: int,
    generator: np.random.Generator,
) -> list[tuple[int, Ints, Ints]]:
    """At most that many (window, object) pairs of a class, as (image, windows, objects), image by image."""
    found: list[tuple[int, Ints, Ints]] = []
    for image, (index, objects) in enumerate(pairs):
        mine = windows[image].record.labels[objects] == label
        if mine.any():
            found.append((image, index[mine], objects[mine]))
    total = sum(len(index) for _, index, _ in found)
    if total <= most:
        return found
    keep = np.zeros(total, bool)
    keep[generator.choice(total, most, replace=False)] = True
    parts = np.split(keep, np.cumsum([len(index) for _, index, _ in found])[:-1])
    drawn = zip(found, parts, strict=True)
    return [(image, index[part], objects[part]) for (image, index, objects), part in drawn if part.any()]


def mean_vector_norm(images: Iterable[Tensor]) -> float:
    """Mean Euclidean norm of the vectors ``[n, D]`` of some images.

    Raises UserError where it is 0 or not finite: nothing can be learnt from such vectors.
    """
    norms = [vectors.norm(dim=1) for vectors in images]
    mean = float(torch.cat(norms).mean())
    if not 0 < mean < math.inf:
        raise UserError(f"backbone.weights: the features of the training images have mean norm {mean:g}")
    return mean
