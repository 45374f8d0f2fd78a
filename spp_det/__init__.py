"""SPP-net object detection: selective search, one conv5 map per image, spatial pyramid pooling, SVMs.

>>> from spp_det import Detector, SpatialPyramidPooling
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spp_det.errors import UserError
from spp_det.version import __version__

if TYPE_CHECKING:
    from spp_det.model.detector import Detector
    from spp_det.model.ensemble import Ensemble
    from spp_det.model.pyramid import SpatialPyramidPooling, pool_windows
    from spp_det.proposals import selective_search

__all__ = [
    "Detector",
    "Ensemble",
    "SpatialPyramidPooling",
    "UserError",
    "__version__",
    "pool_windows",
    "selective_search",
]

_HOMES = {
    "Detector": "spp_det.model.detector",
    "Ensemble": "spp_det.model.ensemble",
    "SpatialPyramidPooling": "spp_det.model.pyramid",
    "pool_windows": "spp_det.model.pyramid",
    "selective_search": "spp_det.proposals",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `spp-det --help`, or word of a missing library, should not wait.
    if name not in _HOMES:
        raise AttributeError(f"module 'spp_det' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
