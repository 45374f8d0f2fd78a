"""The examples in docstrings say what happens, and everything public has one.

They run in a folder that holds what they name: a data set, ``photos``, of few small photos, one of them as
``photo.jpg``, two models and a recipe.
"""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import spp_det
from spp_det.config.network import BackboneSettings, Pyramid
from spp_det.data.synthetic import generate_voc
from spp_det.model.backbone import Backbone
from spp_det.model.detector import Detector
from spp_det.model.features import SPPFeatures
from spp_det.model.model_file import ModelSettings
from spp_det.model.svm import LinearSVMs

ROOT = Path(spp_det.__file__).parent
PUBLIC = [name for name in spp_det.__all__ if name != "__version__"]
EXPLAINED = {"UserError", "Dataset", "read_coco", "write_voc"}  # used in the example of a sister, or raised


def examples() -> list[doctest.DocTest]:
    """Of all modules whose source has any."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if ">>>" not in path.read_text(encoding="utf-8"):
            continue
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        found += [test for test in doctest.DocTestFinder().find(module) if test.examples]
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    generate_voc(folder / "photos", {"trainval": 4}, seed=1, sizes=((130, 110),))
    shutil.copy(sorted((folder / "photos" / "JPEGImages").iterdir())[0], folder / "photo.jpg")
    backbone = {"name": "zf5_small", "weights": "random", "scales": [96]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"backbone": backbone}))
    settings = ModelSettings(
        backbone=BackboneSettings(name="zf5_small", weights="random", scales=(96,)),
        pyramid=Pyramid(levels=(2, 1)),
    )
    features = SPPFeatures(Backbone("zf5_small"), settings.backbone, settings.pyramid)
    for seed, name in enumerate(("model", "other")):
        weight = torch.randn(2, features.dimension, generator=torch.Generator().manual_seed(seed))
        svms = LinearSVMs(0.05 * weight, torch.zeros(2))
        Detector(("cat", "dog"), features, None, svms, (), settings).save(folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_does_what_it_says(example, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_explained(name):
    thing = getattr(spp_det, name)
    assert thing.__name__ == name
    assert thing.__doc__
    assert name in EXPLAINED or ">>>" in thing.__doc__
    assert name in (spp_det.__doc__ or "")


def test_what_is_not_public_is_not_there():
    assert dir(spp_det) == sorted(spp_det.__all__)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = spp_det.nosuch
