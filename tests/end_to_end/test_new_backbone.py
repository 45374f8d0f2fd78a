"""A backbone that is registered as the documentation says, from its registration to the detections."""

from __future__ import annotations

import textwrap

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from spp_det.config.file import parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.errors import UserError
from spp_det.model import architectures
from spp_det.model.architectures import BACKBONES
from spp_det.model.backbone import Backbone
from spp_det.pretraining.pretrain import PyramidClassifier
from spp_det.training import stages
from tests.small_run import assert_read_as_written


def documented() -> str:
    """The example in the docstring of the module that registers backbones."""
    lines = (architectures.__doc__ or "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith("::")) + 1
    end = next(i for i, line in enumerate(lines[start:], start) if line and not line.startswith("    "))
    return textwrap.dedent("\n".join(lines[start:end])).strip()


@pytest.fixture(scope="module")
def mine():
    """The name under which the example registers its network."""
    before = dict(BACKBONES)
    names = {"register": architectures.register, "nn": nn, "torchvision": torchvision}
    exec(documented(), names)
    (name,) = BACKBONES.keys() - before.keys()
    yield name
    del BACKBONES[name]


def test_it_takes_a_few_lines(mine):
    assert len(documented().splitlines()) < 15
    assert mine in documented()


def test_all_else_is_derived(mine):
    backbone = Backbone(mine)
    # Of VGG, only the four pools of 2 shift, each by half its stride.
    assert (backbone.geometry.stride, backbone.geometry.offset) == (16, (1 + 2 + 4 + 8) / 2)
    assert backbone.channels == 512
    assert backbone.non_negative
    maps = backbone(torch.zeros(1, 3, 70, 90, dtype=torch.uint8))
    assert maps.shape == (1, 512, 4, 5)
    assert backbone.at("auto").precision in (torch.float32, torch.bfloat16)


def test_it_takes_the_weights_of_the_whole_network(mine, tmp_path):
    with torch.device("meta"):
        names = torchvision.models.get_model(BACKBONES[mine].network, weights=None).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(tensor.shape, generator=generator)
        for name, tensor in names.items()
        if name.startswith("features.")  # the classifier, which is not asked for, is large
    }
    save_file(state, tmp_path / "whole.safetensors")
    loaded = Backbone(mine).load_weights(str(tmp_path / "whole.safetensors")).layers.state_dict()
    assert len(loaded) == len(state)
    assert all(torch.equal(tensor, state["features." + name]) for name, tensor in loaded.items())


def test_it_learns(mine):
    """As in pre-training: gradients reach its first filter, through all of it."""
    with torch.random.fork_rng(devices=[]):
        network = PyramidClassifier(Backbone(mine), classes=3).train()
        network.backbone.requires_grad_(True)
        images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        network(images).logsumexp(1).sum().backward()
    for parameter in network.backbone.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert next(network.backbone.parameters()).grad.any()


def settings(root, output, **backbone):
    return parse_config(
        {
            "output": str(output),
            "data": {"root": str(root)},
            "backbone": {"weights": "random", "scales": [96], **backbone},
            "pyramid": {"levels": [2, 1], "normalize": "hellinger"},
            "runtime": {"device": "cpu"},
        },
        "test",
    )


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    generate_voc(root, {"trainval": 5}, seed=1, sizes=((130, 110),))
    return root


def test_a_detector_on_it_is_trained_saved_and_loaded(mine, voc, tmp_path):
    trained = stages.train(settings(voc, tmp_path, name=mine)).detector
    trained.save(tmp_path / "model.safetensors")
    assert trained.features.backbone.name == mine
    assert_read_as_written(trained, tmp_path / "model.safetensors", min((voc / "JPEGImages").iterdir()))


def test_square_roots_of_a_negative_map_are_refused_before_any_work(voc, tmp_path, monkeypatch):
    def no_work(*_arguments, **_options):
        raise AssertionError("training has started")

    monkeypatch.setattr(stages, "TrainingImages", no_work)
    with pytest.raises(UserError, match=r"^pyramid\.normalize: .*mobilenet_v3_large"):
        stages.train(settings(voc, tmp_path, name="mobilenet_v3_large"))
    assert not any(tmp_path.iterdir())
