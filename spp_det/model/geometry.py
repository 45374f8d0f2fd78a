"""How the cells of a network's last map lie over its input, read off the layers (P appendix A)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from spp_det.model.graph import map_shapes, trace


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
class View:
    """How one intermediate map lies over the input. Tensors without a position have None in its place."""

    stride: int = 1
    offset: float = 0.0
    receptive_field: int = 1

    def through(self, layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> View:
        kernel, stride, padding = extent(layer)
        return View(
            self.stride * stride,
            self.offset + ((kernel - 1) / 2 - padding) * self.stride,
            self.receptive_field + (kernel - 1) * self.stride,
        )


# The layers whose cells look at windows of their input.
WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_LARGER = 512  # pixels, by which an image is enlarged to see which tensors grow with it


def extent(layer: nn.Module) -> tuple[int, int, int]:
    """Kernel (dilated), stride and padding of a layer of `WINDOWED` that treats both axes alike.

    Raises ValueError for a layer that does not, and for a padding by a word, such as "same".
    """
    values = []
    for name in ("kernel_size", "stride", "padding", "dilation"):
        value = getattr(layer, name, 1)
        if isinstance(value, tuple):
            if len(set(value)) != 1:
                raise ValueError(f"{layer} treats height and width differently")
            value = value[0]
        if isinstance(value, str):
            raise ValueError(f"{layer} has a padding without a number of cells")
        values.append(int(value))
    kernel, stride, padding, dilation = values
    return (kernel - 1) * dilation + 1, stride, padding


def derive_geometry(layers: nn.Module) -> tuple[Geometry, int]:
    """Stride, offset, receptive field and channels of the last map, read off the layers themselves.

    Walks the traced graph: a layer with kernel k, stride s and padding p adds ``((k - 1)/2 - p)`` times
    the stride before it to the offset. Branches that meet must agree on where their cells lie.

    The outputs of global pooling have no position, nor have numbers computed from them. The gate of a
    squeeze-and-excitation block is such a branch: it multiplies all cells of a channel by one number, and so
    moves no cell. Strictly, every cell then depends on every pixel, a little, through the gates; the
    receptive field is computed for constant gates.

    Raises ValueError for a network whose branches do not agree, that treats the two axes differently, or
    whose cells are moved by anything but `Conv2d`, `MaxPool2d` and `AvgPool2d` modules.

    >>> derive_geometry(nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2)))
    (Geometry(stride=4, offset=1.0, receptive_field=9, smallest_input=3), 8)
    """
    graph = trace(layers)
    smallest = _smallest_input(graph)
    shapes = map_shapes(graph, smallest)
    views = dict(walk(graph, shapes, map_shapes(graph, smallest + _LARGER)))
    output = next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes[0]
    if output not in shapes:
        raise ValueError(f"the network does not take an image of {smallest} x {smallest} pixels")
    view = views[output]
    if view is None:
        raise ValueError(
            "the network's output has no position in the image: cut it before its global pooling"
        )
    return Geometry(view.stride, view.offset, view.receptive_field, smallest), shapes[output][1]


def walk(
    graph: fx.GraphModule, shapes: Mapping[fx.Node, torch.Size], larger: Mapping[fx.Node, torch.Size]
) -> Iterator[tuple[fx.Node, View | None]]:
    """The view of each node's tensor, in the graph's order; None for a tensor without a position.

    ``shapes`` and ``larger`` are the tensors' shapes for two sizes of the input. A tensor with the same shape
    for both describes the whole image. Raises ValueError as `derive_geometry` does.
    """
    modules = dict(graph.named_modules())
    views: dict[fx.Node, View | None] = {}
    for node in graph.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        placed = [view for n in node.all_input_nodes if (view := views[n]) is not None]
        if node.op == "placeholder":
            views[node] = View()
        elif not placed or (node in shapes and shapes[node] == larger.get(node)):
            views[node] = None
        elif isinstance(module, WINDOWED):
            views[node] = placed[0].through(module)
        else:
            _refuse_hidden_window(node, module)
            views[node] = _joined(placed, node)
        yield node, views[node]


# Parts of the names of operations that may move cells, such as a mean over one axis, or attention.
_MOVES = re.compile(
    "pool|conv|interpolate|upsample|pad|fold|pixel|mean|amax|flatten|matmul|bmm|einsum|attention",
    re.IGNORECASE,
)


def _refuse_hidden_window(node: fx.Node, module: nn.Module | None) -> None:
    name = type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))
    if _MOVES.search(name):
        raise ValueError(
            f"{node.name}: the geometry of {name} is not known; use Conv2d, MaxPool2d or AvgPool2d modules"
        )


def _joined(views: list[View], node: fx.Node) -> View:
    if len({(view.stride, view.offset) for view in views}) > 1:
        raise ValueError(f"the branches that meet at {node.name} do not lie over the same pixels: {views}")
    return View(views[0].stride, views[0].offset, max(view.receptive_field for view in views))


def _smallest_input(graph: fx.GraphModule) -> int:
    """A side for which every map has a cell: from one cell of the last map, layer by layer to the input.

    Where layers round up (``ceil_mode``) a slightly smaller side would do.
    """
    modules = dict(graph.named_modules())
    needed: dict[fx.Node, int] = {}
    smallest = 1
    for node in reversed(list(graph.graph.nodes)):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        need = needed.get(node, 1)
        if isinstance(module, WINDOWED):
            kernel, stride, padding = extent(module)
            need = max(1, (need - 1) * stride + kernel - 2 * padding)
        for source in node.all_input_nodes:
            needed[source] = max(needed.get(source, 1), need)
        if node.op == "placeholder":
            smallest = need
    return smallest
