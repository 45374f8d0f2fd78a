"""The tutorial of the README, pasted block by block into a folder with generated photos."""

from __future__ import annotations

import re
import shutil
from code import InteractiveConsole
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from spp_det import Dataset, read_voc, write_voc
from spp_det.data.synthetic import generate_voc

README = Path(__file__).parents[1] / "README.md"


def tutorial() -> list[str]:
    """The Python blocks of the section; none where it is missing."""
    section = re.search(r"^## Tutorial$(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S)
    return [] if section is None else re.findall(r"^```python\n(.*?)^```$", section[1], re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What the reader has: photos in VOC's layout, and torchvision's weights, here random, on disk."""
    photos = tmp_path / "photos"
    generate_voc(photos, {"trainval": 2, "test": 1}, seed=1, sizes=((110, 96),))
    for split in ("trainval", "test"):  # one class: six take their time
        dataset = read_voc(photos, split)
        records = [replace(record, labels=np.zeros_like(record.labels)) for record in dataset.records]
        write_voc(Dataset(("thing",), records), photos, split)
    shutil.copy(next((photos / "JPEGImages").glob("test*")), tmp_path / "photo.jpg")
    weights = tmp_path / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    url = torchvision.models.get_model_weights("squeezenet1_0").DEFAULT.url
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_0().state_dict(), weights / url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Prompt(InteractiveConsole):
    """Python's prompt, where a loop ends with an empty line; what it would print of an error is raised."""

    def showtraceback(self) -> None:
        raise

    def showsyntaxerror(self, *_: object, **__: object) -> None:
        raise


def test_the_tutorial_is_there_and_trains_in_about_ten_lines():
    blocks = tutorial()
    assert len(blocks) >= 4, "README.md has no section '## Tutorial' with its blocks of Python"
    assert len([line for line in blocks[0].splitlines() if line]) <= 12


@pytest.mark.skipif(not tutorial(), reason="said by the test above")
def test_pasted_line_by_line_the_tutorial_works(folder, capsys):
    prompt = Prompt(filename="README.md")
    for block in tutorial():
        for line in [*block.splitlines(), ""]:
            prompt.push(line)
    assert (folder / "runs" / "mine" / "model.safetensors").is_file()
    said = capsys.readouterr().out
    assert "mAP@.5" in said
    assert "thing: " in said
    assert prompt.locals["detector"].classes == ("thing",)
    assert prompt.locals["vectors"].shape == (len(prompt.locals["windows"]), 50, 512)


def test_the_files_that_it_names_are_there():
    root = README.parent
    named = set(re.findall(r"[\w/]+\.(?:py|yaml|sh)\b", README.read_text(encoding="utf-8")))
    ours = {name for name in named if "/" in name}
    assert len(ours) > 20
    assert not {name for name in ours if not any((at / name).exists() for at in (root, root / "spp_det"))}
