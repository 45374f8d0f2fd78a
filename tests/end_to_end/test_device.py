"""The whole journey on each device that there is: it ends, and what it finds is what the CPU finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spp_det import Detector
from spp_det.config.file import parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.inference import detect_files
from spp_det.model.ensemble import Ensemble
from spp_det.proposals.source import WindowSource
from spp_det.training.stages import train
from tests.command_line import assert_one_line, spp_det

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    ),
]
FINE_TUNED = {
    "fc": {"layer": "fc7", "weights": "random", "width": 32},
    "finetune": {"enabled": True, "centre": True, "steps": 3, "last_steps": 1, "batch": 8},
}
WAYS = {
    "pool5": {"backbone": {"scales": [96, 128]}, "bbox": {"passes": 2}},
    "fc7": {"backbone": {"scales": [96, 128]}, **FINE_TUNED},
    "softmax": {**FINE_TUNED, "scorer": "softmax"},
    "rcnn": {"features": "rcnn", "proposals": {"max_side": 24}},  # every window passes the network
}


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("device") / "voc"
    generate_voc(root, {"trainval": 9}, seed=5, sizes=((120, 96), (96, 120)))
    return root


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_a_training_on_the_device_makes_a_model_for_every_device(voc, tmp_path, way, device):
    tree = {
        "output": str(tmp_path / "run"),
        "data": {"root": str(voc)},
        "proposals": {"max_side": 64},
        "runtime": {"device": device, "precision": "float32"},
        "detection": {"score_threshold": -50.0, "max_per_image": 20},
        **WAYS[way],
    }
    tree["backbone"] = {"name": "zf5_small", "weights": "random", "scales": [96], **tree.get("backbone", {})}
    trained = train(parse_config(tree, "test"))
    assert trained.detector.device.type == device
    trained.detector.save(tmp_path / "model.safetensors")
    there = Detector.load(tmp_path / "model.safetensors", device, "float32")
    here = Detector.load(tmp_path / "model.safetensors", "cpu", "float32")
    paths = [record.path for record in read_voc(voc, "trainval").records]
    paths = paths[:2] if way == "rcnn" else paths  # 9, more than a GPU takes at once
    found = list(detect_files(there, paths, 2, WindowSource.of_model(there.searches, "no search")))
    for path, result, listed in zip(paths, found, there(paths), strict=True):
        expected = here(path)
        assert len(expected["scores"]) > 0
        for mine in (result.detections, listed):
            assert len(mine["scores"]) == len(expected["scores"])
            np.testing.assert_allclose(mine["scores"][:5], expected["scores"][:5], atol=0.05)
    together = Ensemble([there, there])(paths[0])
    np.testing.assert_allclose(together["scores"], found[0].detections["scores"], atol=0.05)


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cuda:7"])
def test_a_device_that_is_not_there_is_one_line_wherever_it_is_named(voc, tmp_path, device, empty_config):
    settings = (f"data.root={voc}", f"output={tmp_path / 'run'}", f"runtime.device={device}")
    random = ("backbone.name=zf5_small", "backbone.weights=random")
    photos, model = voc / "JPEGImages", tmp_path / "model.safetensors"  # which is not opened
    for words in (
        ("train", empty_config, *settings, *random),
        ("ablate", empty_config, *settings, *random, "data.test=trainval"),
        ("pretrain", empty_config, *settings[1:], f"data.root={tmp_path}"),
        ("detect", model, photos, "--out", tmp_path / "found", "--device", device),
        ("benchmark", "--device", device),
        ("info", "--device", device),
    ):
        ended = spp_det(*words)
        assert_one_line(ended, f"device {device!r}: this machine has", "say auto, cpu, cuda or cuda:N")
    assert not (tmp_path / "run").exists()
