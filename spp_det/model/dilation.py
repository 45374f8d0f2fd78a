"""A network's last strides taken out, its later filters dilated: the same values at more places (à trous)."""

from __future__ import annotations

from torch import fx, nn

from spp_det.model.graph import trace


def dilated(layers: nn.Module, stride: int = 16) -> nn.Module:
    """Change a network of a larger stride to this one; returns the same layers, with their weights.

    A filter that would leave out every second cell visits all of them. Every filter after it reads every
    second cell of its input, so that it meets the neighbours that it learnt to meet (Chen et al. 2015). Every
    cell of the network's former map, of stride 32 say, is a cell of the new one: at the same place, and with
    the same value, wherever no gate averages a whole map.

    Args:
        layers: a network whose strides are powers of 2. Beyond ``stride`` only its convolutions may move on.
        stride: of the new map, in pixels.

    Raises ValueError where a pooling layer lies beyond the stride: it would see other cells than before.
    """
    graph = trace(layers)
    modules = dict(graph.named_modules())
    strides: dict[fx.Node, int] = {}  # of each tensor in the network as it was
    for node in graph.graph.nodes:
        before = after = max((strides[source] for source in node.all_input_nodes), default=1)
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            after *= _step(layer)
            if after > stride:
                raise ValueError(f"{node.target} pools beyond a stride of {stride}: it cannot be dilated")
        elif isinstance(layer, nn.Conv2d):
            after *= _step(layer)
            _dilate(layer, before, after, stride)
        strides[node] = after
    return layers


def _step(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> int:
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]


def _dilate(layer: nn.Conv2d, before: int, after: int, stride: int) -> None:
    """Change a filter that led from one stride to another so that no stride exceeds ``stride``."""
    apart = max(1, before // stride)  # cells of the new input from one cell of the former input to the next
    if isinstance(layer.padding, str):
        raise ValueError(f"{layer} has a padding without a size: it cannot be dilated")
    layer.stride = (min(after, stride) // min(before, stride),) * 2
    layer.dilation = (layer.dilation[0] * apart, layer.dilation[1] * apart)
    layer.padding = (layer.padding[0] * apart, layer.padding[1] * apart)
