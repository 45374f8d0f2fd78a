"""``python -m spp_det`` is ``spp-det``."""

from spp_det.cli import main

main()
