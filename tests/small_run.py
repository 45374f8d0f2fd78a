"""The configuration of a training that takes seconds, and whether its model is read as it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.images import read_image
from spp_det.model.detector import Detector


def configure(folder: Path, output: Path, **data: str) -> Config:
    """Of the data set ``voc`` in a folder, which keeps the cache too; ``data`` goes into that section."""
    tree = {
        "output": str(output),
        "data": {"root": str(folder / "voc"), **data},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "runtime": {"device": "cpu", "cache": str(folder / "cache")},
    }
    return parse_config(tree, "test")


def assert_read_as_written(detector: Detector, path: Path, photo: Path) -> None:
    """A detector that was saved under ``path`` comes back with its network, and finds the same in a photo."""
    loaded = Detector.load(path)
    assert loaded.features.backbone.name == detector.features.backbone.name
    assert loaded.features.backbone.geometry == detector.features.backbone.geometry
    image = read_image(photo)
    expected, found = detector.detect(image), loaded.detect(image)
    assert len(expected["scores"])
    for key in ("boxes", "labels", "scores"):
        assert np.array_equal(expected[key], found[key])
