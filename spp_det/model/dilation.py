"""A network's last strides taken out, its later filters dilated: the same values at more places (à trous)."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from spp_det.model.geometry import WINDOWED, extent
from spp_det.model.graph import trace


def dilated(layers: nn.Module, stride: int = 16) -> nn.Module:
    """Lower a network's stride to ``stride`` pixels, in place; returns the network, with its weights.

    A filter of stride 2 beyond that stride gets stride 1. Each filter after it is dilated: it reads every
    second cell, so that it meets the neighbours that it learnt to meet (Chen et al. 2015). Every cell of the
    former map, of stride 32 say, is a cell of the new map: at the same place, and with the same value,
    wherever no gate averages a whole map.

    Args:
        layers: a network whose strides are powers of 2, without pooling layers beyond ``stride``, where each
            layer beyond it is called once.
        stride: pixels from one cell of the new map to the next.

    Raises ValueError for a network with a layer beyond the stride that cannot be dilated: a pooling layer, a
    layer that is called twice, a padding by other values than zeros. Also for a layer that treats height and
    width differently, and for a stride that does not divide the strides beyond it.
    """
    graph = trace(layers)
    modules = dict(graph.named_modules())
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    strides: dict[fx.Node, int] = {}  # of each tensor in the network as it was
    for node in graph.graph.nodes:
        before = max((strides[source] for source in node.all_input_nodes), default=1)
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        step = extent(layer)[1] if isinstance(layer, WINDOWED) else 1
        strides[node] = after = before * step
        if after <= stride or not isinstance(layer, WINDOWED):
            continue
        if not isinstance(layer, nn.Conv2d):
            raise ValueError(f"the pooling layer {node.target} lies beyond a stride of {stride} pixels")
        if calls[str(node.target)] > 1:
            raise ValueError(f"the layer {node.target} is called more than once: it cannot be dilated")
        _dilate(layer, before, after, stride)
    return layers


def _dilate(layer: nn.Conv2d, before: int, after: int, stride: int) -> None:
    """Change a filter that led from one stride to another so that no stride exceeds ``stride``."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"{layer} pads with other values than zeros: it cannot be dilated")
    if after % stride or max(before, stride) % min(before, stride):
        raise ValueError(f"{layer} leads from a stride of {before} to {after}: {stride} does not divide them")
    apart = max(before, stride) // stride  # cells of the new map between neighbours of the former map
    layer.stride = (stride // min(before, stride),) * 2
    layer.dilation = (layer.dilation[0] * apart, layer.dilation[1] * apart)
    layer.padding = (layer.padding[0] * apart, layer.padding[1] * apart)
