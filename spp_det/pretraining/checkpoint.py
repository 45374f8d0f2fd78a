"""A pre-training that was interrupted goes on: weights, optimiser and epochs in one file of its output.

Random numbers need no place in the file: each epoch seeds its own generator by its number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from spp_det.config.file import differences
from spp_det.errors import UserError, is_out_of_memory
from spp_det.pretraining.learning import Epoch, Progress
from spp_det.runtime.cache import digest
from spp_det.runtime.files import open_regular
from spp_det.runtime.whole_files import write_whole

logger = logging.getLogger(__name__)

FORMAT = "spp_det checkpoint 1"
Conditions = Mapping[str, object]  # everything that the weights depend on, by name; JSON can write it


def save_checkpoint(path: Path, network: nn.Module, progress: Progress, conditions: Conditions) -> None:
    """Write the state of a training, whole or not at all, over the state before."""
    assert progress.optimizer is not None
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    rest: dict[str, Any] = {"groups": progress.optimizer["param_groups"], "state": {}}
    for index, values in progress.optimizer["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                rest["state"].setdefault(str(index), {})[key] = value
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    epochs = [vars(epoch) for epoch in progress.epochs]
    about = json.dumps({"settings": dict(conditions), "epochs": epochs, "optimizer": rest})
    metadata = {"format": FORMAT, "about": about, "digest": _digest(about, tensors)}
    write_whole(path, save(tensors, metadata))


def load_checkpoint(path: Path, network: nn.Module, conditions: Conditions) -> Progress:
    """Give a network the weights of the checkpoint, and return the progress that belongs to them.

    It is the beginning where there is no file and, after a warning, where the file is damaged or of another
    version. Raises UserError, which names the differences, for a checkpoint made with other settings.
    """
    if not path.exists():
        return Progress([])
    open_regular(path).close()  # safetensors waits for a pipe; a file without the right to read it is absent
    try:
        weights, progress = _loaded(path, network, conditions)
    except (
        *(safetensors.SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError),
        *(RuntimeError, RecursionError),
    ) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        logger.warning("%s is damaged, or of another version (%s); beginning anew", path, reason)
        return Progress([])
    network.load_state_dict(weights)  # they fit: an error here is the device's, and no damage
    return progress


def _loaded(path: Path, network: nn.Module, conditions: Conditions) -> tuple[dict[str, Tensor], Progress]:
    """The weights of a checkpoint, which fit the network, and its progress."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        raise ValueError("its format is not ours")
    if metadata["digest"] != _digest(metadata["about"], tensors):
        raise ValueError("its checksum does not match")
    about = json.loads(metadata["about"])
    if different := differences(about["settings"], json.loads(json.dumps(dict(conditions)))):
        again = f"name another output, or remove {path} to begin anew"
        raise UserError(f"{path} was made with other settings ({different}); {again}")
    weights = _part(tensors, "network.")
    if _shapes(weights) != _shapes(network.state_dict()):
        raise ValueError("its weights are of another network")
    return weights, _progress(about, tensors)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _progress(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Progress:
    state: dict[int, dict[str, Any]] = {
        int(i): dict(values) for i, values in about["optimizer"]["state"].items()
    }
    for name, tensor in _part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer = {"state": state, "param_groups": about["optimizer"]["groups"]}
    return Progress([Epoch(**epoch) for epoch in about["epochs"]], optimizer)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of everything in the file: safetensors itself notices no change of a weight."""
    parts: list[object] = [about]
    for name in sorted(tensors):
        parts += [name, tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()]
    return digest(*parts)
