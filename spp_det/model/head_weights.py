"""Pre-trained weights of fc6 and fc7, laid out for the pyramid.

fc6 of an ImageNet network was trained on one ``n x n`` grid of conv5, which is one level of the pyramid; the
weights of the other levels start small and random. fc6 of `spp-det pretrain` was trained on a whole pyramid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from spp_det.errors import UserError
from spp_det.model.pyramid import num_bins
from spp_det.model.weights import check_finite, state_of

Layer = Literal["fc6", "fc7"]

CLASSIFIERS: dict[str, Mapping[Layer, str]] = {
    "alexnet": {"fc6": "classifier.1", "fc7": "classifier.4"},
    "vgg16": {"fc6": "classifier.0", "fc7": "classifier.3"},
    "zf5": {"fc6": "fc6", "fc7": "fc7"},
}
"""For each backbone whose whole network has fc6 and fc7: the layers' names in its state dict."""

IMAGENET = ("alexnet", "vgg16")
"""The backbones in `CLASSIFIERS` whose weights torchvision offers; ZF-5's come from `spp-det pretrain`."""

LEVELS_KEY = "pyramid.levels"
"""The key of the levels that fc6 was trained on, int64 ``[L]``, in a state dict of `spp-det pretrain`.

The columns of fc6 are level by level in this order, and inside a level in torchvision's order. Without the
key, fc6 was trained on one grid."""

NEW_BINS = 0.1
"""Standard deviation of the weights of bins that were not pre-trained, divided by the root mean square of the
pre-trained weights, which differs between networks. A tenth of the amplitude is a hundredth of the variance:
what was learnt on ImageNet decides at first. Above zero, so that the new bins take part from the start."""


def load_layers(
    layers: Mapping[Layer, nn.Linear],
    weights: str,
    backbone_name: str,
    levels: Sequence[int],
    channels: int,
    seed: int,
) -> None:
    """Fill in fc6, and fc7 where it is among the layers; see `FCHead.load_weights`."""
    if backbone_name not in CLASSIFIERS:
        raise UserError(
            f"fc.weights: nobody knows what fc6 and fc7 of {backbone_name} are called in {weights}; "
            f"that is known for {', '.join(CLASSIFIERS)}: say 'random'"
        )
    source = _Source(weights, backbone_name)
    trained = source.levels(channels)
    if missing := [n for n in trained if n not in levels]:
        raise UserError(
            f"pyramid.levels = {list(levels)}: fc6 of {backbone_name} was trained on "
            f"{', '.join(f'{n} x {n}' for n in trained)} bins, so put {missing[0]} among them, "
            "or set fc.weights=random"
        )
    fc6, width = layers["fc6"], layers["fc6"].out_features
    pretrained = source.linear("fc6", width, num_bins(trained) * channels)
    _fill_by_bins(fc6, *pretrained, trained, levels, channels, seed)
    if "fc7" in layers:
        weight, bias = source.linear("fc7", width, width)
        layers["fc7"].weight.data.copy_(weight)
        layers["fc7"].bias.data.copy_(bias)


class _Source:
    """fc6 and fc7 in the state dict of a whole network: finds them and checks their shapes and numbers."""

    def __init__(self, weights: str, backbone_name: str) -> None:
        """Download or read the state dict. Raises UserError where that fails."""
        self._state = state_of(weights, backbone_name, "fc.weights")
        self._refusal = f"fc.weights: {weights} does not fit {backbone_name}"
        self._backbone_name = backbone_name

    def levels(self, channels: int) -> tuple[int, ...]:
        """The levels that fc6 was trained on: for an ImageNet network one ``n x n`` grid."""
        stated = self._state.get(LEVELS_KEY)
        if isinstance(stated, Tensor):
            if stated.is_floating_point() or stated.is_complex():
                raise UserError(f"{self._refusal}: {LEVELS_KEY} is {stated.dtype}, not of integers")
            levels = tuple(int(n) for n in stated.flatten().tolist())
            if not levels or min(levels) < 1 or len(set(levels)) != len(levels):
                raise UserError(f"{self._refusal}: {LEVELS_KEY} is {list(levels)}")
            return levels
        key, weight = self._tensor("fc6", "weight", dimensions=2)
        grid = math.isqrt(weight.shape[1] // channels)
        if grid < 1 or grid * grid * channels != weight.shape[1]:
            raise UserError(
                f"{self._refusal}: {key} is {list(weight.shape)}, not one square grid of {channels} channels"
            )
        return (grid,)

    def linear(self, layer: Layer, width: int, inputs: int) -> tuple[Tensor, Tensor]:
        """Weight ``[width, inputs]`` and bias ``[width]`` of a layer, in torchvision's order."""
        weight_key, weight = self._tensor(layer, "weight", dimensions=2)
        bias_key, bias = self._tensor(layer, "bias", dimensions=1)
        if layer == "fc6" and len(weight) != width:
            raise UserError(
                f"fc.width = {width}: fc6 of {self._backbone_name} has {len(weight)} outputs, "
                f"so set fc.width={len(weight)} or fc.weights=random"
            )
        for key, tensor, shape in ((weight_key, weight, (width, inputs)), (bias_key, bias, (width,))):
            if tensor.shape != shape:
                raise UserError(f"{self._refusal}: {key} is {list(tensor.shape)}, not {list(shape)}")
        return weight, bias

    def _tensor(self, layer: Layer, kind: str, dimensions: int) -> tuple[str, Tensor]:
        key = f"{CLASSIFIERS[self._backbone_name][layer]}.{kind}"
        tensor: object = self._state.get(key)
        if tensor is None:
            raise UserError(f"{self._refusal}: it has no {key}")
        if not isinstance(tensor, Tensor) or tensor.ndim != dimensions or not tensor.is_floating_point():
            raise UserError(f"{self._refusal}: {key} is not a tensor of {dimensions} dimensions")
        check_finite(tensor, f"{self._refusal}: {key}")
        return key, tensor


@torch.no_grad()
def _fill_by_bins(
    fc6: nn.Linear,
    weight: Tensor,
    bias: Tensor,
    trained: Sequence[int],
    levels: Sequence[int],
    channels: int,
    seed: int,
) -> None:
    """Lay pre-trained columns where the same bins are in the pyramid; draw the other columns by the seed.

    The columns of ``weight [out, C * bins]`` are in the order level, channel, row, column, for the levels
    ``trained``; the columns of fc6 are in the order bin, channel, for ``levels``.
    """
    outputs = len(weight)
    by_level = weight.split([channels * n * n for n in trained], dim=1)
    columns = dict(zip(trained, by_level, strict=True))  # level -> [out, C * n * n]
    sigma = NEW_BINS * float(torch.linalg.vector_norm(weight.float())) / weight.numel() ** 0.5
    generator = torch.Generator().manual_seed(seed)
    bins = fc6.weight.view(outputs, -1, channels).split([n * n for n in levels], dim=1)
    for n, out in zip(levels, bins, strict=True):
        if n in columns:
            out.copy_(columns[n].view(outputs, channels, -1).transpose(1, 2))
        else:
            out.normal_(0, sigma, generator=generator)
    fc6.bias.copy_(bias)
