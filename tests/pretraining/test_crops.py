"""Pre-training on crops: it learns, repeats itself to the byte, and its file is read back as weights."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.pretraining.crops import pretrain_on_crops
from spp_det.pretraining.pretrain import save_backbone


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrain") / "voc"
    generate_voc(root, {"pretrain": 8}, seed=2, sizes=((130, 110),))
    return read_voc(root, "pretrain")


def pretrain(dataset, **options) -> Backbone:
    settings = {"sizes": (24, 32), "epochs": 2, "learning_rate": 1e-3, "seed": 0, "crops_per_object": 2}
    return pretrain_on_crops(dataset, "zf5_small", **(settings | options))


@pytest.fixture(scope="module")
def backbone(dataset) -> Backbone:
    return pretrain(dataset)


def test_the_same_seed_gives_the_same_bytes_whatever_the_random_state(dataset, backbone, tmp_path):
    save_backbone(backbone, tmp_path / "one.safetensors")
    torch.rand(5)
    save_backbone(pretrain(dataset), tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_another_seed_gives_other_weights(dataset, backbone):
    assert pretrain(dataset, seed=1).digest() != backbone.digest()


def test_the_random_state_of_the_program_is_left_alone(dataset):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    pretrain(dataset, epochs=1, crops_per_object=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_backbone_comes_back_trained_frozen_and_in_evaluation_mode(backbone):
    assert backbone.digest() != Backbone("zf5_small").digest()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert all(tensor.isfinite().all() for tensor in backbone.layers.state_dict().values())


def accuracies(caplog) -> list[float]:
    found = [re.search(r"^epoch .* accuracy ([\d.]+),", record.getMessage()) for record in caplog.records]
    return [float(match[1]) for match in found if match]


def test_accuracy_rises_far_above_chance(dataset, caplog):
    """Seven labels; always background would be right for 32 of the 80 crops."""
    with caplog.at_level(logging.DEBUG, logger="spp_det"):
        pretrain(dataset, epochs=6, sizes=(32,), learning_rate=4e-3)
    course = accuracies(caplog)
    assert len(course) == 6
    assert course[-1] > 0.5
    assert course[-1] > course[0] + 0.3


def test_sizes_are_taken_in_turn(dataset, caplog):
    with caplog.at_level(logging.DEBUG, logger="spp_det"):
        pretrain(dataset, sizes=(16, 32), epochs=3, crops_per_object=1)
    sizes = [re.search(r"size (\d+)", record.getMessage()) for record in caplog.records]
    assert [int(match[1]) for match in sizes if match] == [16, 32, 16]


def test_a_saved_backbone_is_read_back_by_load_weights(backbone, tmp_path):
    path = tmp_path / "folder" / "backbone.safetensors"
    save_backbone(backbone, path)
    again = Backbone("zf5_small").load_weights(str(path))
    assert again.digest() == backbone.digest()
    image = torch.randint(0, 256, (1, 3, 70, 90), dtype=torch.uint8)
    assert torch.equal(again(image), backbone(image))
    with pytest.raises(UserError, match="is not a alexnet"):
        Backbone("alexnet").load_weights(str(path))
