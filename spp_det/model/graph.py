"""A network's graph of operations, traced while other threads use other networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

import torch
from torch import Tensor, fx, nn

_tracing = Lock()


def trace(layers: nn.Module, method: str = "forward") -> fx.GraphModule:
    """The operations of ``layers`` in the order of its forward pass, or another method; modules as they are.

    `torch.fx.symbolic_trace` intercepts the calls of all modules on all threads while it runs. This function
    passes the calls of other networks' modules on.
    """
    with _tracing:  # two interceptions at a time would not be undone in the right order
        tracer = _Tracer(layers)
        tracer.traced_func_name = method
        return fx.GraphModule(layers, tracer.trace(layers))


class _Tracer(fx.Tracer):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self._own = set(layers.modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Batch normalisation of any make is one operation: what it does differs between training and use."""
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in self._own:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def map_shapes(graph: fx.GraphModule, side: int) -> dict[fx.Node, torch.Size]:
    """The shape that each node's tensor has for two square images of that side. No pixel is computed.

    Nodes from the first that fails are left out: images of that side do not get there.
    """
    shapes: dict[fx.Node, torch.Size] = {}
    tensors = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    on_meta = {f"graph.{name}": torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    images = torch.empty(1, 3, side, side, device="meta")
    with suppress(Exception):  # a layer may raise anything for images that it does not take
        torch.func.functional_call(_Run(graph, shapes), on_meta, (images,))
    return shapes


class _Run(nn.Module):
    def __init__(self, graph: fx.GraphModule, shapes: dict[fx.Node, torch.Size]) -> None:
        super().__init__()
        self.graph, self.shapes = graph, shapes

    def forward(self, images: Tensor) -> None:
        _Shapes(self.graph, self.shapes).run(images)


# Layers whose output has the shape of their input. On the meta device they take most of the time.
_KEEPING = (
    *(nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm),
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid),
)


class _Shapes(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, shapes: dict[fx.Node, torch.Size]) -> None:
        super().__init__(graph)
        self.shapes = shapes

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and isinstance(self.fetch_attr(target), _KEEPING):
            return args[0]
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = value.shape
        return value
