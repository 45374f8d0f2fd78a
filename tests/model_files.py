"""Small model files, changed model files, and the refusals that they meet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spp_det import Detector
from spp_det.config.network import FC, BackboneSettings, Pyramid
from spp_det.config.settings import Detection, Proposals
from spp_det.errors import UserError
from spp_det.model.geometry import Geometry
from spp_det.model.model_file import FORMAT, ModelFile, ModelSettings, _checksum

SETTINGS = ModelSettings(
    proposals=Proposals(mode="file", max_side=400, file="/home/someone/a.mat", edge_model="/someone/b.yml"),
    backbone=BackboneSettings(
        name="vgg16", weights="/home/someone/vgg.pth", scales=(480, 688), max_side=1500
    ),
    pyramid=Pyramid(levels=(4, 1), mode="average"),
    fc=FC(layer="fc7", weights="/home/someone/vgg.pth", width=32, rank=(8, 4)),
    detection=Detection(score_threshold=-0.7, nms=0.45, max_per_image=7),
)
SMALL = ModelFile(
    ("kangaroo", "Füchsin 🦊", 'a "quoted" name'),
    SETTINGS,
    Geometry(stride=16, offset=0.5, receptive_field=139, smallest_input=33),
    {
        "svm.weight": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "svm.bias": torch.tensor([0.1, -0.0, 1e-30]),
        "backbone.0.weight": torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last),
        "backbone.1.num_batches_tracked": torch.tensor(7),
        "bbox.half": torch.randn(4).half(),
    },
)


def refused(path: Path, wanted: str = "") -> str:
    """The message of the refusal: one line that names the file."""
    with pytest.raises(UserError) as caught:
        Detector.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert wanted in message
    assert len(message) < len(str(path)) + 500
    return message


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def rewritten(model: Path, path: Path, change) -> Path:
    """The model with something changed, and a checksum that agrees.

    ``change`` gets the tensors and the metadata, its JSON parsed, and alters them in place; text
    stays text.
    """
    tensors, metadata = contents(model)
    parsed = {name: json.loads(metadata[name]) for name in ("classes", "geometry", "settings")}
    change(tensors, parsed)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parsed.items()}
    metadata = {"format": FORMAT} | texts
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata | {"crc32": _checksum(metadata, tensors)})
    return path
