"""Whether the last map of a network can be negative: hellinger vectors take square roots of its cells."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

from spp_det.model.graph import trace

# Operations whose results are never negative (MAKE), or not negative for such inputs (KEEP).
_MAKES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.Softmax)
_KEEPS = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(nn.Identity, nn.Dropout, nn.Dropout2d),
)
_MAKING = (F.relu, torch.relu, torch.relu_, F.relu6, torch.sigmoid, F.hardsigmoid, torch.abs, "relu", "relu_")
_KEEPING = (
    *(torch.cat, torch.concat, torch.add, torch.mul, "add", "add_", "mul", "mul_"),
    *(operator.add, operator.iadd, operator.mul, operator.imul),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.dropout, "contiguous", "clone"),
)


def never_negative(layers: nn.Module) -> bool:
    """Whether no input at all makes a cell of the last map negative, in evaluation mode.

    Walks the traced graph: the map of a ReLU or a sigmoid is not negative, and neither are sums, products,
    concatenations, maxima and averages of such maps. The map of any other operation, such as a convolution, a
    batch normalisation or a hard-swish, counts as possibly negative: False may be too cautious. An operation
    in place is followed under the name of its result, as modules write it (``x += y``, then x).
    """
    graph = trace(layers)
    modules = dict(graph.named_modules())
    sure: dict[fx.Node, bool] = {}
    for node in graph.graph.nodes:
        numbers = [n for n in (*node.args, *node.kwargs.values()) if isinstance(n, int | float)]
        kept = all(sure[source] for source in node.all_input_nodes) and all(n >= 0 for n in numbers)
        if node.op == "call_module":
            module = modules[str(node.target)]
            last = getattr(module, "act", module)  # timm's batch normalisations end in a non-linearity
            sure[node] = isinstance(last, _MAKES) or (isinstance(module, _KEEPS) and kept)
        elif node.op in ("call_function", "call_method"):
            sure[node] = node.target in _MAKING or (node.target in _KEEPING and kept)
        else:
            sure[node] = node.op == "output" and kept  # images and parameters may be negative
    return sure[next(iter(reversed(graph.graph.nodes)))]
