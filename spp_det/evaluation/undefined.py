"""Figures that are not defined, such as the recall of a class without objects.

They are NaN in memory, null in JSON (`as_json`) and a dash in tables (`spp_det.report.tables.percent`).
"""

from __future__ import annotations

import math
from typing import Any


def as_json(figures: Any) -> Any:
    """A figure, or mappings of figures, as JSON holds them: None for NaN.

    >>> as_json({"AP": 0.5, "cat": {"AP": float("nan")}})
    {'AP': 0.5, 'cat': {'AP': None}}
    """
    if isinstance(figures, dict):
        return {name: as_json(value) for name, value in figures.items()}
    return None if isinstance(figures, float) and math.isnan(figures) else figures
