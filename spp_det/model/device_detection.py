"""Detection that stays on the device: from maps and windows to boxes, without waiting for it in between.

These are the steps of `spp_det.model.detector` in its words, as tensors of fixed sizes: an image keeps n
boxes whatever it shows, and those that are none have the score -inf. Nothing here asks the device for a
number, so that all kernels are queued while the network still computes. What comes back is one array for all
images.

The CPU's way differs in what suits it: it pools each distinct rectangle once, keeps only the pairs of a
window and a class above the threshold, and multiplies each vector with the weights of its own class. A device
that had to tell which those are would be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import MAX_LOG_GROWTH, Boxes, Floats
from spp_det.config.settings import Detection
from spp_det.data.records import Detections
from spp_det.model.bbox import BoxRegressor
from spp_det.model.features import ConvMap, SPPFeatures, WindowFeatures
from spp_det.model.geometry import Geometry
from spp_det.model.head import FCHead
from spp_det.model.pooling_accelerator import compiles_kernels
from spp_det.model.projection import REFERENCE_AREA
from spp_det.model.pyramid import plan_of
from spp_det.model.second_look import looks_of
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs
from spp_det.model.vectors import GPU_CHUNK_BYTES
from spp_det.runtime.devices import uploaded

Check = Callable[
    [str, Floats], None
]  # what numbers are called, and the numbers: raises where one is not finite


@dataclass(frozen=True, eq=False)
class DeviceDetection:
    """The parts of a detector, all on one device, which detect in images there.

    Attributes:
        features, head, scorer, regressors, limits: those of the `Detector`.
        check: called with what must be finite.
    """

    features: SPPFeatures
    head: FCHead | None
    scorer: LinearSVMs | SoftmaxScorer
    regressors: Sequence[BoxRegressor]
    limits: Detection
    check: Check

    def __call__(
        self, maps: Sequence[Sequence[ConvMap]], windows: Sequence[Boxes], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """The detections of each image, from its maps, its windows ``[N, 4]`` and its width and height."""
        if not all(np.isfinite(own).all() for own in windows):
            raise ValueError("windows must be finite numbers")
        parts = [self.found(*each) for each in zip(maps, windows, sizes, strict=True)]  # [n + 1, 6] each
        rows = torch.cat(parts).cpu().numpy()  # the one place that waits for the device
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [self._checked(part) for part in np.split(rows, ends)]

    def found(self, maps: Sequence[ConvMap], windows: Boxes, size: tuple[int, int]) -> Tensor:
        """Of one image ``[n + 1, 6]``: a row for each box, with its score, best first, and its label.

        The last row has 0 where all scores and boxes were finite numbers, in the order of `_checked`.
        """
        on_maps = Places(self.features, maps)
        boxes = uploaded(windows, self.device)  # [N, 4]
        pool5 = on_maps.pool(boxes)  # projection (appendix A) and pooling (P 2.2): [N, D]
        scores = self.score(pool5)  # [K, N]
        bad = [not_finite(scores)]
        if len(self.regressors) == 2:  # see `second_look`: move, score and move again
            kept, labels, best = self.suppress(boxes, scores, looks_of(self.limits))  # [m] each
            moved = self.move(self.regressors[0], pool5[kept], labels, boxes[kept])  # [m, 4]
            bad.append(not_finite(moved))
            pool5 = on_maps.pool(moved.nan_to_num(0, 0, 0))
            again = self.score(pool5).gather(0, labels[None])[0]  # [m]
            boxes = (moved + self.move(self.regressors[1], pool5, labels, moved)) / 2
            bad += [not_finite(again), not_finite(boxes)]
            scores = scores.new_full((len(scores), len(boxes)), -torch.inf)
            scores.scatter_(0, labels[None], ((best + again) / 2)[None])  # -inf where there is no box
        kept, labels, best = self.suppress(boxes, scores, self.limits)  # [n] each
        boxes = boxes[kept]
        if len(self.regressors) == 1:
            boxes = self.move(self.regressors[0], pool5[kept], labels, boxes)  # box regression
            bad.append(not_finite(boxes))
        inside = [boxes[:, axis::2].clamp(0, side) for axis, side in enumerate(size)]
        boxes = torch.stack(inside, dim=2).flatten(1)
        rows = torch.cat([boxes, best[:, None], labels[:, None].float()], dim=1)
        return torch.cat([rows, F.pad(torch.stack(bad), (0, 6 - len(bad)))[None]])

    @property
    def device(self) -> torch.device:
        return self.features.backbone.mean.device

    def score(self, pool5: Tensor) -> Tensor:
        """``[N, D] -> [K, N]``: fc layers, then SVMs or fc8 and softmax."""
        return self.scorer(pool5 if self.head is None else self.head(pool5)).T

    def suppress(self, boxes: Tensor, scores: Tensor, limits: Detection) -> tuple[Tensor, Tensor, Tensor]:
        """Of boxes ``[N, 4]`` and scores ``[K, N]`` the kept boxes, their labels and scores, ``[n]`` each."""
        from spp_det.model.suppression_triton import suppress_by_triton

        each, most = min(limits.max_per_image, len(boxes)), limits.max_all_classes
        return suppress_by_triton(
            boxes, scores, limits.nms, limits.soft_nms, limits.score_threshold, each, most
        )

    def move(self, regressor: BoxRegressor, pool5: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Boxes ``[n, 4]`` of classes ``[n]``, moved as their vectors ``[n, D]`` say (`decode_deltas`)."""
        every = F.linear(pool5, regressor.weight.flatten(0, 1), regressor.bias.flatten())  # [n, K * 4]
        deltas = every.view(len(boxes), -1, 4).take_along_dim(labels[:, None, None], 1)[:, 0]  # [n, 4]
        size = boxes[:, 2:] - boxes[:, :2]
        centre = boxes[:, :2] + size / 2 + deltas[:, :2] * size
        half = size * deltas[:, 2:].clamp(-MAX_LOG_GROWTH, MAX_LOG_GROWTH).exp() / 2
        return torch.cat([centre - half, centre + half], dim=1)

    def _checked(self, rows: npt.NDArray[np.float32]) -> Detections:
        """The detections of one image, from what `found` has put into rows."""
        names = ("scores", "boxes", "scores", "boxes") if len(self.regressors) == 2 else ("scores", "boxes")
        for name, number in zip(names, rows[-1], strict=False):
            self.check(name, number)
        there = rows[:-1][rows[:-1, 4] > -np.inf]
        return Detections(boxes=there[:, :4], labels=there[:, 5].astype(np.int64), scores=there[:, 4])


class Places:
    """The maps of one image as one list of cells, and where boxes lie in it.

    Appendix A in float64, as `spp_det.model.projection` has it: the same rectangles, one for each box.
    """

    def __init__(self, features: SPPFeatures, maps: Sequence[ConvMap]) -> None:
        every = [conv_map.cells.permute(1, 2, 0).flatten(0, 1) for conv_map in maps]
        self.features = features
        self.plan = plan_of(features.levels, features.mode)
        self.cells = features.normalised(every[0] if len(every) == 1 else torch.cat(every)).contiguous()
        heights, widths = zip(*(conv_map.cells.shape[1:] for conv_map in maps), strict=True)
        first = np.cumsum([0, *map(len, every)])[:-1]
        enlarged = np.array([conv_map.enlargement for conv_map in maps], np.float32)
        factors = np.array([float(np.sqrt(m.enlargement[0] * m.enlargement[1])) for m in maps])
        table = np.column_stack([widths, heights, enlarged, np.square(factors), first])
        self.table = uploaded(table.astype(np.float64), self.cells.device)  # [maps, 6]

    def of(self, boxes: Tensor) -> Tensor:
        """The places int64 ``[n, 6]`` of finite boxes float32 ``[n, 4]``: see `pool_places`."""
        sides = (boxes[:, 2:] - boxes[:, :2]).double()
        areas = (sides[:, 0] * sides[:, 1])[:, None] * self.table[:, 4]  # [n, maps]
        own = self.table[(areas - REFERENCE_AREA).abs().argmin(1)]  # of each box, its map's row
        scaled = (boxes * own[:, 2:4].float().repeat(1, 2)).double()
        start, stop = project(scaled, self.features.backbone.geometry, own[:, :2])
        return torch.cat([start, stop, own[:, 5:], own[:, :1]], dim=1).long()

    def pool(self, boxes: Tensor) -> Tensor:
        """The pool5 vectors float32 ``[n, D]`` of boxes ``[n, 4]``."""
        from spp_det.model.pooling_triton import pool_places

        vectors = pool_places(self.cells, self.of(boxes), self.plan, self.features.mode == "average")
        return self.features.to_length(vectors.flatten(1))


def project(boxes: Tensor, geometry: Geometry, cells: Tensor) -> tuple[Tensor, Tensor]:
    """`spp_det.model.projection.project` for float64 tensors ``[n, 4]``: first cells and ends ``[n, 2]``.

    ``cells [n, 2]`` are the width and the height of each box's map.
    """
    first_pixel, last_pixel = boxes[:, :2], boxes[:, 2:] - 1
    start = ((first_pixel - geometry.offset) / geometry.stride).floor() + 1
    stop = ((last_pixel - geometry.offset) / geometry.stride).ceil()
    start, stop = start.clamp(min=0), stop.minimum(cells)
    middle = ((first_pixel + last_pixel) / 2 - geometry.offset) / geometry.stride
    nearest = (middle + 0.5).floor().clamp(min=0).minimum(cells - 1)
    none = start >= stop
    return torch.where(none, nearest, start), torch.where(none, nearest + 1, stop)


def not_finite(numbers: Tensor) -> Tensor:
    """0, or NaN where one of the numbers is not finite."""
    return (numbers * 0).sum()


def fits_device(features: WindowFeatures, windows: Sequence[Boxes]) -> TypeGuard[SPPFeatures]:
    """Whether detection in these windows can stay on the features' device.

    Elsewhere the steps are those of the CPU: without Triton, for R-CNN, whose windows are warped on the CPU,
    and for pyramids or numbers of windows that the kernels do not take.
    """
    if not compiles_kernels(features.backbone.mean.device) or not isinstance(features, SPPFeatures):
        return False
    from spp_det.model import pooling_triton, suppression_triton

    counts = [len(own) for own in windows]
    most = min(suppression_triton.MOST_BOXES, GPU_CHUNK_BYTES // (4 * features.dimension))
    whole = sum(n * n for n in features.levels) <= pooling_triton.MOST_BINS
    return whole and min(counts, default=0) > 0 and max(counts) <= most
