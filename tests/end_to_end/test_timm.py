"""Networks of timm from their training to their detections; weights random, so that nothing is downloaded."""

from __future__ import annotations

import sys

import pytest

from spp_det.config.file import parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.training import stages
from tests.command_line import assert_one_line, spp_det
from tests.small_run import assert_read_as_written

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
    detector, path = trained
    assert_read_as_written(detector, path, min((voc / "JPEGImages").iterdir()))


def test_without_timm_its_model_says_what_to_install_and_is_not_called_damaged(trained, voc, monkeypatch):
    _, path = trained
    monkeypatch.setitem(sys.modules, "timm", None)
    ended = spp_det("detect", path, voc / "JPEGImages", "--out", path.parent / "found")
    assert_one_line(ended, "backbone.name", "pip install 'spp_det[timm]'")
    assert "damaged" not in ended.err
