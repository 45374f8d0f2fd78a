"""A network's graph of operations, for what is derived from its layers. Other threads may go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from torch import fx, nn

_tracing = Lock()


def trace(layers: nn.Module) -> fx.GraphModule:
    """The operations of ``layers`` in the order of its forward pass, its modules as they are.

    As `torch.fx.symbolic_trace`, which for the time it takes diverts the calls of all modules of all threads:
    here those of other networks go where they were going.
    """
    with _tracing:  # the diversions of two would not be undone in the right order
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
