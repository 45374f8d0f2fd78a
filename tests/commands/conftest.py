"""A folder of small photos, and what the commands leave of it: trained and detected once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spp_det.data.synthetic import generate_voc
from tests.command_line import Ended, spp_det


@pytest.fixture(scope="session")
def cli_folder(tmp_path_factory) -> Path:
    """Nine small photos in VOC's layout, a recipe, and what the commands leave."""
    folder = tmp_path_factory.mktemp("cli")
    generate_voc(folder / "voc", {"trainval": 6, "test": 3}, seed=1, sizes=((130, 110),))
    recipe = {
        "output": str(folder / "run"),
        "data": {"root": str(folder / "voc")},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "runtime": {"device": "cpu"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="session")
def trained(cli_folder) -> Ended:
    return spp_det("train", cli_folder / "recipe.yaml", "data.test=test")


@pytest.fixture(scope="session")
def model(cli_folder, trained) -> Path:
    assert trained.code == 0, trained.err
    return cli_folder / "run" / "model.safetensors"


@pytest.fixture(scope="session")
def split(cli_folder) -> Path:
    return cli_folder / "voc" / "ImageSets" / "Main" / "test.txt"


@pytest.fixture(scope="session")
def detected(cli_folder, model, split) -> Ended:
    formats = [word for name in ("voc", "yolo", "csv", "devkit") for word in ("--format", name)]
    return spp_det(
        "detect", model, split, "--out", cli_folder / "found", "--draw", *formats, "--device", "cpu"
    )


@pytest.fixture(scope="session")
def found(cli_folder, detected) -> Path:
    assert detected.code == 0, detected.err
    return cli_folder / "found"


@pytest.fixture(scope="session")
def written(cli_folder) -> Path:
    """The windows of the test photos in a file, of the mode that the model was trained with."""
    out = cli_folder / "windows.npz"
    ended = spp_det("proposals", "--voc", cli_folder / "voc", "--split", "test", "--out", out)
    assert ended.code == 0, ended.err
    assert f"windows of 3 images: {out}" in ended.err
    return out
