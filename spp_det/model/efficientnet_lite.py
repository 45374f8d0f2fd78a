"""EfficientNet-Lite (Tan and Le 2019, without gates and with ReLU6), up to its sixth stage of seven.

The layers have the names that the published PyTorch weights use. TensorFlow, where the weights were learnt,
pads a side of an even number of cells by one cell less at its start than at its end, for filters of stride 2.
Here both ends get ``k // 2`` cells. Each filter of stride 2 then looks one cell further to the left and up:
the four before the sixth stage by 1 + 2 + 4 + 8 = 15 pixels together, all five by 31. So the network is the
same, and its map is shifted; the shift is derived from the layers as they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

# A stage's blocks, kernel, stride, expansion, channels (Tan and Le 2019, table 1), at width and depth 1.
_STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192)),
)
_STEM = 32  # channels, at every width


def efficientnet_lite(width: float, depth: float, to_the_expansion: bool = False) -> nn.Module:
    """The layers up to the end of the sixth stage: stride 32, negative in places.

    Args:
        width: factor of the channels, which are rounded to a multiple of 8 but lose no more than a tenth.
        depth: factor of the blocks of every stage but the first, rounded up.
        to_the_expansion: end at the expansion that opens the sixth stage and its stride of 2: stride 16, no
            cell below 0 or above 6.
    """
    blocks: list[nn.Module] = []
    inputs = _STEM
    for index, (count, kernel, stride, expansion, channels) in enumerate(_STAGES):
        outputs = _rounded(width * channels)
        if to_the_expansion and index == len(_STAGES) - 1:
            blocks.append(_Expansion(inputs, inputs * expansion))
            break
        for number in range(math.ceil(depth * count) if index else count):
            blocks.append(_MBConv(inputs, outputs, kernel, 1 if number else stride, expansion))
            inputs = outputs
    stem = nn.Conv2d(3, _STEM, 3, stride=2, padding=1, bias=False)
    parts: dict[str, nn.Module] = {
        "_conv_stem": stem,
        "_bn0": _norm(_STEM),
        "relu": nn.ReLU6(inplace=True),
        "_blocks": nn.Sequential(*blocks),
    }
    return nn.Sequential(OrderedDict(parts))


class _Expansion(nn.Sequential):
    """The 1 x 1 convolution that an inverted residual block begins with."""

    def __init__(self, inputs: int, outputs: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
        parts: dict[str, nn.Module] = {"_expand_conv": convolution, "_bn0": _norm(outputs)}
        super().__init__(OrderedDict(parts, relu=nn.ReLU6(inplace=True)))


class _MBConv(nn.Module):
    """An inverted residual block (Sandler et al. 2018): expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv: nn.Module = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0: nn.Module = _norm(inner)
        self._depthwise_conv = nn.Conv2d(
            inner, inner, kernel, stride, padding=kernel // 2, groups=inner, bias=False
        )
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.relu = nn.ReLU6(inplace=True)
        self._expands = expansion > 1
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self._bn0(self._expand_conv(x))) if self._expands else x
        inner = self.relu(self._bn1(self._depthwise_conv(inner)))
        projected: Tensor = self._bn2(self._project_conv(inner))
        return x + projected if self._residual else projected


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _rounded(channels: float) -> int:
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
