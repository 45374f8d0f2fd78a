"""Files from strangers: whatever they hold, a result or one line, no code run, nothing else read or written.

The cases of `tests.stress.fuzz`, a few of each reader, and attacks written by hand.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det import Detector
from spp_det.config.file import load_config
from spp_det.data.class_folder import read_class_folder, write_class_folder
from spp_det.data.coco import coco_instances, read_coco
from spp_det.data.folder import find_images
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.detections.journal import Journal
from spp_det.detections.reader import read_detections
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, image_size, read_image
from spp_det.model.backbone import Backbone
from spp_det.pretraining.checkpoint import load_checkpoint
from spp_det.pretraining.learning import Progress
from spp_det.proposals.files import read_proposals
from spp_det.runtime.cache import Cache
from tests.stress.fuzz import read_undamaged, run_case
from tests.stress.guard import watched
from tests.stress.readers import READERS

FAST = [name for name, reader in READERS.items() if reader.share == 1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """For each reader a folder of valid files, made when it is asked for, and a box to damage copies in."""
    folder = tmp_path_factory.mktemp("hostile")

    def make(name: str) -> tuple[Path, Path]:
        valid, box = folder / "valid" / name, folder / "box" / name
        if not valid.exists():
            valid.mkdir(parents=True)
            box.mkdir(parents=True)
            READERS[name].write(valid)
            read_undamaged(name, valid, box)
        return valid, box

    return make


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=2)
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_files_are_used_or_refused_in_one_line(place, name, seed):
    end, words = run_case(name, seed, 0, *place(name))
    assert end in ("used", "refused"), words


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def box(tmp_path) -> Path:
    """``in`` for hostile files, ``outside`` with a file that nobody named."""
    for name in ("in", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"secret")
    return tmp_path


def refused(box: Path, read, *parts: str) -> None:
    """Refused in one line, with nothing run, nothing read outside and nothing written."""
    with watched(box, box / "nowhere") as found, pytest.raises(UserError) as caught:
        read()
    assert found == []
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def unsafe(kind: str, trace: Path) -> bytes:
    """The contents of files that say ``.safetensors``."""
    if kind == "pickle":
        return pickle.dumps(Malicious(trace))
    if kind == "100 GB header":
        return (100 * 2**30).to_bytes(8, "little") + b'{"a":' * 10
    if kind == "100 GB tensor":
        span = 100 * 2**30
        header = json.dumps({"a": {"dtype": "U8", "shape": [span], "data_offsets": [0, span]}}).encode()
        return len(header).to_bytes(8, "little") + header
    return (8).to_bytes(8, "little") + b"[" * 8


@pytest.mark.parametrize("kind", ["pickle", "100 GB header", "100 GB tensor", "no header"])
def test_what_only_calls_itself_safetensors_is_refused(box, kind):
    path, trace = box / "in" / "a.safetensors", box / "in" / "it-ran"
    path.write_bytes(unsafe(kind, trace))
    refused(box, lambda: Detector.load(path), str(path))
    refused(box, lambda: Backbone("zf5_small").load_weights(str(path)), str(path))
    with watched(box, box / "nowhere") as found:
        assert load_checkpoint(path, torch.nn.Linear(1, 1), {}) == Progress([])
    assert found == []
    cache = Cache(box / "in")
    artefact = cache.path("maps", "ab")
    artefact.parent.mkdir(parents=True)
    artefact.write_bytes(path.read_bytes())
    with watched(box, box / "in") as found:
        assert cache.load("maps", "ab") is None
    assert found == [] or set(found) == {f"os.remove {artefact}"}
    assert not trace.exists()


def test_pickled_windows_and_weights_are_refused(box):
    trace = box / "in" / "it-ran"
    np.savez(box / "in" / "a.npz", a=np.array([Malicious(trace)], object))
    torch.save({"features.0.weight": Malicious(trace)}, box / "in" / "a.pth")
    for suffix in (".npz", ".mat", ".json"):
        (box / "in" / f"b{suffix}").write_bytes(pickle.dumps(Malicious(trace)))
    for name in ("a.npz", "b.npz", "b.mat", "b.json"):
        refused(box, lambda name=name: read_proposals(box / "in" / name), name)
    with pytest.raises(UserError, match=r"a\.pth"):  # torch's own unpickler finds classes, and calls none
        Backbone("zf5_small").load_weights(str(box / "in" / "a.pth"))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: !!python/object/apply:os.system ['touch it-ran']", "could not determine a constructor"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nseed: [*b, *b]", "alias"),
        ("a: &a {x: 1}\nb: {<<: *a}", "alias"),
        ("seed: " + "[" * 3_000, "recursion"),
        ("seed: 2026-99-99", "month"),
        ("seed: " + "9" * 5000, "limit"),
        ("seed: !!bool maybe", "maybe"),
        ("? [a]\n: b", "unhashable"),
        ("'\x1b[31m': 1", "special characters"),
        ('"\\e[31m": 1', "unknown key \\x1b[31m"),
        (f"seed: {'x' * 100_000}", "..."),
    ],
)
def test_configs_hold_plain_values_alone(box, text, said):
    path = box / "in" / "a.yaml"
    path.write_text(text)
    refused(box, lambda: load_config(path), str(path), said)


def test_a_few_bytes_that_claim_terabytes_are_refused(box):
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 4)))
    with (box / "in" / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (2**40, 4)})
    with zipfile.ZipFile(box / "in" / "a.npz", "w") as archive:
        archive.write(box / "in" / "a.npy", "a.npy")
    refused(box, lambda: read_proposals(box / "in" / "a.npz"), "claims", "a.npz")
    (box / "in" / "a.json").write_text("[" * 200_000)
    refused(box, lambda: read_proposals(box / "in" / "a.json"), "a.json")
    refused(box, lambda: read_coco(box / "in" / "a.json"), "a.json")


@pytest.mark.parametrize("reader", [read_image, image_size])
def test_a_pipe_is_not_waited_for(box, reader):
    os.mkfifo(box / "in" / "a.jpg")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: a pipe"):
        reader(box / "in" / "a.jpg")


# ---------------------------------------------------------------- names and links that lead out


@pytest.fixture
def voc(box) -> Path:
    generate_voc(box / "in", {"test": 1}, seed=1, sizes=((112, 96),))
    return box / "in"


def replace_by_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["../outside/secret", "/etc/passwd", "a\\..\\..\\x", "x" * 3000])
def test_an_id_leads_nowhere_else(box, voc, name):
    (voc / "ImageSets" / "Main" / "test.txt").write_text(name)
    refused(box, lambda: read_voc(voc, "test"), "line 1")


def test_a_file_name_in_an_annotation_leads_nowhere_else(box, voc):
    image = voc / "JPEGImages" / "test_00000.jpg"
    path = voc / "Annotations" / "test_00000.xml"
    for name in ("../../outside/secret.jpg", str(box / "outside" / "secret.jpg"), "..", "x" * 3000):
        path.write_text(path.read_text().replace("test_00000.jpg", name))
        image.unlink(missing_ok=True)
        (record,) = read_voc(voc, "test").records
        assert record.path == image  # which is then said to be missing


@pytest.mark.parametrize("name", ["../outside/secret.jpg", "/etc/passwd", "C:\\outside\\secret.jpg"])
def test_a_file_name_in_a_coco_file_leads_nowhere_else(box, name):
    """The photo of that name inside is meant; where there is none, it is then said to be missing."""
    images = [{"id": 1, "file_name": name, "width": 8, "height": 8}]
    path = box / "in" / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    (record,) = read_coco(path).records
    assert record.path == box / "in" / PureWindowsPath(name).name
    assert not record.path.exists()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 3000])
def test_a_file_name_in_a_coco_file_that_no_file_can_have_is_refused(box, name):
    images = [{"id": 1, "file_name": name, "width": 8, "height": 8}]
    path = box / "in" / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    refused(box, lambda: read_coco(path), "image 1", "file_name")


@pytest.mark.parametrize("part", ["JPEGImages/test_00000.jpg", "Annotations/test_00000.xml"])
def test_a_link_out_of_a_voc_data_set_is_refused_unless_it_is_allowed(box, voc, part):
    (box / "outside" / "real").write_bytes((voc / part).read_bytes())
    replace_by_link(voc / part, box / "outside" / "real")
    refused(box, lambda: read_voc(voc, "test"), part, "leads out of", "--follow-links")
    (record,) = read_voc(voc, "test", follow_links=True).records
    assert read_image(record.path).shape == (96, 112, 3)


def test_a_split_that_links_out_is_refused_before_it_is_read(box, voc):
    """None of its words are told."""
    split = voc / "ImageSets" / "Main" / "test.txt"
    (box / "outside" / "words").write_text("the secret words\n")
    replace_by_link(split, box / "outside" / "words")
    for read in (lambda: read_voc(voc, "test"), lambda: find_images([split])):
        with watched(box, box / "nowhere") as found, pytest.raises(UserError, match="leads out of") as caught:
            read()
        assert found == []
        assert "secret" not in str(caught.value)
    (box / "outside" / "words").write_text("test_00000\n")
    assert len(read_voc(voc, "test", follow_links=True)) == 1
    assert len(find_images([split], follow_links=True)) == 1


def test_a_photo_of_a_split_that_links_out_is_refused_where_its_split_is_named(box, voc):
    photo = voc / "JPEGImages" / "test_00000.jpg"
    replace_by_link(photo, box / "outside" / "secret.jpg")
    split = voc / "ImageSets" / "Main" / "test.txt"
    refused(box, lambda: find_images([split]), str(photo), "leads out of", "--follow-links")
    assert find_images([split], follow_links=True) == [photo]


def test_the_folders_of_a_data_set_may_be_links_and_files_in_them_may_link_inside(box, voc):
    (voc / "JPEGImages").rename(box / "disk")
    (voc / "JPEGImages").symlink_to(box / "disk")
    (box / "disk" / "test_00000.jpg").rename(box / "disk" / "blob")
    (box / "disk" / "test_00000.jpg").symlink_to("blob")
    (box / "link").symlink_to(voc)
    for root in (voc, box / "link"):
        (record,) = read_voc(root, "test").records
        assert read_image(record.path).shape == (96, 112, 3)


def test_a_link_out_of_the_folder_of_a_coco_file_is_refused_unless_it_is_allowed(box, voc):
    (voc / "a.json").write_text(json.dumps(coco_instances(read_voc(voc, "test"))))
    (voc / "test_00000.jpg").symlink_to(box / "outside" / "secret.jpg")
    refused(box, lambda: read_coco(voc / "a.json"), "test_00000.jpg", "leads out of")
    assert len(read_coco(voc / "a.json", follow_links=True)) == 1
    assert len(read_coco(voc / "a.json", voc / "JPEGImages")) == 1
    (voc / "sub").symlink_to(box / "outside")
    content = json.loads((voc / "a.json").read_text())
    content["images"][0]["file_name"] = "sub/secret.jpg"
    (voc / "a.json").write_text(json.dumps(content))
    refused(box, lambda: read_coco(voc / "a.json"), "sub/secret.jpg", "leads out of")


def test_a_link_out_of_a_folder_of_images_is_refused_unless_it_is_named_or_allowed(box):
    for name in ("cat", "dog"):
        (box / "in" / "train" / name).mkdir(parents=True)
        (box / "in" / "train" / name / "a.jpg").touch()
    link = box / "in" / "train" / "cat" / "b.jpg"
    link.symlink_to(box / "outside" / "secret.jpg")
    refused(box, lambda: find_images([link.parent]), str(link), "leads out of")
    refused(box, lambda: read_class_folder(box / "in", "train"), str(link), "leads out of")
    assert find_images([link]) == [link]
    assert find_images([link.parent], follow_links=True)[1] == link
    assert len(read_class_folder(box / "in", "train", follow_links=True)) == 3


@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a/b", "..", "a\\..\\b"])
def test_a_class_that_is_called_like_a_path_becomes_no_folder(box, name):
    refused(box, lambda: write_class_folder(Dataset((name,), ()), box / "in"), repr(name))


# ---------------------------------------------------------------- folders of detections


@pytest.mark.parametrize("name", ["../outside/secret.jpg", "a/../../outside/secret.jpg", ".", "x" * 300])
@pytest.mark.parametrize("kind", ["voc/a.xml", "yolo/a.txt", "devkit/comp4_det_test_cat.txt"])
def test_a_listed_image_leads_to_no_file_elsewhere(box, kind, name):
    path = box / "in" / kind
    path.parent.mkdir()
    path.touch()
    listing = {"images": [{"id": 1, "file_name": name}], "categories": [{"id": 1, "name": "cat"}]}
    (box / "in" / "images.json").write_text(json.dumps(listing))
    refused(box, lambda: read_detections(path.parent), "images.json lists", "no file's name")


def test_a_journal_has_no_files_removed_outside_its_folder(box):
    (box / "outside" / "sub").mkdir()
    (box / "in" / "link").symlink_to(box / "outside")
    (box / "in" / "old.txt").touch()
    names = [
        "../outside/secret.jpg",
        str(box / "outside" / "secret.jpg"),
        "link/secret.jpg",
        "link/sub",
        "a\0b",
    ]
    lines = [{"run": {}, "files": [*names, "old.txt"]}, {"files": names}, {"files": 3}, [names]]
    (box / "in" / "detections.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with watched(box, box / "in") as found:
        Journal(box / "in", {}, [], resume=False).close()
    assert found == []
    assert sorted(path.name for path in (box / "outside").iterdir()) == ["secret.jpg", "sub"]
    assert sorted(path.name for path in (box / "in").iterdir()) == ["detections.jsonl", "link"]
