"""README.md, CONTRIBUTING.md and docs/: short, with links and files that exist; the tutorial, pasted in."""

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

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
MOST_LINES = {"README.md": 180, "CONTRIBUTING.md": 60}
LONGEST_CELL = 120  # characters: a longer one belongs into a sentence

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---- the pages


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_page_is_short_enough_to_be_read_to_the_end(name):
    assert len(text(ROOT / name).splitlines()) <= MOST_LINES[name]


@every_page
def test_no_cell_of_a_table_is_a_paragraph(page):
    cells = [
        cell.strip()
        for row in re.findall(r"^\|(.*)\|$", text(page), re.M)
        for cell in re.split(r"(?<!\\)\|", row)
    ]
    assert not [cell for cell in cells if len(cell) > LONGEST_CELL]


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text(page)) if "://" not in link]
    for link in links:
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not fragment or fragment in anchors(target), link


def test_every_page_of_the_documentation_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[\w.]+\.md)\)", text(README)))
    assert {f"docs/{page.name}" for page in PAGES if page.parent == ROOT / "docs"} <= linked


@every_page
def test_the_files_that_it_names_are_there(page):
    named = set(re.findall(r"[\w/]+\.(?:py|yaml|sh)\b", text(page)))
    ours = {name for name in named if "/" in name and "NAME" not in name and not name.startswith("runs/")}
    assert not {name for name in ours if not any((at / name).exists() for at in (ROOT, ROOT / "spp_det"))}


def test_the_architecture_names_every_room():
    rooms = {path.stem for path in (ROOT / "spp_det").iterdir() if not path.name.startswith(("_", "."))}
    table = re.findall(r"^\| (`.*?) \|", text(ROOT / "docs" / "architecture.md"), re.M)
    assert set(re.findall(r"\w+", " ".join(table))) == rooms - {"py", "version"}


# ---- the tutorial


def tutorial() -> list[str]:
    """Its blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```$", text(ROOT / "docs" / "tutorial.md"), re.M | re.S)


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
    assert len(blocks) >= 4, "docs/tutorial.md has lost its blocks of Python"
    assert len([line for line in blocks[0].splitlines() if line]) <= 12


def test_pasted_line_by_line_the_tutorial_works(folder, capsys):
    prompt = Prompt(filename="tutorial.md")
    for block in tutorial():
        for line in [*block.splitlines(), ""]:
            prompt.push(line)
    assert (folder / "runs" / "mine" / "model.safetensors").is_file()
    said = capsys.readouterr().out
    assert "mAP@.5" in said
    assert "thing: " in said
    assert prompt.locals["detector"].classes == ("thing",)
    assert prompt.locals["vectors"].shape == (len(prompt.locals["windows"]), 50, 512)
