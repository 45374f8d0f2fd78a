"""A network's graph of operations, traced while other threads use other networks."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from torch import fx, nn

_tracing = Lock()


def trace(layers: nn.Module) -> fx.GraphModule:
    """The operations of ``layers`` in the order of its forward pass, its modules as they are.

    While `torch.fx.symbolic_trace` runs, it intercepts the calls of all modules on all threads. This function
    does the same, but passes the calls of other networks' modules on.
    """
    with _tracing:  # two interceptions at a time would not be undone in the right order
        tracer = _Tracer(layers)
        return fx.GraphModule(layers, tracer.trace(layers))


class _Tracer(fx.Tracer):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self._own = set(layers.modules())

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in self._own:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)
