"""Any convolutional network of timm as a backbone: ``timm:NAME``, with its means, weights and geometry.

The network is cut after a map from which alone the rest is computed, the last such map of the wanted stride:
after conv4_x of a ResNet, at the expansion before the last stride of a MobileNet, at the normalisation before
the last stage of a ConvNeXt. Weights have the names that they have in timm's whole network.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, fx, nn

from spp_det.errors import MissingPackageError, UserError
from spp_det.model.architectures import Recipe
from spp_det.model.geometry import walk
from spp_det.model.graph import map_shapes, trace
from spp_det.model.weights import first_line

PREFIX = "timm:"
STRIDE = 16  # where the settings name none
_SIDES = (256, 512)  # pixels, of two images: a map grows with the image by its stride


def timm_recipe(name: str, stride: int | None = None) -> Recipe:
    """How to build ``timm:NAME`` up to its last map of that stride; None is `STRIDE`.

    Raises `MissingPackageError` where timm is not installed, UserError where it has no such network. Building
    raises UserError where the network has no such map, or one whose geometry cannot be derived.
    """
    timm, network = _timm(), name.removeprefix(PREFIX)
    if not timm.is_model(network):  # timm would look for an unknown name on a server
        near = ", ".join(get_close_matches(network, timm.list_models(), 5))
        raise UserError(
            f"backbone.name: timm {timm.__version__} has no {network!r}; near it: {near or 'none'}"
        )
    try:
        config = timm.get_pretrained_cfg(network)
    except RuntimeError as error:  # timm has the network, but no weights with this tag
        raise UserError(f"backbone.name: {first_line(error)}") from error

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(0)  # for weights that `randomise` leaves as they are
            whole = timm.create_model(network)
        try:
            return cut(whole.eval(), stride or STRIDE)
        except ValueError as error:
            raise UserError(f"backbone.name: {name}: {first_line(error)}") from error

    return Recipe(name, build, tuple(config.mean), tuple(config.std), "", network, _pretrained)


def cut(whole: nn.Module, stride: int) -> fx.GraphModule:
    """The layers up to the last map of a stride from which alone the rest is computed, names as in ``whole``.

    They are the layers of ``whole`` in evaluation mode. Convolutions with TensorFlow's padding, which depends
    on the size of the map, get ``k // 2`` cells of padding instead, which shifts the map.

    Raises ValueError where there is no such map, or where the geometry up to it cannot be derived.
    """
    _pad_by_half(whole)
    try:
        graph = trace(whole, "forward_features")
    except Exception as error:  # a network's code raises anything when its tensors are placeholders
        raise ValueError(f"its layers cannot be traced: {first_line(error)}") from error
    last, strides = _last_map(graph, stride)
    if last is None:
        raise ValueError(
            f"no map of stride {stride}; there are maps of {', '.join(map(str, sorted(strides)))}"
        )
    for node in reversed(list(graph.graph.nodes)):
        if node is last:
            break
        graph.graph.erase_node(node)
    graph.graph.output(last)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return fx.GraphModule(graph, graph.graph)  # without the weights of what was erased


def _last_map(graph: fx.GraphModule, stride: int) -> tuple[fx.Node | None, set[int]]:
    """The last map ``[B, C, h, w]`` of a stride from which alone the rest is computed, or None; and the
    strides of all maps from which alone the rest is computed."""
    nodes = list(graph.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    small, large = (map_shapes(graph, side) for side in _SIDES)
    last, strides, furthest = None, set(), 0  # furthest: where earlier tensors are last read
    for node, view in walk(graph, small, large):
        alone = furthest <= place[node]
        if node.op != "get_attr":
            furthest = max([furthest, *(place[user] for user in node.users)])
        if (
            node.op == "output"
            or not alone
            or view is None
            or not _is_map(small.get(node), large.get(node), view.stride)
        ):
            continue
        strides.add(view.stride)
        if view.stride == stride:
            last = node
        elif view.stride > stride and last is not None:
            break  # the geometry of later layers need not be known
    return last, strides


def _is_map(small: torch.Size | None, large: torch.Size | None, stride: int) -> bool:
    """Whether tensors of these shapes, for images of `_SIDES`, have rows and columns in their last axes."""
    if small is None or large is None or len(small) != 4:
        return False
    more = (_SIDES[1] - _SIDES[0]) / stride
    return large[2] - small[2] == more == large[3] - small[3]


def _pad_by_half(whole: nn.Module) -> None:
    """Make timm's convolutions with TensorFlow's padding plain ones, which pad maps of any size alike."""
    for layer in whole.modules():
        if isinstance(layer, nn.Conv2d) and type(layer) is _timm().layers.Conv2dSame:
            layer.__class__ = nn.Conv2d
            down, across = ((k - 1) * d // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
            layer.padding = (down, across)


def _pretrained(network: str, key: str) -> Mapping[str, Tensor]:
    """timm's weights of a network, which it downloads once. Raises UserError where that fails."""
    try:
        state: Mapping[str, Tensor] = _timm().create_model(network, pretrained=True).state_dict()
    except Exception as error:  # of timm, or of any library that it downloads with
        raise UserError(f"{key}: timm cannot load {network} ({first_line(error)}); set {key}=FILE") from error
    return state


def _timm() -> ModuleType:
    try:
        return import_module("timm")
    except ImportError as error:
        raise MissingPackageError(
            f"backbone.name: timm does not import ({first_line(error)}): pip install 'spp_det[timm]'"
        ) from error
