"""The model file: one safetensors file, all weights and the rest as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from spp_det.config.settings import FC, Backbone, Detection, Features, Proposals, Pyramid, ScorerKind
from spp_det.config.values import Section
from spp_det.errors import UserError, is_out_of_memory
from spp_det.model.geometry import Geometry
from spp_det.runtime.cache import checksum, write_whole

FORMAT = "spp_det 2"
T = TypeVar("T")


class Settings(Section):
    """What detection depends on beside the weights: sections of the configuration."""

    features: Features = "spp"
    proposals: Proposals = Proposals()
    backbone: Backbone = Backbone()
    pyramid: Pyramid = Pyramid()
    fc: FC = FC()
    scorer: ScorerKind = "svm"
    detection: Detection = Detection()


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The contents of a model file.

    Attributes:
        classes: names, in the order of the scorer's rows.
        geometry: of the backbone's map, as derived when the model was trained.
        tensors: all weights by name, under ``backbone.``, ``fc.``, ``svm.`` or ``fc8.``, and ``bbox.``.
    """

    classes: tuple[str, ...]
    settings: Settings
    geometry: Geometry
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor of that shape. Raises ValueError where it is another, KeyError where absent."""
        tensor = self.tensors[name]
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
        return tensor


def write_model(path: str | PathLike[str], model: ModelFile) -> None:
    """Write a model file, whole or not at all. Equal contents give equal bytes.

    Raises UserError where a weight is not finite.
    """
    metadata, tensors = _contents(model)
    if (name := _not_finite(tensors)) is not None:
        raise UserError(f"{name} holds a number that is not finite, so the model is not written")
    metadata["crc32"] = _checksum(metadata, tensors)
    write_whole(Path(path), _with_sorted_metadata(save(tensors, metadata)))


def fingerprint(model: ModelFile) -> str:
    """8 hex digits that tell models apart by their content: the checksum that its file has."""
    return _checksum(*_contents(model))


def _contents(model: ModelFile) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What the file holds, but for its checksum."""
    settings = model.settings.model_dump(mode="json")
    # Paths are of no use to whoever gets the model, and tell of its maker.
    settings["proposals"] = model.settings.proposals.without_paths().model_dump(mode="json")
    settings["backbone"]["weights"] = settings["fc"]["weights"] = "random"
    metadata = {
        "classes": json.dumps(model.classes),
        "format": FORMAT,
        "geometry": json.dumps(vars(model.geometry), sort_keys=True),
        "settings": json.dumps(settings, sort_keys=True),
    }
    tensors = {name: model.tensors[name].detach().cpu().contiguous() for name in sorted(model.tensors)}
    return metadata, tensors


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity; None where all are sound."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Of everything in the file."""
    texts = {name: text for name, text in metadata.items() if name != "crc32"}
    raw = {name: tensor.reshape(-1).view(torch.uint8).numpy() for name, tensor in tensors.items()}
    return checksum([texts, sorted(tensors)], raw)


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same safetensors file with its metadata in alphabetical order: the library's order varies."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_model(path: str | PathLike[str], assemble: Callable[[ModelFile], T]) -> T:
    """Read a model file and hand it to ``assemble``.

    Raises UserError, one line, where the file is absent, damaged, of another version or not ours, or
    ``assemble`` finds (KeyError, ValueError, RuntimeError) that its parts do not fit together.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path} is not a model that this version reads: its format is "
                    f"{metadata.get('format', 'not stated')!r}, not {FORMAT!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:  # safetensors says so whatever hinders it
        if not os.path.lexists(path):
            raise UserError(f"no such model: {path}") from None
        try:
            Path(path).open("rb").close()
        except OSError as hindrance:
            raise UserError(f"{path} cannot be read: {hindrance.strerror}") from None
        raise UserError(f"{path} cannot be read: {_one_line(error)}") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a model of spp_det, or is damaged: {_one_line(error)}") from error
    try:
        if metadata["crc32"] != _checksum(metadata, tensors):
            raise ValueError("its checksum does not match")
        if (name := _not_finite(tensors)) is not None:
            raise ValueError(f"{name} holds a number that is not finite")
        settings = Settings.model_validate_json(metadata["settings"])
        geometry = Geometry(**json.loads(metadata["geometry"]))
        return assemble(ModelFile(_classes(metadata), settings, geometry, tensors))
    except RuntimeError as error:
        if is_out_of_memory(error):  # the model is sound
            raise
        raise UserError(f"{path} is a damaged model: {_one_line(error)}") from error
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, UserError) as error:
        raise UserError(f"{path} is a damaged model: {_one_line(error)}") from error


def _classes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    classes = json.loads(metadata["classes"])
    if not all(isinstance(name, str) and name for name in classes) or len(set(classes)) != len(classes):
        raise ValueError(f"classes are distinct names, not {classes}")
    return tuple(classes)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
