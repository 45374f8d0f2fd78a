"""How the cells of a network's last map lie over its input, read off the layers (P appendix A)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from spp_det.model.graph import trace


@dataclass(frozen=True)
class Geometry:
    """How a network's last map lies over its input; see `derive_geometry`.

    Attributes:
        stride: pixels from one cell to the next.
        offset: pixel coordinate of the centre of cell 0; half-integral for even filters.
        receptive_field: side in pixels of the square that one cell sees.
        smallest_input: a side in pixels for which the map is sure to have a cell.
    """

    stride: int
    offset: float
    receptive_field: int
    smallest_input: int


@dataclass(frozen=True)
class _View:
    """How one intermediate map lies over the input. In its place, None means that it has no position."""

    stride: int = 1
    offset: float = 0.0
    receptive_field: int = 1

    def through(self, layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> _View:
        kernel, stride, padding = _extent(layer)
        return _View(
            self.stride * stride,
            self.offset + ((kernel - 1) / 2 - padding) * self.stride,
            self.receptive_field + (kernel - 1) * self.stride,
        )


_WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_GLOBAL = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def _extent(layer: nn.Module) -> tuple[int, int, int]:
    """Kernel (dilated), stride and padding of a layer that treats both axes alike."""
    values = []
    for name in ("kernel_size", "stride", "padding", "dilation"):
        value = getattr(layer, name, 1)
        if isinstance(value, tuple):
            if len(set(value)) != 1:
                raise ValueError(f"{layer} treats height and width differently")
            value = value[0]
        values.append(int(value))
    kernel, stride, padding, dilation = values
    return (kernel - 1) * dilation + 1, stride, padding


def derive_geometry(layers: nn.Module) -> tuple[Geometry, int]:
    """Stride, offset, receptive field and channels of the last map, read off the layers themselves.

    Walks the traced graph: a layer with kernel k, stride s and padding p adds ``((k - 1)/2 - p)`` times
    the stride before it to the offset. Branches that meet must agree on where their cells lie.

    The outputs of global pooling have no position, nor have numbers computed from them. The gate of a
    squeeze-and-excitation block is such a branch: it multiplies all cells of a channel by one number, and so
    moves nothing. Strictly, every cell then depends on every pixel, a little, through the gates; the
    receptive field is that of the network with constant gates.

    Raises ValueError for a network whose branches do not agree, that treats the two axes differently, or
    whose cells are moved by anything but `Conv2d`, `MaxPool2d` and `AvgPool2d` modules.

    >>> derive_geometry(nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2)))
    (Geometry(stride=4, offset=1.0, receptive_field=9, smallest_input=3), 8)
    """
    graph = trace(layers)
    modules = dict(graph.named_modules())
    views: dict[fx.Node, _View | None] = {}
    for node in graph.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        inputs = [views[n] for n in node.all_input_nodes]
        placed = [view for view in inputs if view is not None]
        if node.op == "placeholder":
            views[node] = _View()
        elif not placed or isinstance(module, _GLOBAL) or "adaptive" in str(node.target):
            views[node] = None  # one number a channel, for the whole image
        elif isinstance(module, _WINDOWED):
            views[node] = placed[0].through(module)
        else:
            _refuse_hidden_window(node, module)
            views[node] = _joined(placed, node)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    view = views[output.all_input_nodes[0]]
    if view is None:
        raise ValueError(
            "the network's output has no position in the image: cut it before its global pooling"
        )
    smallest = _smallest_input(graph, modules)
    return Geometry(view.stride, view.offset, view.receptive_field, smallest), _channels(layers, smallest)


# Means are refused too: their names do not tell over which axes they are.
_MOVES = re.compile("pool|conv|interpolate|upsample|pad|fold|pixel|mean|amax|flatten", re.IGNORECASE)


def _refuse_hidden_window(node: fx.Node, module: nn.Module | None) -> None:
    name = type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))
    if _MOVES.search(name):
        raise ValueError(
            f"{node.name}: the geometry of {name} is not known; use Conv2d, MaxPool2d or AvgPool2d modules"
        )


def _joined(views: list[_View], node: fx.Node) -> _View:
    if len({(view.stride, view.offset) for view in views}) > 1:
        raise ValueError(f"the branches that meet at {node.name} do not lie over the same pixels: {views}")
    return _View(views[0].stride, views[0].offset, max(view.receptive_field for view in views))


def _channels(layers: nn.Module, side: int) -> int:
    """C of the map, found by passing images that have a shape but no pixels."""
    tensors = {**dict(layers.named_parameters()), **dict(layers.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    # Two images: in training mode batch normalisation refuses a single cell.
    images = torch.empty(2, 3, side, side, device="meta")
    return int(torch.func.functional_call(layers, shapes, (images,)).shape[1])


def _smallest_input(graph: fx.GraphModule, modules: Mapping[str, nn.Module]) -> int:
    """A side for which every map has a cell: from one cell of the last map, layer by layer to the input.

    Where layers round up (``ceil_mode``) a slightly smaller side would do.
    """
    needed: dict[fx.Node, int] = {}
    smallest = 1
    for node in reversed(list(graph.graph.nodes)):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        need = needed.get(node, 1)
        if isinstance(module, _WINDOWED):
            kernel, stride, padding = _extent(module)
            need = max(1, (need - 1) * stride + kernel - 2 * padding)
        for source in node.all_input_nodes:
            needed[source] = max(needed.get(source, 1), need)
        if node.op == "placeholder":
            smallest = need
    return smallest
