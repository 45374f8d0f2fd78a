"""``python -m spp_det`` is ``spp-det``, but for what Python itself imports before this file (SECURITY.md)."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  (pathlib is not imported yet)
    del sys.path[0]  # Python looks for modules in the current folder first, which may be anybody's

from spp_det.cli import main

main()
