"""The compiled kernels: no process compiles what another has compiled."""

from __future__ import annotations

import subprocess
import sys

COMPILED = """
import numpy as np, torch
from spp_det.model import pooling_cpu, pyramid
cells, windows = torch.rand(2, 5, 6), np.array([[0, 0, 3, 4]])
pyramid.pool_windows(cells, windows)
pyramid.score_windows(cells, windows, torch.rand(3, 100), torch.rand(3))
kernels = pooling_cpu._pool_kernel, pooling_cpu._score_kernel
"""


def test_what_one_process_has_compiled_no_other_compiles_again():
    exec(COMPILED, {})  # the first one after the installation
    said = "print(sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels))"
    command = [sys.executable, "-c", COMPILED + said]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"
