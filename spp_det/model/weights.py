"""Weights of networks: random, or from a file, a package or torchvision. No code in a file runs."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spp_det.errors import UserError
from spp_det.runtime.files import check_unpacked, open_regular

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def randomise(layers: nn.Module, seed: int) -> None:
    """He's initialisation, biases zero: the spread of the signal stays the same through every ReLU.

    Through residual sums the spread grows, a hundredfold in ResNet-50.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            layer.reset_parameters()


def digest_of(layers: nn.Module, *use: object) -> str:
    """A key of all weights, and of how they are used, such as the precision to multiply them in."""
    whole = hashlib.blake2b(str(use).encode(), digest_size=16)
    for name, tensor in layers.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().numpy().data)
    return whole.hexdigest()


def packaged(package: str, key: str) -> Mapping[str, Tensor]:
    """The state dict in an installed package, ``PACKAGE/models/*.pth``. The package is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{key}: the package {package.replace('_', '-')} is not installed: "
            f"pip install 'spp_det[lite]', or set {key}=FILE"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise UserError(f"{key}: {folder} holds {len(files)} files *.pth, not one; install it anew")
    return _read(files[0], key)


def downloaded(name: str, key: str) -> Mapping[str, Tensor]:
    """The state dict of torchvision's whole network of that name."""
    from torchvision import models  # takes a second, and is needed here alone

    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError:
        raise UserError(f"{key}: torchvision has no weights for {name}; name a file, or 'random'") from None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise UserError(
            f"{key}: could not download {weights.url} ({error}); fetch it by hand into {folder}, "
            f"or set {key}=FILE"
        ) from error
    except Exception as error:  # a wrong hash is a RuntimeError, a damaged earlier download anything
        raise UserError(
            f"{key}: what came from {weights.url} is not the weights ({first_line(error)}); "
            f"remove it from {folder} and try again, or set {key}=FILE"
        ) from error
    return state


def _read(path: Path, key: str) -> Mapping[str, Tensor]:
    """The state dict in a ``.safetensors`` or ``.pth`` file."""
    if not path.is_file():
        raise UserError(f"{key}: no such file: {path} (or say 'default' or 'random')")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except UserError as error:
        raise UserError(f"{key}: {path}: {error}") from error
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{key}: cannot read {path}: {first_line(error)}") from error
    except Exception as error:  # weights_only refuses code with pickle.UnpicklingError and others
        raise UserError(f"{key}: {path} is not a plain state dict; refused") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{key}: {path} holds a {type(state).__name__}, not a state dict")
    return _plain(state, f"{key}: {path}")


def _unpickled(path: Path) -> Any:
    """What a ``.pth`` holds, by torch's reader that runs no code. Raises UserError for a bomb."""
    with open_regular(path) as file:
        if zipfile.is_zipfile(file):
            check_unpacked(zipfile.ZipFile(file), os.fstat(file.fileno()).st_size)
        file.seek(0)
        with suppress(tarfile.TarError):
            tarfile.open(fileobj=file, mode="r:").close()
            raise UserError("it is in torch's oldest format, a tar, which is not read")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _plain(state: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """The same state dict. Raises UserError where one of its tensors is none that a network can have."""
    for key, tensor in state.items():
        if isinstance(tensor, Tensor) and not is_plain(tensor):
            kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise UserError(f"{name}: {str(key)[:100]} is no plain tensor of numbers ({kind})")
    return state


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers of its own, of a type that torch computes with: neither sparse, nested
    nor without storage, nor a few numbers that stand for many."""
    return (
        tensor.dtype in FLOATS + INTEGERS
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_nested or tensor.is_quantized)
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


Source = Callable[[str, str], Mapping[str, Tensor]]
"""From a network's name and the setting that errors speak of to the network's state dict."""


def state_of(weights: str, network: str, key: str, source: Source = downloaded) -> Mapping[str, Tensor]:
    """The state dict of ``network`` from its source where ``weights`` is ``default``, else from that file.

    ``key`` is the setting that an error speaks of. Raises UserError where there is no such state dict.
    """
    return source(network, key) if weights == "default" else _read(Path(weights), key)


def check_finite(tensor: object, name: str) -> None:
    """Raise UserError for a tensor that holds NaN or infinity; integers and objects of other types pass."""
    if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
        raise UserError(f"{name} holds a number that is not finite")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
