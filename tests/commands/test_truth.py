"""One ground truth, named by options that fit together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.commands.truth import Truth, score
from spp_det.data.convert import write_dataset
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from tests.command_line import assert_one_line, spp_det


def test_the_truth_comes_from_one_place(tmp_path):
    with pytest.raises(UserError, match="say what to compare with: --voc"):
        score(tmp_path, Truth())
    with pytest.raises(UserError, match="say what to compare with: one of --voc"):
        Truth(voc=tmp_path, coco=tmp_path / "instances.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "val"}, "--split val .*--voc"),
        ({"split": "test", "coco": Path("x.json")}, "--split test .*--voc"),
        ({"voc": Path("a"), "yolo": Path("b")}, "one of --voc ROOT, --yolo ROOT"),
        ({"images": Path("photos"), "yolo": Path("b")}, "--images photos .*--coco"),
        ({"images": Path("photos")}, "--images photos .*--coco"),
        ({"images": Path("photos"), "voc": Path("voc")}, "--images photos .*--coco"),
    ],
)
def test_an_option_that_says_nothing_of_the_truth_is_refused(options, said):
    with pytest.raises(UserError, match=said) as caught:
        Truth(**options)
    assert "\n" not in str(caught.value)


def test_the_split_is_test_unless_another_is_named(cli_folder):
    voc = cli_folder / "voc"
    assert len(Truth(voc=voc).read().dataset) == len(Truth(voc=voc, split="test").read().dataset) == 3
    with pytest.raises(UserError, match=r"val\.txt"):
        Truth(voc=voc, split="val").read()


def found(folder: Path, images: dict[str, tuple[int, int]], box: list[float]) -> Path:
    """A listing of photos with their sizes, and a cat in each."""
    names = list(images)
    listing = {
        "images": [
            {"id": i, "file_name": name, "width": images[name][0], "height": images[name][1]}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    folder.mkdir()
    (folder / "images.json").write_text(json.dumps(listing))
    rows = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.5} for i in range(len(names))]
    (folder / "detections.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def splits(tmp_path) -> dict[str, Dataset]:
    """Four photos of 60x40 with a cat each."""
    records = []
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        Image.new("RGB", (60, 40)).save(tmp_path / name)
        no, boxes = np.zeros(1, np.bool_), as_boxes([[10, 10, 30, 35]])
        records.append(Record(name, tmp_path / name, boxes, np.zeros(1, np.int64), no, no, (60, 40)))
    return {"train": Dataset(("cat",), records[:1]), "test": Dataset(("cat",), records[1:])}


def test_a_yolo_folder_is_a_truth_like_any_other(tmp_path, splits):
    write_dataset(splits, tmp_path / "yolo", "yolo")
    write_dataset(splits, tmp_path / "voc", "voc")
    sizes = dict.fromkeys(("b.jpg", "c.jpg", "d.jpg"), (60, 40))
    where = found(tmp_path / "found", sizes, [10, 10, 20, 25])
    for truth in (Truth(yolo=tmp_path / "yolo"), Truth(voc=tmp_path / "voc")):
        assert score(where, truth).figures()["coco"]["AP50"] == 1
    (tmp_path / "some.txt").write_text("b\nc\n")
    assert len(Truth(voc=tmp_path / "voc", split=str(tmp_path / "some.txt")).read().dataset) == 2
    (tmp_path / "some.txt").write_text("images/test/b.jpg\n")
    assert len(Truth(yolo=tmp_path / "yolo", split=str(tmp_path / "some.txt")).read().dataset) == 1
    ended = spp_det("evaluate", where, "--yolo", tmp_path / "yolo", "--split", "val")
    assert_one_line(ended, "has no split 'val'; its splits are: train, test")


def test_photos_of_another_size_than_the_truths_are_no_figures(tmp_path, splits):
    """The photos were halved after labelling, or the detector saw others than lie there."""
    write_dataset(splits, tmp_path / "voc", "voc")
    for name, sizes in (
        ("halved", {"b.jpg": (30, 20), "c.jpg": (60, 40)}),
        ("turned", {"b.jpg": (60, 40), "c.jpg": (40, 60)}),
    ):
        where = found(tmp_path / name, sizes, [10, 10, 20, 25])
        with pytest.raises(UserError, match=r"1 photos state another size .*labelled at 60x40.*label"):
            score(where, Truth(voc=tmp_path / "voc"))


def test_a_test_without_objects_has_undefined_figures(tmp_path, splits):
    none = [
        replace(record, boxes=record.boxes[:0], labels=record.labels[:0],
                difficult=record.difficult[:0], crowd=record.crowd[:0])
        for record in splits["test"].records
    ]  # fmt: skip
    for format_ in ("voc", "yolo"):
        write_dataset({"test": Dataset(("cat",), none)}, tmp_path / format_, format_)
        where = found(tmp_path / f"of {format_}", {"b.jpg": (60, 40)}, [10, 10, 20, 25])
        truth = Truth(**{format_: tmp_path / format_})
        figures = score(where, truth).figures()
        assert figures["coco"]["AP"] is None
        assert figures["voc"]["mAP_area"] is None


@pytest.mark.parametrize(
    ("command", "options", "parts"),
    [
        ("report", ("--split", "val"), ("--split val", "--voc")),
        ("report", ("--images", "photos"), ("--images photos", "--coco")),
        ("evaluate", ("--voc", "voc", "--images", "photos"), ("--images photos", "--coco")),
        ("evaluate", ("--coco", "x.json", "--split", "test"), ("--split test", "--voc")),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(tmp_path, command, options, parts):
    assert_one_line(spp_det(command, tmp_path, *options), *parts)
