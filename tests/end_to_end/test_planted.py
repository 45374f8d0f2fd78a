"""Output folders that others can write, or that came from a stranger: nothing is written behind a link."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spp_det.boxes import as_boxes
from spp_det.commands.process import log_to
from spp_det.config.settings import Config
from spp_det.data.download import download_voc
from spp_det.data.records import Dataset, Detections, Record
from spp_det.data.voc import write_voc
from spp_det.data.yolo import write_yolo
from spp_det.detections.output import FORMATS, Output
from spp_det.detections.types import DetectedImage
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.runtime.cache import Cache
from spp_det.runtime.files import open_regular, unlinked
from spp_det.runtime.whole_files import write_json
from spp_det.training.stages import cache_of
from tests.stress.guard import watched

NOTHING = Detections(boxes=as_boxes([]), labels=np.zeros(0, np.int64), scores=np.zeros(0, np.float32))
ONE = Detections(boxes=as_boxes([[1, 1, 8, 8]]), labels=np.array([0]), scores=np.array([0.5], np.float32))
ALL = Output(FORMATS, draw=True, crops=True)


@pytest.fixture
def box(tmp_path) -> Path:
    """A folder with an empty ``out`` and a folder ``outside`` that nobody may touch."""
    (tmp_path / "out").mkdir()
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "outside" / "sub" / "a.txt").write_text("secret")
    return tmp_path


def outside(box: Path) -> dict[str, str]:
    return {str(p): p.read_text() for p in sorted((box / "outside").rglob("*")) if p.is_file()}


def plant(box: Path, name: str, to: str) -> Path:
    link = box / "out" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(box / "outside" / to)
    return link


def unharmed(box: Path, work: Callable[[], object]) -> str:
    """The refusal, if there is one; what lies outside is what it was."""
    before = outside(box)
    said = ""
    with watched(box, box / "out") as found:
        try:
            work()
        except UserError as error:
            said = str(error)
    assert found == []
    assert outside(box) == before
    assert "\n" not in said
    return said


def detected(box: Path, resume: bool = False) -> Callable[[], object]:
    paths = [box / "photos" / name for name in ("a.jpg", "b.jpg")]

    def work() -> None:
        with DetectionWriter(box / "out", ("cat",), paths, ALL, resume) as writer:
            for path in paths[writer.done :]:
                writer.add(DetectedImage(path, np.zeros((9, 9, 3), np.uint8), ONE))

    return work


@pytest.mark.parametrize("name", ["voc", "yolo", "devkit", "pictures", "crops", "crops/cat"])
@pytest.mark.parametrize("to", ["sub", "absent"])
def test_a_folder_of_detections_that_is_a_link_is_refused(box, name, to):
    link = plant(box, name, to)
    assert unharmed(box, detected(box)).startswith(f"{link}: a link")


@pytest.mark.parametrize(
    "name",
    ["detections.json", "images.json", "detections.csv", "yolo/a.txt", "voc/b.xml",
     "devkit/comp4_det_test_cat.txt", ".images.json.partial", ".detections.json.partial",
     "devkit/.comp4_det_test_cat.txt.partial"],
)  # fmt: skip
def test_a_file_of_detections_that_is_a_link_gives_its_place_to_a_file(box, name):
    link = plant(box, name, "secret")
    assert unharmed(box, detected(box)) == ""
    assert not link.is_symlink()
    assert json.loads((box / "out" / "detections.json").read_text())


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["detections.jsonl", ".detections.jsonl.stale"])
def test_a_journal_that_is_a_link_is_neither_read_nor_added_to(box, name, resume):
    (box / "outside" / "secret").write_text('{"run": {}, "files": ["sub/a.txt"]}\n')
    link = plant(box, name, "secret")
    assert unharmed(box, detected(box, resume)).startswith(f"{link}: a link")


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_a_log_is_added_to_a_regular_file_alone(box, kind):
    log = box / "out" / "train.log"
    if "link" in kind:
        plant(box, "train.log", "secret" if kind == "link" else "new")
    else:
        os.mkfifo(log) if kind == "pipe" else log.mkdir()
    said = unharmed(box, lambda: log_to(log))
    assert said.startswith(f"{log}: a ")


@pytest.mark.parametrize("name", ["maps", "maps/aa", "maps/.partial"])
def test_an_artefact_is_stored_behind_no_link(box, name):
    link = plant(box, name, "sub")
    cache = Cache(box / "out")
    assert unharmed(box, lambda: cache.store("maps", "a" * 32, {"a": np.zeros(2)})).startswith(
        f"{link}: a link"
    )


def test_an_artefact_that_is_a_link_is_not_read_and_gives_its_place_to_another(box, caplog):
    link = plant(box, f"maps/aa/{'a' * 32}.safetensors", "secret")
    cache = Cache(box / "out")
    assert unharmed(box, lambda: cache.load_or_make("maps", "a" * 32, lambda: {"a": np.ones(2)})) == ""
    assert f"{link} cannot be read" in caplog.text
    assert not link.is_symlink()
    assert cache.load("maps", "a" * 32)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["maps", "maps/aa"])
def test_artefacts_behind_a_link_are_not_pruned(box, name):
    Cache(box / "outside").store("maps", "a" * 32, {"a": np.zeros(2)})
    kept = Cache(box / "outside").path("maps", "a" * 32)
    plant(box, name, name)
    cache = Cache(box / "out")
    assert cache.stages() == ()
    assert cache.prune("maps").artefacts == 0
    assert kept.exists()


def test_a_runs_own_cache_is_no_link_and_a_named_one_may_be(box):
    plant(box, "cache", "sub")
    config = Config(output=box / "out")
    assert "a link" in unharmed(box, lambda: cache_of(config))
    named = config.runtime.model_copy(update={"cache": box / "out" / "cache"})
    assert cache_of(config.model_copy(update={"runtime": named})).folder == box / "out" / "cache"


@pytest.mark.parametrize("name", ["Annotations", "ImageSets", "ImageSets/Main", "labels", "labels/test"])
def test_a_data_set_is_written_behind_no_link(box, name):
    write = write_yolo if name.startswith("labels") else write_voc
    record = Record("a", box / "a.jpg", as_boxes([]), np.zeros(0, np.int64), *np.zeros((2, 0), bool), (9, 9))
    link = plant(box, name, "sub")
    assert unharmed(box, lambda: write(Dataset(("cat",), (record,)), box / "out", "test")).startswith(
        f"{link}: a link"
    )


@pytest.mark.parametrize("name", ["VOCdevkit", "VOCtest_06-Nov-2007.tar", ".unfinished-VOC2007-test"])
def test_a_download_is_unpacked_behind_no_link(box, name, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.VOCDetection", lambda *_, **__: pytest.fail("it was fetched"))
    link = plant(box, name, "sub")
    assert unharmed(box, lambda: download_voc(box / "out", ["VOC2007:test"])).startswith(f"{link}: a link")


def test_folders_that_are_named_may_be_links(box):
    (box / "real").mkdir()
    (box / "named").symlink_to(box / "real")
    write_json(box / "named" / "a.json", 1)
    assert (box / "real" / "a.json").read_text() == "1\n"
    assert unlinked(box / "named", "x/y") == box / "named" / "x" / "y"
    with open_regular(box / "named" / "a.json") as file:
        assert file.read() == b"1\n"
