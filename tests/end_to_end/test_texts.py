"""Texts of strangers: digits without end, NUL, halves of surrogate pairs, megabytes. One line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spp_det.config.file import load_config
from spp_det.data.coco import read_coco
from spp_det.data.names import LONGEST_STEM, Stems
from spp_det.data.voc_xml import read_annotation
from spp_det.detections.output import FORMATS, Output
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import MOST_SHOWN, UserError, one_line, printable
from spp_det.evaluation.results import evaluate_files
from spp_det.model.model_file import read_model, write_model
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.runtime.cache import Cache
from tests.model_files import SMALL, rewritten

DIGITS = "9" * 5000


def refusal(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1.5 * MOST_SHOWN
    return str(caught.value)


@pytest.mark.parametrize(
    "number", [DIGITS, "0x" + "f" * 5000, "0b" + "1" * 20_000, "1:" * 3000 + "1", "-0o" + "7" * 9000]
)
@pytest.mark.parametrize("key", ["seed: {}", "svm: {{C: {}}}", "backbone: {{scales: [{}]}}"])
def test_a_number_without_end_in_a_recipe(tmp_path, number, key):
    (tmp_path / "a.yaml").write_text(key.format(number))
    assert str(tmp_path / "a.yaml") in refusal(lambda: load_config(tmp_path / "a.yaml"))


@pytest.mark.parametrize("name", ["a\\0b", "\\ud800", "a/\\udfff/b"])
@pytest.mark.parametrize(
    "key", ["output: {}", "data: {{root: {}}}", "data: {{test: {}}}", "proposals: {{file: {}}}"]
)
def test_a_path_that_no_file_can_have_in_a_recipe(tmp_path, name, key):
    (tmp_path / "a.yaml").write_text(key.format(f'"{name}"'))
    assert "no path can have" in refusal(lambda: load_config(tmp_path / "a.yaml"))


def write_coco(folder: Path, name: str = "cat", **changed: object) -> Path:
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": name}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}],
    }
    for key, value in changed.items():
        tree["annotations"][0][key] = value
    (folder / "a.json").write_text(json.dumps(tree))
    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "score": 0.5}]
    (folder / "found.json").write_text(json.dumps(found))
    return folder / "a.json"


@pytest.mark.parametrize("number", [10**400, 2**63, -5, 10**15 * 9, "text"])
def test_an_annotations_id_that_pycocotools_cannot_keep_is_given_anew(tmp_path, number):
    path = write_coco(tmp_path, id=number)
    assert len(read_coco(path).records[0]) == 1
    assert evaluate_files(path, tmp_path / "found.json")["coco"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_an_id_beyond_all_others_is_refused(tmp_path, key):
    path = write_coco(tmp_path, **{key: 10**400})
    assert "annotations[0]" in refusal(lambda: read_coco(path))


@pytest.mark.parametrize("box", [[1, 1, 10**400, 3], [1, 1, 10**300, 10**300], [1, 1, 1e200, 1e200]])
def test_a_box_whose_area_overflows_is_refused(tmp_path, box):
    path = write_coco(tmp_path, bbox=box)
    assert "bbox" in refusal(lambda: evaluate_files(path, tmp_path / "found.json"))


ODD = {"half a pair": "\ud800", "the other half": "a\udfff", "megabytes": "x" * 5_000_000}


@pytest.mark.parametrize("kind", ODD)
def test_a_name_of_a_class_that_no_file_holds_is_refused_at_every_door(tmp_path, kind):
    name = ODD[kind]
    assert "class" in refusal(lambda: read_coco(write_coco(tmp_path, name)))
    for one in FORMATS:
        given = tmp_path, ("cat", name), [tmp_path / "a.jpg"], Output([one])
        assert "class" in refusal(lambda given=given: DetectionWriter(*given))

    def change(_, metadata):
        metadata["classes"] = ["cat", name]

    write_model(tmp_path / "sound", SMALL)
    path = rewritten(tmp_path / "sound", tmp_path / "m", change)
    assert "class" in refusal(lambda: read_model(path, lambda model: model))
    if kind == "megabytes":
        objects = f"<annotation><object><name>{name}</name></object></annotation>"
        (tmp_path / "a.xml").write_text(objects)
        assert "class" in refusal(lambda: read_annotation(tmp_path / "a.xml"))


def test_long_messages_and_names_lose_their_middle_or_end():
    text = f"begin{'x' * 10**6}end"
    assert one_line(text).startswith("beginx")
    assert one_line(text).endswith("xend")
    assert len(one_line(text)) < MOST_SHOWN + 10
    assert len(printable(text)) <= 300


def test_names_of_files_leave_room_for_a_number_and_a_suffix():
    stem = Stems()
    names = [f"{'ä' * 120}{number}.jpg" for number in range(30)] + [
        "sub/" + "b" * 251 + ".jpg",
        "c" * 190 + ".jpg",
    ]
    stems = [stem(name) for name in names]
    assert len(set(stems)) == len(names)
    assert all(len(one.rpartition("/")[2].encode()) <= LONGEST_STEM + 12 for one in stems)
    assert stems[-1] == "c" * 190
    assert stems[-2].startswith("sub/b")


@pytest.mark.parametrize(
    "wrong",
    [
        {"boxes": np.zeros((3, 5), np.float32)},
        {"boxes": np.array([[0, 0, 900, 9]], np.float32)},
        {"boxes": np.array([[5, 5, 1, 9]], np.float32)},
        {"boxes": np.array([[0, 0, np.nan, 9]], np.float32)},
        {"boxes": np.zeros((1, 4), np.int64)},
        {"size": np.zeros(2, np.int64)},
        {"size": np.array([8])},
        {"truncated": np.zeros(3)},
    ],
)
def test_windows_in_the_cache_that_are_none_are_searched_for_again(tmp_path, wrong, caplog):
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    source, cache = WindowSource(proposals_of("fast")), Cache(tmp_path / "cache")
    sound = source.windows_of_file(tmp_path / "a.png", None, cache)
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    arrays = cache.load("proposals", path.stem)
    cache.store("proposals", path.stem, {**arrays, **wrong})
    found = source.windows_of_file(tmp_path / "a.png", None, cache)
    assert np.array_equal(found.boxes, sound.boxes)
    assert found.size == (9, 9)
    assert "not what it should be" in caplog.text
