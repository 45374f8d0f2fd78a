"""Non-maximum suppression on a CUDA device, for all classes in one launch and without waiting for the device.

A program suppresses the boxes of one class, in the order and by the rules of `spp_det.boxes.nms` and
`soft_nms`: its threads hold all boxes in registers, and every step takes the best of them. Hard suppression
computes IoUs as the CPU does and decides alike; the scores of soft suppression are equal to rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_BOXES = 2**14  # which the registers of a program hold
Kept = tuple[Tensor, Tensor, Tensor]


def suppress_by_triton(
    boxes: Tensor, scores: Tensor, threshold: float, sigma: float | None, lowest: float, each: int, most: int
) -> Kept:
    """Which boxes suppression leaves, best score first; the counterpart of `spp_det.boxes.Keep`.

    Args:
        boxes: float32 ``[N, 4]``, at most `MOST_BOXES`, shared by all classes.
        scores: float32 ``[K, N]``; -inf where a box is no candidate of the class.
        threshold: of hard suppression, the IoU above which a box goes.
        sigma: of soft suppression; None is hard suppression.
        lowest: what scores, also lowered ones, must exceed.
        each: the most boxes of a class that are kept; ``most``: of all classes.

    Returns ``[n]`` int64 boxes, int64 classes and float32 (lowered) scores with ``n = min(most, K * each)``
    whatever is kept: behind the kept ones the scores are -inf, and the numbers 0. Boxes of equal score keep
    the order of the classes, and in a class the order of the input.
    """
    classes, count = scores.shape
    found = torch.zeros((classes, each), dtype=torch.int64, device=boxes.device)
    lowered = torch.full((classes, each), -torch.inf, device=boxes.device)
    if count:
        block = triton.next_power_of_2(count)
        edges = boxes.T.contiguous()
        limits = (float(threshold), float(sigma or 1), float(lowest))
        with torch.cuda.device_of(boxes):
            _take[(classes,)](
                *(edges, scores.contiguous(), found, lowered, count, each, *limits, sigma is not None, block),
                num_warps=min(16, max(1, block // 256)),
                enable_fp_fusion=False,  # or the last bits of an IoU would differ from the CPU's
            )
    ranked, place = lowered.flatten().sort(descending=True, stable=True)
    ranked, place = ranked[:most], place[:most]
    return found.flatten()[place], torch.where(ranked > -torch.inf, place // each, 0), ranked


@triton.jit
def _take(
    edges,
    scores,
    found,
    lowered,
    count,
    each,
    threshold,
    sigma,
    lowest,
    soft: tl.constexpr,
    block: tl.constexpr,
):
    """Of one class: fill ``found`` and ``lowered`` from the front."""
    label = tl.program_id(0).to(tl.int64)
    box = tl.arange(0, block)
    there = box < count
    x1, y1 = tl.load(edges + box, there, 0.0), tl.load(edges + count + box, there, 0.0)
    x2, y2 = tl.load(edges + 2 * count + box, there, 0.0), tl.load(edges + 3 * count + box, there, 0.0)
    area = tl.maximum(x2 - x1, 0.0) * tl.maximum(y2 - y1, 0.0)
    first = tl.load(scores + label * count + box, there, float("-inf"))
    now = first
    hidden = tl.zeros(
        (block,), tl.float32
    )  # of each box, the sum of IoU^2 / sigma with those that were taken
    best, at = tl.max(now, 0, return_indices=True)
    step = 0
    while (step < each) & (best > lowest):
        tl.store(found + label * each + step, at.to(tl.int64))
        tl.store(lowered + label * each + step, best)
        left, top = tl.load(edges + at), tl.load(edges + count + at)
        right, bottom = tl.load(edges + 2 * count + at), tl.load(edges + 3 * count + at)
        size = tl.maximum(right - left, 0.0) * tl.maximum(bottom - top, 0.0)
        width = tl.minimum(right, x2) - tl.maximum(left, x1)
        height = tl.minimum(bottom, y2) - tl.maximum(top, y1)
        shared = width * height
        meets = (width > 0) & (height > 0)
        overlap = tl.where(meets, tl.div_rn(shared, size + area - shared), 0.0)
        if soft:
            hidden += overlap * overlap / sigma
            now = tl.where((now > lowest) & (hidden > 0), _less_probable(first, hidden), now)
        else:
            now = tl.where(overlap > threshold, float("-inf"), now)
        now = tl.where(box == at, float("-inf"), now)
        best, at = tl.max(now, 0, return_indices=True)
        step += 1


@triton.jit
def _less_probable(score, by):
    """``logit(exp(-by) * sigmoid(score))``, which is ``-by - log(exp(-score) + 1 - exp(-by))``."""
    series = by * (1 - by / 2 * (1 - by / 3 * (1 - by / 4 * (1 - by / 5))))
    gone = tl.where(by < 0.1, series, 1 - tl.exp(-by))
    shift = tl.maximum(-score, 0.0)  # so that no exponential overflows
    return -by - shift - tl.log(tl.exp(-score - shift) + gone * tl.exp(-shift))
