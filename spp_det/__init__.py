"""SPP-net object detection: selective search, one conv5 map per image, spatial pyramid pooling, SVMs.

>>> from spp_det import Detector, SpatialPyramidPooling

Detection: `Detector`, `Ensemble`. Training: `load_config`, `parse_config`, `train`. Data: `Dataset`,
`Record`, `read_voc`, `read_coco`, `write_voc`, and `evaluate_voc` to hold detections against it. Region
features: `SpatialPyramidPooling`, `pool_windows`, `selective_search`. `UserError` is what a user can mend.

Docstrings and recipes cite two sources by a letter. P is the paper: He, Zhang, Ren, Sun, "Spatial Pyramid
Pooling in Deep Convolutional Networks for Visual Recognition", arXiv 1406.4729v4. R is the code that the
paper's authors released in 2014 (MATLAB and a fork of Caffe); its numbers stand where the paper gives none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spp_det.errors import UserError
from spp_det.version import __version__

if TYPE_CHECKING:
    from spp_det.config.file import load_config, parse_config
    from spp_det.data.coco import read_coco
    from spp_det.data.records import Dataset, Record
    from spp_det.data.voc import read_voc, write_voc
    from spp_det.evaluation.voc import evaluate_voc
    from spp_det.model.detector import Detector
    from spp_det.model.ensemble import Ensemble
    from spp_det.model.pyramid import SpatialPyramidPooling, pool_windows
    from spp_det.proposals import selective_search
    from spp_det.training.stages import train

__all__ = [
    "Dataset",
    "Detector",
    "Ensemble",
    "Record",
    "SpatialPyramidPooling",
    "UserError",
    "__version__",
    "evaluate_voc",
    "load_config",
    "parse_config",
    "pool_windows",
    "read_coco",
    "read_voc",
    "selective_search",
    "train",
    "write_voc",
]

_HOMES = {
    "Dataset": "spp_det.data.records",
    "Detector": "spp_det.model.detector",
    "Ensemble": "spp_det.model.ensemble",
    "Record": "spp_det.data.records",
    "SpatialPyramidPooling": "spp_det.model.pyramid",
    "evaluate_voc": "spp_det.evaluation.voc",
    "load_config": "spp_det.config.file",
    "parse_config": "spp_det.config.file",
    "pool_windows": "spp_det.model.pyramid",
    "read_coco": "spp_det.data.coco",
    "read_voc": "spp_det.data.voc",
    "selective_search": "spp_det.proposals",
    "train": "spp_det.training.stages",
    "write_voc": "spp_det.data.voc",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `spp-det --help`, or word of a missing library, should not wait.
    if name not in _HOMES:
        raise AttributeError(f"module 'spp_det' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__  # for tab completion: the names are there before they are imported
