"""Annotations become a Pascal VOC data set, whole at every instant."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.runtime import whole_files
from spp_det.serving.labelling import Drawn, drawn_boxes
from spp_det.serving.labels import Labels, state_of, taught_state


@pytest.fixture
def find(photos):
    def found(told: str) -> tuple[PurePosixPath, Path]:
        name = told.rpartition("/")[2].removeprefix("0123abcd-")
        if not (photos / name).is_file():
            raise UserError(f"{told}: no such photo")
        return PurePosixPath(name), photos / name

    return found


def put(labels: Labels, studio, index: int, annotation: int | None = None, when: str = "1", **changes) -> str:
    drawn, _ = drawn_boxes(changes.get("result", studio.result(index)))
    image = studio.task(index)["data"]["image"]
    return labels.put(7, 100 + index, image, annotation or 500 + index, when, drawn)


def test_what_was_labelled_is_read_as_the_data_set_that_it_is(tmp_path, find, studio, truth):
    labels = Labels(tmp_path / "labels", find)
    for index in range(5):
        assert labels.settle(put(labels, studio, index))
    read = read_voc(tmp_path / "labels", "trainval")
    assert [record.image_id for record in read.records] == [record.image_id for record in truth.records]
    for found, expected in zip(read.records, truth.records, strict=True):
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        assert [read.classes[i] for i in found.labels] == [truth.classes[i] for i in expected.labels]
        assert found.path.read_bytes() == expected.path.read_bytes()


def test_nothing_has_changed_where_nothing_is_new(tmp_path, find, studio):
    labels = Labels(tmp_path / "labels", find)
    name = put(labels, studio, 0)
    assert labels.settle(name)
    assert not labels.settle(name)
    put(labels, studio, 0, when="2")
    assert not labels.settle(name)  # the same boxes
    put(labels, studio, 0, when="3", result=studio.result(1))
    assert labels.settle(name)


def test_the_newest_of_several_annotations_counts(tmp_path, find, studio, truth):
    labels = Labels(tmp_path / "labels", find)
    name = put(labels, studio, 0, annotation=1, when="2026-02-01T00:00:00Z")
    put(labels, studio, 0, annotation=2, when="2026-01-01T00:00:00Z", result=[])
    labels.settle(name)
    assert len(read_voc(tmp_path / "labels", "trainval").records[0]) == len(truth.records[0])
    assert labels.remove_annotation(1) == name
    labels.settle(name)
    assert len(read_voc(tmp_path / "labels", "trainval").records[0]) == 0  # a photo without objects
    assert labels.remove_annotation(2) == name
    assert labels.settle(name)
    assert labels.ids() == []
    assert list((tmp_path / "labels" / "Annotations").iterdir()) == []
    assert labels.remove_annotation(2) is None
    assert not labels.settle(name)


def test_a_deleted_task_takes_its_annotations_along(tmp_path, find, studio):
    labels = Labels(tmp_path / "labels", find)
    for index in (0, 1):
        labels.settle(put(labels, studio, index))
    assert labels.remove_task(8, 100) == []
    (name,) = labels.remove_task(7, 100)
    assert labels.settle(name)
    assert labels.ids() == ["trainval_00001"]


@pytest.mark.parametrize("last", range(6))
def test_whatever_was_written_last_before_a_kill_the_rest_follows(tmp_path, find, studio, monkeypatch, last):
    """Writing stops after so many files; a new process ends where an uninterrupted one does."""

    def play(root: Path) -> None:
        labels = Labels(root, find)
        for index in (0, 1):
            labels.settle(put(labels, studio, index))

    play(tmp_path / "whole")
    left = last
    write = whole_files.write_whole

    def writes(*arguments, **options):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "write_whole", writes)
        patch.setattr("spp_det.serving.labels.write_whole", writes)
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "killed")
    labels = Labels(tmp_path / "killed", find)
    for name in labels.unfinished():
        labels.settle(name)
    for index in (0, 1):  # what had not been acknowledged is sent again
        labels.settle(put(labels, studio, index))
    for name in ("Annotations", "ImageSets/Main", "label_studio"):
        files = {path.name: path.read_text() for path in (tmp_path / "whole" / name).iterdir()}
        assert {path.name: path.read_text() for path in (tmp_path / "killed" / name).iterdir()} == files


def test_acknowledged_annotations_survive_before_any_of_their_files_is_written(tmp_path, find, studio):
    put(Labels(tmp_path / "labels", find), studio, 0)
    labels = Labels(tmp_path / "labels", find)
    assert labels.ids() == []
    for name in labels.unfinished():
        assert labels.settle(name)
    assert labels.ids() == ["trainval_00000"]


def test_annotations_of_another_tool_stay(tmp_path, find, studio):
    root = tmp_path / "labels"
    Labels(root, find)
    (root / "ImageSets/Main/trainval.txt").write_text("other\n")
    (root / "Annotations/other.xml").write_text("<annotation/>")
    labels = Labels(root, find)
    labels.settle(put(labels, studio, 0))
    assert labels.ids() == ["other", "trainval_00000"]
    name = put(labels, studio, 0)
    labels.remove_annotation(500)
    labels.settle(name)
    assert labels.ids() == ["other"]
    assert (root / "Annotations/other.xml").exists()


def test_a_photo_that_is_nowhere_is_an_error_and_its_annotation_is_kept(tmp_path, find):
    labels = Labels(tmp_path / "labels", find)
    name = labels.put(7, 1, "/data/none.jpg", 1, "1", [Drawn("cat", (0, 0, 50, 50))])
    with pytest.raises(UserError, match="no such photo"):
        labels.settle(name)
    assert labels.unfinished() == [name]


def test_links_in_the_folder_are_not_written_through(tmp_path, find):
    root = tmp_path / "labels"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "Annotations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link"):
        Labels(root, find)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {"image": 1, "photo": None, "annotations": {}},
        {"image": "a", "photo": {"id": "../a", "file": "a"}, "annotations": {}},
        {"image": "a", "photo": {"id": "a", "file": "/etc/passwd"}, "annotations": {}},
        {"image": "a", "photo": None, "annotations": {"x": {}}},
        {"image": "a", "photo": None, "annotations": {"1": {"when": "1", "objects": [["cat", 1, 2]]}}},
    ],
)
def test_a_file_that_is_none_of_ours_is_named(tmp_path, find, tree):
    (tmp_path / "label_studio").mkdir()
    (tmp_path / "label_studio" / "7-1.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"7-1\.json"):
        Labels(tmp_path, find)


def test_a_state_is_that_of_boxes_photos_and_settings(tmp_path, find, studio, small_config):
    root = tmp_path / "labels"
    labels = Labels(root, find)
    assert state_of(root, small_config) == ("", 0)
    name = put(labels, studio, 0)
    labels.settle(name)
    first, count = state_of(root, small_config)
    assert count == 1
    assert state_of(root, small_config) == (first, 1)
    other = small_config.model_copy(update={"svm": small_config.svm.model_copy(update={"C": 1.0})})
    assert state_of(root, other)[0] != first
    elsewhere = small_config.model_copy(update={"output": Path("elsewhere")})
    assert state_of(root, elsewhere)[0] == first
    put(labels, studio, 0, when="2", result=studio.result(1))
    labels.settle(name)
    assert state_of(root, small_config)[0] != first


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"labels": 5}', "{"])
def test_a_model_that_does_not_say_its_labels_has_none_of_them(tmp_path, text):
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    assert taught_state(tmp_path / "model.safetensors") in ("", "5")


def test_a_task_that_gets_another_photo_takes_its_boxes_there(tmp_path, find, studio):
    labels = Labels(tmp_path / "labels", find)
    name = put(labels, studio, 0)
    labels.settle(name)
    drawn, _ = drawn_boxes(studio.result(1))
    assert labels.put(7, 100, studio.task(1)["data"]["image"], 500, "2", drawn) == name
    labels.settle(name)
    assert labels.ids() == ["trainval_00001"]
    assert [path.stem for path in (tmp_path / "labels" / "Annotations").iterdir()] == ["trainval_00001"]


def test_a_photo_of_two_tasks_stays_while_one_of_them_has_boxes(tmp_path, find, studio, truth):
    labels = Labels(tmp_path / "labels", find)
    image = studio.task(0)["data"]["image"]
    names = [
        labels.put(project, 1, image, annotation, "1", drawn_boxes(studio.result(0))[0])
        for project, annotation in ((7, 1), (8, 2))
    ]
    for name in names:
        labels.settle(name)
    assert labels.ids() == ["trainval_00000"]
    labels.remove_annotation(1)
    labels.settle(names[0])
    assert labels.ids() == ["trainval_00000"]
    assert len(read_voc(tmp_path / "labels", "trainval").records[0]) == len(truth.records[0])
