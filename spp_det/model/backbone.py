"""The convolutional network up to conv5: which ones there are, their weights, and their geometry.

To add one, register a function that builds the convolutional part without weights::

    @register("mine", network="vgg11")
    def mine() -> nn.Module:
        return torchvision.models.vgg11(weights=None).features[:-1]  # without pool5

in a module that is imported before the name is used. Stride, offset, number of channels, and whether the
map can be negative, are derived from the layers; nothing else is needed. The layers keep the names that they
have in the whole network, less ``prefix``, so that its state dict fits. ``weights: default`` downloads what
torchvision offers for ``network``, which is the backbone's own name unless it says otherwise.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from spp_det.config import Precision
from spp_det.devices import has_bfloat16
from spp_det.errors import UserError
from spp_det.model.geometry import derive_geometry
from spp_det.model.sign import never_negative

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1], torchvision's pre-training
IMAGENET_STD = (0.229, 0.224, 0.225)

HARMLESS = 0.05  # error of conv5 in bfloat16, of its norm: .026 (SqueezeNet) costs no detections that we saw


@dataclass(frozen=True)
class Recipe:
    """How to build one named backbone: ``build()`` gives the layers up to conv5, weights random."""

    name: str
    build: Callable[[], nn.Module]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    prefix: str  # of these layers' names in the whole network's state dict
    network: str  # torchvision's name of the whole network


BACKBONES: dict[str, Recipe] = {}


def register(
    name: str,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    prefix: str = "features.",
    network: str | None = None,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Make a backbone known by that name to configs and model files. See the module's docstring."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        BACKBONES[name] = Recipe(name, build, mean, std, prefix, network or name)
        return build

    return add


@register("squeezenet1_0")
def squeezenet1_0() -> nn.Module:
    """SqueezeNet 1.0 to fire9: stride 16, 512 channels. Small and strong: the one for laptops."""
    layers: nn.Module = torchvision.models.squeezenet1_0(weights=None).features
    return layers


@register("squeezenet1_1")
def squeezenet1_1() -> nn.Module:
    """SqueezeNet 1.1 to fire9: stride 16, 512 channels, at under half the multiplications of 1.0."""
    layers: nn.Module = torchvision.models.squeezenet1_1(weights=None).features
    return layers


@register("alexnet")
def alexnet() -> nn.Module:
    """torchvision's AlexNet to conv5 and its ReLU: stride 16, 256 channels."""
    layers: nn.Sequential = torchvision.models.alexnet(weights=None).features
    return layers[:-1]  # without pool5: the pyramid stands in its place (P section 2.3)


@register("vgg16")
def vgg16() -> nn.Module:
    """VGG-16 to conv5_3 and its ReLU: stride 16, 512 channels."""
    layers: nn.Sequential = torchvision.models.vgg16(weights=None, init_weights=False).features
    return layers[:-1]


@register("resnet18", prefix="")
def resnet18() -> nn.Module:
    """ResNet-18 to layer3, its conv4_x: stride 16, 256 channels. The map of Faster R-CNN on ResNets (He et
    al. 2016, appendix A), since cells of 32 pixels are coarse for small windows."""
    return _to_layer(torchvision.models.resnet18(weights=None), "layer3")


@register("resnet18_layer4", prefix="", network="resnet18")
def resnet18_layer4() -> nn.Module:
    """All of ResNet-18's convolutions: stride 32, 512 channels."""
    return _to_layer(torchvision.models.resnet18(weights=None), "layer4")


@register("resnet50", prefix="")
def resnet50() -> nn.Module:
    """ResNet-50 to layer3, its conv4_x: stride 16, 1024 channels. See `resnet18`."""
    return _to_layer(torchvision.models.resnet50(weights=None), "layer3")


@register("resnet50_layer4", prefix="", network="resnet50")
def resnet50_layer4() -> nn.Module:
    """All of ResNet-50's convolutions: stride 32, 2048 channels."""
    return _to_layer(torchvision.models.resnet50(weights=None), "layer4")


def _to_layer(network: nn.Module, last: str) -> nn.Module:
    """The parts of a network that stand in a row up to one of them, under their own names."""
    names = [name for name, _ in network.named_children()]
    parts = OrderedDict((name, network.get_submodule(name)) for name in names[: names.index(last) + 1])
    return nn.Sequential(parts)


@register("mobilenet_v3_large")
def mobilenet_v3_large() -> nn.Module:
    """MobileNetV3-Large to the expansion layer of its 13th block: stride 16, 672 channels.

    The last map at stride 16, where its authors attach the first layer of their detectors (Howard et al.
    2019, section 6), and after a non-linearity: the block before it ends in a linear projection to 112
    channels, made to be expanded again. Maps of stride 32 follow, but on those a window of 64 pixels is
    hardly two cells wide. Hard-swish goes down to -3/8: this map has no square roots (`non_negative`).
    """
    features: nn.Sequential = torchvision.models.mobilenet_v3_large(weights=None).features
    expansion = features[13].get_submodule("block.0")
    layers = features[:13]  # a block's number is its name, and this one's inner names are kept too
    return layers.append(nn.Sequential(OrderedDict(block=nn.Sequential(expansion))))


@register("zf5")
def zf5() -> nn.Module:
    """ZF-5 (P table 1), filters of size p padded by floor(p/2) (P appendix A): stride 16, 256 channels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 7, stride=2, padding=3), nn.ReLU(inplace=True), _local_norm()),
        nn.MaxPool2d(3, stride=2, padding=1),
        *(nn.Conv2d(96, 256, 5, stride=2, padding=2), nn.ReLU(inplace=True), _local_norm()),
        nn.MaxPool2d(3, stride=2, padding=1),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
    )


def _local_norm() -> nn.Module:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


@register("zf5_small")
def zf5_small() -> nn.Module:
    """ZF-5 at a third of its width, with batch norm in place of LRN: learns in minutes, on a laptop,
    from the crops of two thousand objects. Stride 16, 96 channels."""
    return nn.Sequential(
        # Pooled before they are normalised: a quarter of the work, in the layers where it is most.
        *(nn.Conv2d(3, 32, 7, stride=2, padding=3), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        *(nn.Conv2d(32, 80, 5, stride=2, padding=2), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.BatchNorm2d(80), nn.ReLU(inplace=True)),
        *(nn.Conv2d(80, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(inplace=True)),
        *(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(inplace=True)),
        *(nn.Conv2d(128, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(inplace=True)),
    )


class Backbone(nn.Module):
    """A frozen convolutional network up to conv5.

    Attributes:
        name: key of `BACKBONES`.
        geometry: how its map lies over its input.
        channels: C of the map.
        precision: ``torch.float32``, or ``torch.bfloat16`` to multiply in; the map is float32 all the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        """Build the named network with random weights, in evaluation mode.

        Raises UserError where no backbone has that name.
        """
        super().__init__()
        if name not in BACKBONES:
            raise UserError(
                f"backbone.name: no backbone is called {name!r}; there are {', '.join(BACKBONES)}"
            )
        recipe = BACKBONES[name]
        self.name = name
        self.precision = torch.float32
        with torch.device("meta"):  # no time for weights that are replaced, nor for the layers cut off
            layers = recipe.build()
        self.layers = layers.to_empty(device="cpu").to(memory_format=torch.channels_last)
        self.randomise(seed=0)
        self.geometry, self.channels = derive_geometry(self.layers)
        self.register_buffer("mean", torch.tensor(recipe.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(3, 1, 1) * 255, persistent=False)
        self.eval().requires_grad_(False)

    @cached_property
    def non_negative(self) -> bool:
        """Whether no cell of a map is ever negative, as after a ReLU; read off the layers."""
        return never_negative(self.layers)

    def forward(self, images: Tensor) -> Tensor:
        """RGB ``[B, 3, H, W]``, uint8 or in [0, 255], ``-> [B, C, h, w]`` maps, channels-last.

        An image smaller than `Geometry.smallest_input` is padded to it at the right and bottom with
        the mean colour.
        """
        x = images.to(self.mean.dtype, copy=True, memory_format=torch.channels_last)
        x.sub_(self.mean).div_(self.std)
        short = [max(0, self.geometry.smallest_input - side) for side in x.shape[2:]]
        if any(short):
            x = nn.functional.pad(x, (0, short[1], 0, short[0]))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            maps: Tensor = self.layers(x)
        return maps.float()

    def at(self, precision: Precision) -> Backbone:
        """Compute at that precision from now on.

        ``auto`` is bfloat16 where the device has it in hardware and the map of an image of soft noise
        stays within `HARMLESS` of itself, and float32 elsewhere.
        """
        device = self.mean.device
        self.precision = torch.float32
        if precision == "bfloat16" or (precision == "auto" and has_bfloat16(device)):
            noise = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)).to(device) * 255
            image = nn.functional.interpolate(noise, size=(224, 224), mode="bilinear")
            with torch.inference_mode():
                exact = self(image)
                self.precision = torch.bfloat16
                error = float((self(image) - exact).norm() / exact.norm())
            logger.debug("%s: bfloat16 moves conv5 by %.2g of its norm", self.name, error)
            if precision == "auto" and not error < HARMLESS:
                logger.info("%s: bfloat16 would move conv5 by %.2g of its norm; float32", self.name, error)
                self.precision = torch.float32
        return self

    def digest(self) -> str:
        """A key of the weights and the precision."""
        whole = hashlib.blake2b(str(self.precision).encode(), digest_size=16)
        for name, tensor in self.layers.state_dict().items():
            whole.update(name.encode())
            whole.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()

    def randomise(self, seed: int) -> None:
        """He's initialisation, which keeps the spread of the signal through every ReLU, though not through
        residual sums: it grows there, a hundredfold in ResNet-50."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                layer.reset_parameters()

    def load_weights(self, weights: str, seed: int = 0) -> Backbone:
        """Fill in the weights: ``default`` (torchvision's download), ``random`` (by the seed) or a file.

        A file is a ``.safetensors`` or ``.pth`` state dict of the whole network in torchvision's
        names; only the part before conv5 is read, and all of it must be there, but for batch
        normalisation's count of batches, which old files lack and evaluation does not read. Raises
        UserError where it is not, or where there is no network to download from.
        """
        if weights == "random":
            logger.warning("backbone.weights: random; without pre-training expect a weak detector")
            self.randomise(seed)
            return self
        recipe = BACKBONES[self.name]
        state = downloaded_state(recipe.network) if weights == "default" else read_state(Path(weights))
        wanted = {key: recipe.prefix + key for key in self.layers.state_dict()}
        wanted = {k: n for k, n in wanted.items() if n in state or not k.endswith("num_batches_tracked")}
        missing = [name for name in wanted.values() if name not in state]
        if missing:
            raise UserError(f"backbone.weights: {weights} is not a {self.name}: it has no {missing[0]}")
        try:
            self.layers.load_state_dict({key: state[name] for key, name in wanted.items()})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"backbone.weights: {weights} is not a {self.name}: {reason}") from error
        return self


def downloaded_state(name: str) -> Mapping[str, Tensor]:
    """The state dict of torchvision's whole network of that name; UserError where it cannot be had."""
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
    except ValueError:
        raise UserError(
            f"backbone.weights: torchvision has no weights for {name}; name a file, or 'random'"
        ) from None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise UserError(
            f"backbone.weights: could not download {weights.url} ({error}); fetch it by hand into {folder}, "
            "or set backbone.weights=FILE"
        ) from error
    except Exception as error:  # a wrong hash is a RuntimeError, a damaged earlier download anything
        raise UserError(
            f"backbone.weights: what came from {weights.url} is not the weights ({_first_line(error)}); "
            f"remove it from {folder} and try again, or set backbone.weights=FILE"
        ) from error
    return state


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a ``.safetensors`` or ``.pth`` file; UserError where it is none. Runs no code."""
    if not path.is_file():
        raise UserError(f"backbone.weights: no such file: {path} (or say 'default' or 'random')")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"backbone.weights: cannot read {path}: {_first_line(error)}") from error
    except Exception as error:  # weights_only refuses code by raising pickle.UnpicklingError and others
        raise UserError(f"backbone.weights: {path} is not a plain state dict; refused") from error
    if not isinstance(state, Mapping):
        raise UserError(f"backbone.weights: {path} holds a {type(state).__name__}, not a state dict")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
