"""numba, imported in one place: ``from spp_det.kernels import numba``.

numba takes settings from a file in the current folder, which may be anybody's: one of them names the folder
of compiled kernels, and what lies there is run. Here that file is not read: numba goes without it where it
finds no reader of YAML. Settings in environment variables count as before.
"""

from __future__ import annotations

import sys
import warnings

__all__ = ["numba"]

if "numba" in sys.modules:  # a program that has imported it before may want that file
    import numba
else:
    warnings.filterwarnings("ignore", "A Numba config file is found")
    found = sys.modules.get("yaml")
    sys.modules["yaml"] = None  # type: ignore[assignment]
    try:
        import numba
    finally:
        del sys.modules["yaml"]
        if found is not None:
            sys.modules["yaml"] = found
