"""What Roboflow and VoTT write, laid out by hand after their documentation, is learned from as it is."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from spp_det.commands.train import run_training
from spp_det.config.settings import Data
from spp_det.data.dataset import format_of, read_all, read_splits
from spp_det.data.records import Dataset, Record
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from tests.small_run import configure

Photos = Mapping[str, Dataset]  # by split


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Photos:
    """Ten generated photos: six to learn from, two to watch it by, two to test it on."""
    root = tmp_path_factory.mktemp("generated")
    generate_voc(root, {"train": 6, "valid": 2, "test": 2}, seed=3, sizes=((130, 110),))
    classes = read_voc(root, "train").classes
    assert len(classes) > 1
    return {split: read_voc(root, split, classes) for split in ("train", "valid", "test")}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def copy(record: Record, folder: Path) -> str:
    """The photo under the name that Roboflow gives it, with a digest of its own."""
    name = f"{record.path.stem}_jpg.rf.0123456789abcdef{record.path.suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(record.path, folder / name)
    return name


def roboflow_coco(root: Path, photos: Photos) -> None:
    """A folder a split, all ids from 0, and a category above all others that owns no object."""
    write(root / "README.roboflow.txt", "photos - v1\n")
    for split, dataset in photos.items():
        root_category = {"id": 0, "name": "photos", "supercategory": "none"}
        names = enumerate(dataset.classes, 1)
        categories = [{"id": number, "name": name, "supercategory": "photos"} for number, name in names]
        images, annotations = [], []
        for number, record in enumerate(dataset.records):
            width, height = record.size or (0, 0)
            name = copy(record, root / split)
            image = {"id": number, "license": 1, "file_name": name, "height": height, "width": width}
            images.append({**image, "date_captured": "2024-01-31T12:00:00+00:00"})
            for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
                annotation = {"id": len(annotations), "image_id": number, "category_id": label + 1}
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                annotations.append({**annotation, **box, "segmentation": [], "iscrowd": 0})
        info = {"year": "2024", "version": "1", "url": "", "date_created": "2024-01-31T12:00:00+00:00"}
        licenses = [{"id": 1, "url": "", "name": "Public Domain"}]
        parts = {"categories": [root_category, *categories], "images": images, "annotations": annotations}
        content = {"info": info, "licenses": licenses, **parts}
        write(root / split / "_annotations.coco.json", json.dumps(content))


def roboflow_yolo(root: Path, photos: Photos) -> None:
    """``data.yaml`` names its folders as if it lay one folder deeper than it does."""
    for split, dataset in photos.items():
        for record in dataset.records:
            width, height = record.size or (0, 0)
            lines = [
                f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
                f"{(x2 - x1) / width} {(y2 - y1) / height}"
                for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True)
            ]
            name = copy(record, root / split / "images")
            write((root / split / "labels" / name).with_suffix(".txt"), "\n".join(lines))
    classes = list(photos["train"].classes)
    write(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        f"nc: {len(classes)}\nnames: {classes}\n\n"
        "roboflow:\n  workspace: somebody\n  project: photos\n  version: 1\n  license: Public Domain\n"
        "  url: https://example.org/somebody/photos/1\n",
    )
    write(root / "README.dataset.txt", "photos\n")


def vott_voc(root: Path, photos: Photos) -> None:
    """Split lists of each class alone, whose lines are file names, and pixels that are counted from 0."""
    classes = photos["train"].classes
    write(
        root / "pascal_label_map.pbtxt",
        "".join(f"item {{\n id: {number}\n name: '{name}'\n}}\n" for number, name in enumerate(classes, 1)),
    )
    (root / "JPEGImages").mkdir(parents=True)
    for dataset in photos.values():
        for record in dataset.records:
            shutil.copyfile(record.path, root / "JPEGImages" / record.path.name)
            objects = "".join(
                f"<object>\n    <name>{classes[label]}</name>\n    <pose>Unspecified</pose>\n"
                f"    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <bndbox>\n"
                f"        <xmin>{x1}</xmin>\n        <ymin>{y1}</ymin>\n"
                f"        <xmax>{x2}</xmax>\n        <ymax>{y2}</ymax>\n    </bndbox>\n</object>"
                for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True)
            )
            width, height = record.size or (0, 0)
            write(
                root / "Annotations" / f"{record.image_id}.xml",
                f'<annotation verified="yes">\n    <folder>Annotation</folder>\n'
                f"    <filename>{record.path.name}</filename>\n    <path>photos/{record.path.name}</path>\n"
                f"    <source>\n        <database>Unknown</database>\n    </source>\n    <size>\n"
                f"        <width>{width}</width>\n        <height>{height}</height>\n"
                f"        <depth>3</depth>\n    </size>\n    <segmented>0</segmented>\n"
                f"    {objects}\n</annotation>\n",
            )
    watched = [*photos["valid"].records, *photos["test"].records]
    for split, records in (("train", photos["train"].records), ("val", watched)):
        for label, name in enumerate(classes):
            lines = [
                f"{record.path.name} {1 if label in record.labels.tolist() else -1}" for record in records
            ]
            write(root / "ImageSets" / "Main" / f"{name}_{split}.txt", "\r\n".join(lines))


LAYOUTS = {"coco": roboflow_coco, "yolo": roboflow_yolo, "voc": vott_voc}


def check_boxes(found: Dataset, truth: Dataset) -> None:
    assert found.classes == truth.classes
    assert len(found) == len(truth)
    for record, expected in zip(found.records, truth.records, strict=True):
        assert record.path.name.startswith(expected.path.stem)
        assert record.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(record.boxes, expected.boxes, atol=1)  # VoTT counts pixels from 0


@pytest.mark.parametrize("format_", LAYOUTS)
def test_each_layout_is_told_apart_and_read_to_a_pixel(tmp_path, photos, format_, caplog):
    LAYOUTS[format_](tmp_path, photos)
    assert format_of(tmp_path) == format_
    test = "val" if format_ == "voc" else "test"
    with caplog.at_level(logging.WARNING):
        found = read_splits(Data(root=tmp_path, test=test), seed=0)
    check_boxes(found.train, photos["train"])
    assert found.test is not None
    assert not found.held_out
    if format_ == "voc":
        watched = (*photos["valid"].records, *photos["test"].records)
        check_boxes(found.test.dataset, Dataset(photos["train"].classes, watched))
    else:
        assert len(found.test.dataset) == 2
    said = {
        "coco": ["classes without an object are left out: photos"],
        "yolo": [],
        "voc": ["reach outside their image and were clipped"] * 2,  # a box at 0 lies one pixel outside
    }[format_]
    assert len(caplog.messages) == len(said), caplog.messages
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))
    sizes = {name: len(part) for name, part in read_all(tmp_path)[1].items()}
    rest = {"voc": {"val": 4}, "coco": {"valid": 2, "test": 2}, "yolo": {"val": 2, "test": 2}}
    assert sizes == {"train": 6, **rest[format_]}


@pytest.mark.parametrize("format_", LAYOUTS)
def test_each_layout_trains_from_its_folder_alone(tmp_path, photos, format_):
    LAYOUTS[format_](tmp_path / "voc", photos)  # the folder's name that `configure` expects
    metrics = run_training(configure(tmp_path, tmp_path / "run"))
    assert metrics["images"] == 6
    assert (tmp_path / "run" / "model.safetensors").is_file()
