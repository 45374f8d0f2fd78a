"""What the table says of each backbone, beside what torchvision's networks and a look at the map say."""

from __future__ import annotations

import pytest
import torch
import torchvision

from spp_det.model.architectures import BACKBONES
from tests.networks import shared


@pytest.mark.parametrize(
    "name", ["squeezenet1_0", "squeezenet1_1", "alexnet", "resnet18", "resnet50_layer4", "mobilenet_v3_large"]
)
def test_normalisation_is_that_of_torchvisions_pre_training(name):
    backbone = shared(name)
    photo = torch.randint(0, 256, (3, 72, 72), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    weights = torchvision.models.get_model_weights(BACKBONES[name].network).DEFAULT
    preprocess = weights.transforms(crop_size=72, resize_size=72)
    expected = backbone.layers(preprocess(photo)[None])
    close = {"rtol": 1e-3, "atol": 1e-3 * float(expected.std())}
    torch.testing.assert_close(backbone(photo[None]), expected, **close)
    torch.testing.assert_close(backbone(photo[None].float()), expected, **close)


@pytest.mark.parametrize("name", BACKBONES)
def test_whether_a_map_is_ever_negative_is_known(name):
    backbone = shared(name)
    negative = ("mobilenet_v3_large", "efficientnet_lite0_dilated", "efficientnet_lite2_dilated")
    assert backbone.non_negative == (name not in negative)
    noise = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    assert (backbone(noise).min() >= 0) == backbone.non_negative
