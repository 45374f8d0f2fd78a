"""The configuration of a training that takes seconds."""

from __future__ import annotations

from pathlib import Path

from spp_det.config.file import parse_config
from spp_det.config.settings import Config


def configure(folder: Path, output: Path, **data: str) -> Config:
    """Of the data set ``voc`` in a folder, which keeps the cache too; ``data`` goes into that section."""
    tree = {
        "output": str(output),
        "data": {"root": str(folder / "voc"), **data},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "runtime": {"device": "cpu", "cache": str(folder / "cache")},
    }
    return parse_config(tree, "test")
