"""The fully connected layers fc6 and fc7, from the pyramid's vector to what the SVMs see (P section 4.1).

Where pre-trained weights come from is in `spp_det.model.head_weights`, how a layer is compressed in
`spp_det.model.head_compression`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.model.head_compression import truncated
from spp_det.model.head_weights import IMAGENET, Layer, load_layers
from spp_det.model.pyramid import num_bins
from spp_det.model.weights import digest_of, randomise
from spp_det.runtime.threads import on_one_core

logger = logging.getLogger(__name__)

NAMES: tuple[Layer, ...] = ("fc6", "fc7")

PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
"""Whether oneDNN can store a layer's weights in the order in which the processor multiplies them."""


class FCHead(nn.Module):
    """fc6, or fc6 and fc7, each followed by a ReLU: ``[N, D] -> [N, width]``. Frozen, in evaluation mode.

    Attributes:
        layers: ``fc6`` and perhaps ``fc7``, each an `nn.Linear`, or two in a row where it was compressed.
            `from_state` takes ``layers.state_dict()``.
        layer: the name of the last layer.
        dimension: length of the output.
        precision: ``torch.float32``, or ``torch.bfloat16`` to multiply in; see `at`.
    """

    def __init__(self, layer: Layer, dimension_in: int, width: int = 4096, seed: int | None = 0) -> None:
        """Build the layers up to ``layer`` with random weights by the seed.

        Args:
            dimension_in: D, ``bins * C``.
            width: outputs of each layer.
            seed: None leaves the weights unset, for a `load_weights` that follows.
        """
        super().__init__()
        inputs = {"fc6": dimension_in, "fc7": width}
        names = NAMES[: NAMES.index(layer) + 1]
        self.layers = nn.ModuleDict({n: nn.utils.skip_init(nn.Linear, inputs[n], width) for n in names})
        self.layer: Layer = layer
        self.dimension = width
        self.precision = torch.float32
        self._ready: list[nn.Module] | None = None
        if seed is not None:
            self.randomise(seed)
        self.eval().requires_grad_(False)

    def forward(self, vectors: Tensor, dropout: float = 0.0) -> Tensor:
        """Activations float32 ``[N, width]`` of the last layer, after its ReLU.

        Args:
            vectors: pool5, float32 ``[N, D]``, flattened from ``[N, bins, C]`` as `pool_windows` gives them.
            dropout: the part of each layer's activations that is set to zero, in training mode alone; the
                rest grows to keep the mean (P section 3.1). Drawn from torch's own generator.
        """
        x = vectors.to(self.precision)
        for layer in self.layers.values() if self._ready is None else self._ready:
            x = F.relu(layer(x), inplace=True)
            x = F.dropout(x, dropout, training=self.training)
        return x.float()

    def at(self, precision: torch.dtype | None) -> FCHead:
        """Compute at a precision, the backbone's, from now on, with the weights as they are now.

        The weights are copied into the form in which the device multiplies them; ``layers`` stay float32, to
        be saved. None: compute by ``layers`` themselves, in float32, as a training needs it.
        """
        self.precision = precision or torch.float32
        self._ready = None
        if precision is not None:
            layers = self.layers if precision == torch.float32 else deepcopy(self.layers).to(precision)
            self._ready = on_one_core(lambda: [_ready(layer) for layer in layers.values()])
        return self

    def digest(self) -> str:
        """A key of the weights and the precision."""
        return digest_of(self.layers, self.precision)

    def randomise(self, seed: int) -> None:
        """Random weights by the seed. Raises ValueError where layers are compressed."""
        for name in self.layers:
            self.linear(name)
        randomise(self.layers, seed)

    def load_weights(
        self, weights: str, backbone_name: str, levels: Sequence[int], channels: int, seed: int = 0
    ) -> FCHead:
        """Fill in the weights: ``default`` (torchvision's download), ``random`` (by the seed) or a file.

        A file is a ``.safetensors`` or ``.pth`` state dict of the whole network in torchvision's names. The
        fc6 in it was trained on one ``n x n`` grid: its weights go to the pyramid's level n, and the weights
        of all other bins are drawn from a normal distribution whose sigma is `NEW_BINS`, a tenth, of the
        root mean square of the pre-trained weights. A file of `spp-det pretrain` says which levels its fc6
        was trained on; all of them must be levels of the pyramid. ``default`` means random, with a warning,
        for a backbone whose ImageNet network has no fc6 and fc7.

        Args:
            backbone_name: key of `spp_det.model.architectures.BACKBONES`.
            levels: of the pyramid, in its order.
            channels: C of the map; ``bins * C`` is D.

        Raises UserError where the weights are not to be had or do not fit the backbone, the pyramid's levels
        or the width; ValueError where levels and channels do not make D.
        """
        inputs = self.linear("fc6").in_features
        if num_bins(levels) * channels != inputs:
            raise ValueError(f"{levels} of {channels} channels do not make {inputs} inputs")
        if weights == "default" and backbone_name not in IMAGENET:
            logger.warning("fc.weights: random; torchvision has no fc6 and fc7 of %s", backbone_name)
            weights = "random"
        if weights == "random":
            self.randomise(seed)
        else:
            layers = {name: self.linear(name) for name in NAMES if name in self.layers}
            load_layers(layers, weights, backbone_name, levels, channels, seed)
        return self

    def up_to(self, layer: Layer) -> FCHead:
        """The layers up to ``layer``, with shared weights. Raises ValueError where they are compressed."""
        kept = tuple(f"{name}." for name in NAMES[: NAMES.index(layer) + 1])
        state = {key: tensor for key, tensor in self.layers.state_dict().items() if key.startswith(kept)}
        return FCHead.from_state(state, self.linear("fc6").in_features)

    def compressed(self, rank: tuple[int, int]) -> FCHead:
        """The same layers with fewer multiplications (Fast R-CNN section 3.1, truncated SVD).

        ``W ~ U_t S_t V_t'`` of rank t, the best of that rank, becomes two linear layers: ``[t, in]``
        without a bias, then ``[out, t]`` with the layer's bias. Where two layers would not save
        multiplications, because ``t (in + out) >= in * out``, a layer stays as it is and shares its weights
        with this head; so it is for every t from the layer's full rank on.

        Args:
            rank: t of fc6 and of fc7; the second is without effect where there is no fc7.

        Raises ValueError where a rank is below 1 or this head is compressed already.
        """
        if min(rank) < 1:
            raise ValueError(f"ranks must be at least 1, got {rank}")
        state: dict[str, Tensor] = {}
        for name, t in zip(self.layers, rank, strict=False):  # fc6 may be alone
            tensors = truncated(self.linear(name), t)
            state |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        return FCHead.from_state(state, self.linear("fc6").in_features)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], dimension_in: int) -> FCHead:
        """The head whose ``layers.state_dict()`` was ``state``, built from the shapes of its tensors.

        The tensors are not copied. Raises KeyError where a tensor is missing, ValueError where its shape does
        not fit its neighbours', its dtype is not float32, or no layer has its name.
        """
        names = NAMES if any(key.startswith("fc7.") for key in state) else NAMES[:1]
        if unknown := [key for key in state if not key.startswith(tuple(f"{name}." for name in names))]:
            raise ValueError(f"there is no place for {unknown[0]}")
        head = cls("fc6", 1, 1, seed=None)  # its layer, as small as can be, is replaced
        for name in names:
            part = {k.removeprefix(f"{name}."): t for k, t in state.items() if k.startswith(f"{name}.")}
            head.layers[name], dimension_in = _restored(name, part, dimension_in)
        head.layer, head.dimension = names[-1], dimension_in  # the last layer's outputs
        return head.eval().requires_grad_(False)

    def linear(self, name: str) -> nn.Linear:
        """The layer ``fc6`` or ``fc7``; ValueError where it is compressed."""
        layer = self.layers[name]
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is compressed")
        return layer


def _ready(layer: nn.Module) -> nn.Module:
    """A linear layer, or two in a row, as the device multiplies fastest."""
    if isinstance(layer, nn.Sequential):
        return nn.Sequential(*map(_ready, layer))
    assert isinstance(layer, nn.Linear)
    packs = PACKS and layer.weight.device.type == "cpu"
    if layer.weight.dtype == torch.bfloat16:  # older processors multiply it too, but cannot pack weights
        packs = packs and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return _Packed(layer) if packs else layer


class _Packed(nn.Module):
    """A linear layer with its weights in the order in which the processor multiplies them.

    On a CPU that is a quarter faster than oneDNN or MKL, which would put them in order at every call.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self._bias = layer.bias

    def forward(self, vectors: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(
            vectors, self._weight, self._bias, "none", [], ""
        )
        return outputs


def _restored(name: str, part: Mapping[str, Tensor], inputs: int) -> tuple[nn.Module, int]:
    """One layer around its tensors, and its number of outputs."""
    wanted = ("0.weight", "1.weight", "1.bias") if "0.weight" in part else ("weight", "bias")
    for key in wanted:
        if key not in part:
            raise KeyError(f"{name}.{key}")
    if unknown := [key for key in part if key not in wanted]:
        raise ValueError(f"there is no place for {name}.{unknown[0]}")
    outputs = max(1, part[wanted[-1]].numel())
    rank = max(1, part["0.weight"].numel() // inputs) if "0.weight" in part else None
    with torch.device("meta"):  # shapes alone
        layer = (
            nn.Linear(inputs, outputs)
            if rank is None
            else nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))
        )
    for key, tensor in layer.state_dict().items():
        found = part[key]
        if found.shape != tensor.shape or found.dtype != torch.float32:
            shapes = f"{found.dtype} {list(found.shape)}, not float32 {list(tensor.shape)}"
            raise ValueError(f"{name}.{key} is {shapes}")
    layer.load_state_dict(part, assign=True)
    return layer, outputs
