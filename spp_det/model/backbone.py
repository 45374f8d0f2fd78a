"""The convolutional network up to conv5: which ones there are, their weights, and their geometry.

To add one, register a function that builds the convolutional part without weights::

    @register("mine", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    def mine() -> nn.Module:
        return torchvision.models.densenet121(weights=None).features

Stride, offset and number of channels are derived from the layers; nothing else is needed. If
torchvision offers weights under the same name, ``weights: default`` downloads them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


BACKBONES: dict[str, Recipe] = {}


def register(
    name: str,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    prefix: str = "features.",
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Make a backbone known by that name to configs and model files. See the module's docstring."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        BACKBONES[name] = Recipe(name, build, mean, std, prefix)
        return build

    return add


@register("squeezenet1_0")
def squeezenet1_0() -> nn.Module:
    """SqueezeNet 1.0 to fire9: stride 16, 512 channels. Small and strong: the one for laptops."""
    layers: nn.Module = torchvision.models.squeezenet1_0(weights=None).features
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
        self._randomise(seed=0)
        self.geometry, self.channels = derive_geometry(self.layers)
        self.register_buffer("mean", torch.tensor(recipe.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(3, 1, 1) * 255, persistent=False)
        self.eval().requires_grad_(False)

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

    def _randomise(self, seed: int) -> None:
        """He's initialisation, which keeps the spread of the signal through every ReLU."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()

    def load_weights(self, weights: str, seed: int = 0) -> Backbone:
        """Fill in the weights: ``default`` (torchvision's download), ``random`` (by the seed) or a file.

        A file is a ``.safetensors`` or ``.pth`` state dict of the whole network in torchvision's
        names; only the part before conv5 is read, and all of it must be there. Raises UserError
        where it is not, or where there is no network to download from.
        """
        if weights == "random":
            logger.warning("backbone.weights: random; without pre-training expect a weak detector")
            self._randomise(seed)
            return self
        state = downloaded_state(self.name) if weights == "default" else read_state(Path(weights))
        prefix = BACKBONES[self.name].prefix
        wanted = {key: prefix + key for key in self.layers.state_dict()}
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
