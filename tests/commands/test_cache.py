"""The cache of a run, shown and pruned."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from spp_det.errors import one_line
from spp_det.runtime.cache import Cache
from tests.command_line import assert_one_line, spp_det


@pytest.mark.usefixtures("model")
def test_the_cache_is_shown_and_pruned(cli_folder, tmp_path):
    kept = tmp_path / "cache"
    shutil.copytree(cli_folder / "run" / "cache", kept)
    shown = spp_det("cache", kept)
    assert shown.code == 0
    stages = ("maps", "norms", "probabilities", "proposals", "regressors", "svms")
    assert all(stage in shown.out for stage in (*stages, "MiB", "all"))
    assert "mining" not in shown.out  # the checkpoint has gone
    assert Cache(kept).stages() == stages
    assert spp_det("cache", kept, "--prune", "maps", "--older-than", "1").code == 0
    assert Cache(kept).stages() == stages
    pruned = spp_det("cache", kept, "--prune", "maps")
    assert "removed 6 artefacts of maps" in pruned.err
    assert Cache(kept).stages() == stages[1:]
    assert_one_line(spp_det("cache", kept, "--prune", "maps"), "maps", "norms, probabilities, proposals")
    assert_one_line(spp_det("cache", kept, "--older-than", "1"), "--prune")
    assert_one_line(spp_det("cache", tmp_path / "nosuch"), "nosuch")
    assert spp_det("cache", kept, "--prune", "all").code == 0
    assert Cache(kept).stages() == ()


@pytest.mark.parametrize("stage", ["\x1b[2Jmaps", "[red]maps", "ma\u202eps"])
def test_a_stages_name_neither_controls_the_terminal_nor_is_it_markup(tmp_path, stage):
    Cache(tmp_path).store(stage, "a" * 32, {"a": np.zeros(2)})
    ended = spp_det("cache", tmp_path, "--prune", "all")
    assert f"removed 1 artefacts of {one_line(stage)}," in ended.err
    assert all(c.isprintable() or c == "\n" for c in ended.err + ended.out)
