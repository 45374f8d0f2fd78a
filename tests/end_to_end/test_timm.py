"""Networks of timm from their training to their detections; weights random, so that nothing is downloaded."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from spp_det import Detector
from spp_det.config.file import parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.images import read_image
from spp_det.training import stages
from tests.command_line import assert_one_line, spp_det

pytest.importorskip("timm", reason="networks of timm: timm is not installed")

NETWORKS = {"convnext_atto": 8, "resnet18.a1_in1k": None, "mobilenetv4_conv_small": None}  # and the stride


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    generate_voc(root, {"trainval": 5}, seed=1, sizes=((130, 110),))
    return root


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, voc, tmp_path_factory):
    """The detector that a network was trained into, and the file that it was saved in."""
    output = tmp_path_factory.mktemp("run")
    backbone = {"name": f"timm:{request.param}", "stride": NETWORKS[request.param]}
    config = parse_config(
        {
            "output": str(output),
            "data": {"root": str(voc)},
            "backbone": {**backbone, "weights": "random", "scales": [96]},
            "pyramid": {"levels": [2, 1], "normalize": "signed_root"},
            "runtime": {"device": "cpu"},
        },
        "test",
    )
    detector = stages.train(config).detector
    detector.save(output / "model.safetensors")
    return detector, output / "model.safetensors"


def test_a_detector_on_it_is_trained_saved_and_loaded(trained, voc):
    before, path = trained
    after = Detector.load(path)
    assert after.features.backbone.name == before.features.backbone.name
    assert after.features.backbone.geometry == before.features.backbone.geometry
    image = read_image(sorted((voc / "JPEGImages").iterdir())[0])
    expected, found = before.detect(image), after.detect(image)
    assert len(expected["scores"])
    for key in ("boxes", "labels", "scores"):
        assert np.array_equal(expected[key], found[key])


def test_without_timm_its_model_says_what_to_install_and_is_not_called_damaged(trained, voc, monkeypatch):
    _, path = trained
    monkeypatch.setitem(sys.modules, "timm", None)
    ended = spp_det("detect", path, voc / "JPEGImages", "--out", path.parent / "found")
    assert_one_line(ended, "backbone.name", "pip install 'spp_det[timm]'")
    assert "damaged" not in ended.err
