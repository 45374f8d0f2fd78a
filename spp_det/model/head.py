"""The fully connected layers fc6 and fc7, from the pyramid's vector to what the SVMs see (P section 4.1).

Pre-trained weights come from the ImageNet network of the same name: its fc6 was trained on one
``n x n`` grid of conv5, which is one level of the pyramid; the other levels' weights start small and random.
Those of `spp-det pretrain` were trained on a pyramid, and each of its levels goes to its own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.errors import UserError
from spp_det.model.backbone import check_finite, downloaded_state, read_state
from spp_det.model.pyramid import num_bins

logger = logging.getLogger(__name__)

Layer = Literal["fc6", "fc7"]
NAMES: tuple[Layer, ...] = ("fc6", "fc7")

CLASSIFIERS: dict[str, Mapping[Layer, str]] = {
    "alexnet": {"fc6": "classifier.1", "fc7": "classifier.4"},
    "vgg16": {"fc6": "classifier.0", "fc7": "classifier.3"},
    "zf5": {"fc6": "fc6", "fc7": "fc7"},
}
"""Of the backbones whose whole network has fc6 and fc7: their names in its state dict."""

IMAGENET = ("alexnet", "vgg16")
"""Of these, those whose weights torchvision has; ZF-5's come from `spp-det pretrain`."""

LEVELS_KEY = "pyramid.levels"
"""In a state dict of `spp-det pretrain`: int64 ``[L]``, the levels that its fc6 was trained on; its columns
are level by level in that order, each level's in torchvision's order. Without it fc6 saw one grid."""

PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
"""Whether oneDNN takes weights in an order of its own."""

NEW_BINS = 0.1
"""Spread of the weights of bins that were not pre-trained, in units of the pre-trained ones' root mean
square (which differs between networks): a tenth of the amplitude is a hundredth of the variance, so that
what was learnt on ImageNet decides at first. Not zero, so that these bins take part from the start."""


class FCHead(nn.Module):
    """fc6, or fc6 and fc7, each followed by a ReLU: ``[N, D] -> [N, width]``. Frozen, in evaluation mode.

    Attributes:
        layers: ``fc6`` and perhaps ``fc7``: an `nn.Linear`, or two in a row where it was compressed. Their
            ``layers.state_dict()`` is what `from_state` takes.
        layer: the last of them.
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
        self._ready: list[Callable[[Tensor], Tensor]] | None = None
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
        """Compute at that precision, the backbone's, from now on, with the weights as they are now, made
        ready for the device; ``layers`` stay float32, to be saved.

        None: by ``layers`` themselves, in float32, as they have to be used while they learn.
        """
        self.precision = precision or torch.float32
        self._ready = None
        if precision is not None:
            layers = self.layers if precision == torch.float32 else deepcopy(self.layers).to(precision)
            self._ready = [_ready(layer) for layer in layers.values()]
        return self

    def digest(self) -> str:
        """A key of the weights and the precision."""
        whole = hashlib.blake2b(str(self.precision).encode(), digest_size=16)
        for name, tensor in self.layers.state_dict().items():
            whole.update(name.encode())
            whole.update(tensor.detach().cpu().contiguous().numpy().data)
        return whole.hexdigest()

    def randomise(self, seed: int) -> None:
        """He's initialisation, which keeps the spread of the signal through every ReLU; biases zero."""
        generator = torch.Generator().manual_seed(seed)
        for name in self.layers:
            layer = self.linear(name)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)

    def load_weights(
        self, weights: str, backbone_name: str, levels: Sequence[int], channels: int, seed: int = 0
    ) -> FCHead:
        """Fill in the weights: ``default`` (torchvision's download), ``random`` (by the seed) or a file.

        A file is a ``.safetensors`` or ``.pth`` state dict of the whole network in torchvision's names.
        Its fc6 saw one ``n x n`` grid: those weights go to the pyramid's level n, and the weights of all
        other bins are drawn from a normal distribution whose sigma is `NEW_BINS`, a tenth, of the root mean
        square of the pre-trained ones. A file of `spp-det pretrain` says which levels its fc6 saw; all of
        them must be levels of the pyramid. ``default`` means random, with a warning, for a backbone whose
        ImageNet network has no such layers.

        Args:
            backbone_name: key of `spp_det.model.architectures.BACKBONES`.
            levels: of the pyramid, in its order.
            channels: C of the map; ``bins * C`` is D.

        Raises UserError where the weights cannot be had or do not fit the backbone, the pyramid's levels
        or the width; ValueError where levels and channels do not make D.
        """
        fc6 = self.linear("fc6")
        if num_bins(levels) * channels != fc6.in_features:
            raise ValueError(f"{levels} of {channels} channels do not make {fc6.in_features} inputs")
        if weights == "default" and backbone_name not in IMAGENET:
            logger.warning("fc.weights: random; torchvision has no fc6 and fc7 of %s", backbone_name)
            weights = "random"
        if weights == "random":
            self.randomise(seed)
            return self
        if backbone_name not in CLASSIFIERS:
            raise UserError(
                f"fc.weights: nobody knows what fc6 and fc7 of {backbone_name} are called in {weights}; "
                f"that is known for {', '.join(CLASSIFIERS)}: say 'random'"
            )
        source = _Source(weights, backbone_name)
        trained = source.levels(channels)
        if missing := [n for n in trained if n not in levels]:
            raise UserError(
                f"pyramid.levels = {list(levels)}: fc6 of {backbone_name} was trained on "
                f"{', '.join(f'{n} x {n}' for n in trained)} bins, so put {missing[0]} among them, "
                "or set fc.weights=random"
            )
        pretrained = source.linear("fc6", self.dimension, num_bins(trained) * channels)
        _fill_by_bins(fc6, *pretrained, trained, levels, channels, seed)
        if "fc7" in self.layers:
            fc7 = self.linear("fc7")
            weight, bias = source.linear("fc7", self.dimension, self.dimension)
            fc7.weight.data.copy_(weight)
            fc7.bias.data.copy_(bias)
        return self

    def up_to(self, layer: Layer) -> FCHead:
        """The same layers without those behind ``layer``; weights are shared. ValueError where compressed."""
        kept = tuple(f"{name}." for name in NAMES[: NAMES.index(layer) + 1])
        state = {key: tensor for key, tensor in self.layers.state_dict().items() if key.startswith(kept)}
        return FCHead.from_state(state, self.linear("fc6").in_features)

    def compressed(self, rank: tuple[int, int]) -> FCHead:
        """The same layers with fewer multiplications (Fast R-CNN section 3.1, truncated SVD).

        ``W ~ U_t S_t V_t'`` of rank t, the best of that rank, becomes two linear layers: ``[t, in]``
        without a bias, then ``[out, t]`` with the layer's. A layer stays as it is, its weights shared with
        this head, where the two would not save multiplications: ``t (in + out) >= in * out``, so also where t
        is no less than its full rank.

        Args:
            rank: t of fc6 and of fc7; the second is idle without fc7.

        Raises ValueError where a rank is below 1 or this head is compressed already.
        """
        if min(rank) < 1:
            raise ValueError(f"ranks must be at least 1, got {rank}")
        state: dict[str, Tensor] = {}
        for name, t in zip(self.layers, rank, strict=False):  # fc6 may be alone
            tensors = _truncated(self.linear(name), t)
            state |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        return FCHead.from_state(state, self.linear("fc6").in_features)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], dimension_in: int) -> FCHead:
        """The head whose ``layers.state_dict()`` was ``state``, built from the shapes of its tensors.

        The tensors are not copied. Raises KeyError where one is missing, ValueError where one is of another
        shape or dtype (float32) than its neighbours ask for or has a name that no layer has.
        """
        names = NAMES if any(key.startswith("fc7.") for key in state) else NAMES[:1]
        if unknown := [key for key in state if not key.startswith(tuple(f"{name}." for name in names))]:
            raise ValueError(f"there is no place for {unknown[0]}")
        head = cls("fc6", 1, 1, seed=None)  # its layer, as small as can be, is replaced
        for name in names:
            part = {k.removeprefix(f"{name}."): t for k, t in state.items() if k.startswith(f"{name}.")}
            head.layers[name], dimension_in = _restored(name, part, dimension_in)
        head.layer, head.dimension = names[-1], dimension_in  # of what would come next
        return head.eval().requires_grad_(False)

    def linear(self, name: str) -> nn.Linear:
        """The layer ``fc6`` or ``fc7``; ValueError where it is compressed."""
        layer = self.layers[name]
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is compressed")
        return layer


class _Source:
    """fc6 and fc7 in the state dict of a whole network: where they are, and that they are sound."""

    def __init__(self, weights: str, backbone_name: str) -> None:
        """Download or read the state dict. Raises UserError where that fails."""
        try:
            download = weights == "default"
            self._state = downloaded_state(backbone_name) if download else read_state(Path(weights))
        except UserError as error:  # the backbone's readers speak of the backbone's key
            raise UserError(str(error).replace("backbone.weights", "fc.weights")) from error
        self._refusal = f"fc.weights: {weights} does not fit {backbone_name}"
        self._backbone_name = backbone_name

    def levels(self, channels: int) -> tuple[int, ...]:
        """The pyramid that fc6 was trained on, which for an ImageNet network is one ``n x n`` grid."""
        stated = self._state.get(LEVELS_KEY)
        if isinstance(stated, Tensor):
            if stated.is_floating_point() or stated.is_complex():
                raise UserError(f"{self._refusal}: {LEVELS_KEY} is {stated.dtype}, not of integers")
            levels = tuple(int(n) for n in stated.flatten().tolist())
            if not levels or min(levels) < 1 or len(set(levels)) != len(levels):
                raise UserError(f"{self._refusal}: {LEVELS_KEY} is {list(levels)}")
            return levels
        key, weight = self._tensor("fc6", "weight", dimensions=2)
        grid = math.isqrt(weight.shape[1] // channels)
        if grid < 1 or grid * grid * channels != weight.shape[1]:
            raise UserError(
                f"{self._refusal}: {key} is {list(weight.shape)}, not one square grid of {channels} channels"
            )
        return (grid,)

    def linear(self, layer: Layer, width: int, inputs: int) -> tuple[Tensor, Tensor]:
        """Weight ``[width, inputs]`` and bias ``[width]`` of a layer, in torchvision's order."""
        weight_key, weight = self._tensor(layer, "weight", dimensions=2)
        bias_key, bias = self._tensor(layer, "bias", dimensions=1)
        if layer == "fc6" and len(weight) != width:
            raise UserError(
                f"fc.width = {width}: fc6 of {self._backbone_name} has {len(weight)} outputs, "
                f"so set fc.width={len(weight)} or fc.weights=random"
            )
        for key, tensor, shape in ((weight_key, weight, (width, inputs)), (bias_key, bias, (width,))):
            if tensor.shape != shape:
                raise UserError(f"{self._refusal}: {key} is {list(tensor.shape)}, not {list(shape)}")
        return weight, bias

    def _tensor(self, layer: Layer, kind: str, dimensions: int) -> tuple[str, Tensor]:
        key = f"{CLASSIFIERS[self._backbone_name][layer]}.{kind}"
        tensor: object = self._state.get(key)
        if tensor is None:
            raise UserError(f"{self._refusal}: it has no {key}")
        if not isinstance(tensor, Tensor) or tensor.ndim != dimensions or not tensor.is_floating_point():
            raise UserError(f"{self._refusal}: {key} is not a tensor of {dimensions} dimensions")
        check_finite(tensor, f"{self._refusal}: {key}")
        return key, tensor


@torch.no_grad()
def _fill_by_bins(
    fc6: nn.Linear,
    weight: Tensor,
    bias: Tensor,
    trained: Sequence[int],
    levels: Sequence[int],
    channels: int,
    seed: int,
) -> None:
    """Lay the columns of ``weight [out, C * bins]``, trained on levels ``trained`` and in the order level,
    channel, row, column, at the bins of the same levels, in the order bin, channel; the other levels' are
    drawn by the seed."""
    outputs = len(weight)
    by_level = weight.split([channels * n * n for n in trained], dim=1)
    columns = dict(zip(trained, by_level, strict=True))  # level -> [out, C * n * n]
    sigma = NEW_BINS * float(torch.linalg.vector_norm(weight.float())) / weight.numel() ** 0.5
    generator = torch.Generator().manual_seed(seed)
    bins = fc6.weight.view(outputs, -1, channels).split([n * n for n in levels], dim=1)
    for n, out in zip(levels, bins, strict=True):
        if n in columns:
            out.copy_(columns[n].view(outputs, channels, -1).transpose(1, 2))
        else:
            out.normal_(0, sigma, generator=generator)
    fc6.bias.copy_(bias)


def _ready(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A linear layer, or two in a row, with the weights in the order in which the processor multiplies them:
    on the CPU a quarter faster than having oneDNN or MKL put them in order at every call."""
    if isinstance(layer, nn.Sequential):
        first, second = map(_ready, layer)
        return lambda vectors: second(first(vectors))
    assert isinstance(layer, nn.Linear)
    if layer.weight.device.type != "cpu" or not PACKS:
        return layer
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()), layer.bias
    return lambda vectors: torch.ops.mkldnn._linear_pointwise(vectors, weight, bias, "none", [], "")


@torch.no_grad()
def _truncated(layer: nn.Linear, rank: int) -> Mapping[str, Tensor]:
    """The tensors of the best two linear layers of that inner width; the layer's if they multiply no less."""
    outputs, inputs = layer.weight.shape
    if rank * (inputs + outputs) >= inputs * outputs:
        state: dict[str, Tensor] = layer.state_dict()
        return state
    # The singular vectors of the shorter side are the eigenvectors of its Gram matrix, which for
    # 4096 x 12,800 weights is much the smaller problem. Double, because squaring halves the digits.
    tall = outputs > inputs
    short = layer.weight.T if tall else layer.weight
    gram = torch.zeros((len(short), len(short)), dtype=torch.float64, device=short.device)
    for columns in short.split(4096, dim=1):  # not all of it in double at once
        double = columns.double()
        gram.addmm_(double, double.T)
    basis = torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)  # [short side, t], the strongest first
    basis = basis.to(layer.weight.dtype)
    first, second = (basis.T, layer.weight @ basis) if tall else (basis.T @ layer.weight, basis)
    return {"0.weight": first.contiguous(), "1.weight": second.contiguous(), "1.bias": layer.bias.detach()}


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
