"""What lies in the current folder does not tell numba where compiled kernels, which are run, lie."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PRINT = "from numba.core import config; print([config.CACHE_DIR, config.NUMBA_NUM_THREADS])"


@pytest.mark.parametrize(
    "text", ["cache_dir: kernels", "num_threads: 1\ncache_dir: ../kernels", "[x, y]", "a: [", "\x00"]
)
def test_a_file_in_the_current_folder_changes_no_setting(tmp_path, text):
    def settings(first: str, **environment: str) -> str:
        run = subprocess.run(
            [sys.executable, "-P", "-c", f"{first}\n{PRINT}"],
            cwd=tmp_path,
            env={**os.environ, "NUMBA_CACHE_DIR": "", "NUMBA_NUM_THREADS": "2", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.strip()

    ours = "from spp_det.kernels import numba\nnumba.njit(lambda x: x + 1)(1)"
    (tmp_path / ".numba_config.yaml").write_text(text)
    assert settings(ours) == "['', 2]"
    if "num_threads" in text:
        assert settings(ours, NUMBA_CACHE_DIR="/mine") == "['/mine', 2]"
