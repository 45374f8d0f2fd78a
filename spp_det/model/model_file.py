"""The model file: one safetensors file with all weights, and the rest as JSON. Nothing is unpickled.

`save_parts` takes a detector apart into tensors and metadata, `load_parts` puts its parts together again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeVar

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from spp_det.config.network import FC, BackboneSettings, Features, Pyramid
from spp_det.config.settings import Detection, Proposals, ScorerKind
from spp_det.config.values import Precision, Section
from spp_det.data.names import check_class_names
from spp_det.errors import MissingPackageError, UserError
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.features import SPPFeatures, WindowFeatures
from spp_det.model.geometry import Geometry
from spp_det.model.head import FCHead
from spp_det.model.probability import Probabilities
from spp_det.model.rcnn import RCNNFeatures
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs
from spp_det.model.weights import is_plain
from spp_det.runtime.cache import checksum
from spp_det.runtime.devices import choose_device
from spp_det.runtime.files import check_regular
from spp_det.runtime.whole_files import write_whole

FORMAT = "spp_det 2"
T = TypeVar("T")

SCORERS: dict[str, str] = {"svm": "svm", "softmax": "fc8"}
"""The prefix of a scorer's tensors in a model file, by the value of ``scorer``."""

REGRESSORS = ("bbox", "bbox2")
"""The prefixes of the tensors of the first and of the second regressor."""


class ModelSettings(Section):
    """The settings that detection depends on beside the weights: sections of the configuration."""

    features: Features = "spp"
    proposals: Proposals = Proposals()
    backbone: BackboneSettings = BackboneSettings()
    pyramid: Pyramid = Pyramid()
    fc: FC = FC()
    scorer: ScorerKind = "svm"
    detection: Detection = Detection()


class ModelParts(NamedTuple):
    """What a `Detector` is made of."""

    classes: Sequence[str]
    features: WindowFeatures
    head: FCHead | None
    scorer: LinearSVMs | SoftmaxScorer
    regressors: Sequence[BoxRegressor]
    settings: ModelSettings
    probability: Probabilities | None = None


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The contents of a model file.

    Attributes:
        classes: names, in the order of the scorer's rows.
        geometry: of the backbone's map, as derived when the model was trained.
        tensors: all weights by name, under ``backbone.``, ``fc.``, ``svm.`` or ``fc8.``, ``bbox.``,
            and, where scores have probabilities, ``probability.``.
    """

    classes: tuple[str, ...]
    settings: ModelSettings
    geometry: Geometry
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor of that shape. Raises ValueError for any other tensor, KeyError where it lacks."""
        tensor = self.tensors[name]
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
        return tensor


# ---------------------------------------------------------------- from and to the parts of a detector


def features_of(backbone: Backbone, settings: ModelSettings) -> WindowFeatures:
    """The window features that the settings describe, on the backbone's device."""
    if settings.features == "rcnn":
        return RCNNFeatures(backbone)
    return SPPFeatures(backbone, settings.backbone, settings.pyramid)


def save_parts(path: str | PathLike[str], parts: ModelParts) -> None:
    """Write a detector's parts into a model file; see `write_model`."""
    write_model(path, _taken_apart(parts))


def fingerprint(parts: ModelParts) -> str:
    """8 hex digits that tell models apart by their content: the checksum that a model's file has."""
    return _checksum(*_contents(_taken_apart(parts)))


def load_parts(path: str | PathLike[str], device: str, precision: Precision) -> ModelParts:
    """Read a detector's parts from a model file; see `Detector.load`."""
    chosen = choose_device(device)
    return read_model(path, lambda model: _put_together(model, chosen, precision))


def _taken_apart(parts: ModelParts) -> ModelFile:
    backbone, prefix = parts.features.backbone, SCORERS[parts.settings.scorer]
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.layers.state_dict().items()}
    if parts.head is not None:
        tensors |= {f"fc.{name}": tensor for name, tensor in parts.head.layers.state_dict().items()}
    linear = {prefix: parts.scorer, **dict(zip(REGRESSORS, parts.regressors, strict=False))}
    for name, part in linear.items():
        tensors |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    if (curves := parts.probability) is not None:
        numbers = {"slope": curves.slope, "intercept": curves.intercept}
        tensors |= {f"probability.{name}": torch.from_numpy(each) for name, each in numbers.items()}
    return ModelFile(tuple(parts.classes), parts.settings, backbone.geometry, tensors)


def _put_together(model: ModelFile, device: torch.device, precision: Precision) -> ModelParts:
    """The inverse of `_taken_apart`. Raises ValueError or KeyError where tensors do not fit each other."""
    settings, classes = model.settings, len(model.classes)
    backbone = Backbone(settings.backbone.name, settings.backbone.stride)
    if model.geometry != backbone.geometry:
        raise ValueError(f"its {backbone.name} has another geometry than this version's")
    try:
        backbone.layers.load_state_dict(model.part("backbone."))
    except RuntimeError as error:  # wrong keys or shapes; a later RuntimeError is the device's
        raise ValueError(str(error)) from error
    features = features_of(backbone.to(device).at(precision), settings)
    fc = model.part("fc.")
    head = FCHead.from_state(fc, features.dimension) if fc else None
    if settings.fc.layer != ("pool5" if head is None else head.layer):
        raise ValueError(f"its layers do not end in {settings.fc.layer}")
    seen = features.dimension if head is None else head.dimension  # length of the scored vectors
    prefix, softmax = SCORERS[settings.scorer], settings.scorer == "softmax"
    rows = classes + softmax  # a softmax scores the background too
    weight, bias = model.tensor(f"{prefix}.weight", rows, seen), model.tensor(f"{prefix}.bias", rows)
    scorer = SoftmaxScorer(weight, bias) if softmax else LinearSVMs(weight, bias)
    regressors = [
        BoxRegressor(
            model.tensor(f"{name}.weight", classes, 4, features.dimension),
            model.tensor(f"{name}.bias", classes, 4),
        )
        for name in REGRESSORS
        if f"{name}.weight" in model.tensors
    ]
    return ModelParts(model.classes, features, head, scorer, regressors, settings, _probability(model))


def _probability(model: ModelFile) -> Probabilities | None:
    """None where the file has no ``probability.``, as files of versions before 0.2 have none."""
    if not model.part("probability."):
        return None
    names = ("probability.slope", "probability.intercept")
    slope, intercept = (model.tensor(name, len(model.classes)).numpy() for name in names)
    if not (slope > 0).all():
        raise ValueError("probability.slope holds a number that is not above 0")
    return Probabilities(slope, intercept)


# ---------------------------------------------------------------- the file


def write_model(path: str | PathLike[str], model: ModelFile) -> None:
    """Write a model file, whole or not at all. Equal contents give equal bytes.

    Raises UserError where a weight is not finite.
    """
    metadata, tensors = _contents(model)
    if (name := _not_finite(tensors)) is not None:
        raise UserError(f"{name} holds a number that is not finite, so the model is not written")
    metadata["crc32"] = _checksum(metadata, tensors)
    write_whole(Path(path), _with_sorted_metadata(save(tensors, metadata)))


def _contents(model: ModelFile) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file, without its checksum."""
    settings = model.settings.model_dump(mode="json")
    # Paths of the machine that made the model are of no use elsewhere, and give away who made it.
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
    """The checksum of everything in the file."""
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


_DAMAGES = (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, UserError)


def read_model(path: str | PathLike[str], assemble: Callable[[ModelFile], T]) -> T:
    """Read a model file and hand it to ``assemble``.

    Raises UserError, one line, where the file is absent, damaged, of another version or not ours, or
    ``assemble`` finds (KeyError, ValueError) that its parts do not fit together. A RuntimeError is no damage:
    it is the memory's or the device's.
    """
    try:
        check_regular(Path(path))  # a pipe would be waited for
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path} is not a model that this version reads: its format is "
                    f"{metadata.get('format', 'not stated')!r}, not {FORMAT!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:  # whatever keeps safetensors from opening the file
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
        if odd := [name for name, tensor in tensors.items() if not is_plain(tensor)]:
            raise ValueError(f"{odd[0]} is of a type that no network has")
        if metadata["crc32"] != _checksum(metadata, tensors):
            raise ValueError("its checksum does not match")
        if (name := _not_finite(tensors)) is not None:
            raise ValueError(f"{name} holds a number that is not finite")
        settings = ModelSettings.model_validate_json(metadata["settings"])
        geometry = Geometry(**json.loads(metadata["geometry"]))
        return assemble(ModelFile(_classes(metadata), settings, geometry, tensors))
    except MissingPackageError:  # the model is sound
        raise
    except _DAMAGES as error:
        raise UserError(f"{path} is a damaged model: {_one_line(error)}") from error


def _classes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    classes = json.loads(metadata["classes"])
    if not all(isinstance(name, str) and name for name in classes) or len(set(classes)) != len(classes):
        raise ValueError(f"classes are distinct names, not {str(classes)[:100]}")
    check_class_names(classes, "classes")
    return tuple(classes)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
