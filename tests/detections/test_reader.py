"""Every format that ``detect`` writes reads back as the same detections of the same images."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.data.records import Dataset, Record
from spp_det.detections.output import FORMATS, Output
from spp_det.detections.types import DetectedImage
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.evaluation.results import evaluate, read_results

CLASSES = ("cat", "race_car", "my dog")
PATHS = [Path(name) for name in ("in/a b.jpg", "in/a b.png", "out/a b.jpg", "out/c.jpg")]
PLACES = ("", "detections.json", "detections.csv", "voc", "yolo", "devkit")

# 0, or as near to it as YOLO's fractions can tell: see `spp_det.detections.yolo`.
coordinates = st.just(0.0) | st.floats(2**-15, 60, width=32)
rows = st.tuples(
    st.tuples(coordinates, coordinates, coordinates, coordinates),
    st.integers(0, len(CLASSES) - 1),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
images = st.lists(st.lists(rows, max_size=4), min_size=len(PATHS), max_size=len(PATHS))


def record(path: Path) -> Record:
    nothing = np.zeros(0, np.bool_)
    return Record(
        path.as_posix(), path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), nothing, nothing
    )


DATASET = Dataset(CLASSES, [record(path) for path in PATHS])


def detections_of(rows):
    corners = np.float32([box for box, _, _ in rows]).reshape(-1, 2, 2)
    order = np.argsort([-score for *_, score in rows], kind="stable")
    return {
        "boxes": np.sort(corners, axis=1).reshape(-1, 4)[order],
        "labels": np.array([label for _, label, _ in rows], np.int64)[order],
        "scores": np.float32([score for *_, score in rows])[order],
    }


def write(folder: Path, found) -> None:
    writer = DetectionWriter(folder, CLASSES, PATHS, Output(FORMATS))
    with writer:
        for path, detections in zip(PATHS, found, strict=True):
            writer.add(DetectedImage(path, np.zeros((60, 70, 3), np.uint8), detections))


def by_class(detections):
    """Detections as rows; the devkit's files keep the order inside a class alone."""
    columns = (detections[key].astype(np.float32).tolist() for key in ("labels", "scores", "boxes"))
    return sorted(zip(*columns, strict=True), key=lambda row: row[0])


@settings(max_examples=20)
@given(images)
def test_every_format_reads_back_to_the_same_detections(rows_of_images):
    found = [detections_of(rows) for rows in rows_of_images]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), found)
        for place in PLACES:
            read = read_results(Path(folder) / place, DATASET).detections
            assert list(map(by_class, read)) == list(map(by_class, found)), place


@pytest.fixture
def folder(tmp_path) -> Path:
    boxes = [((0.5, 1.25, 30.1, 40.7), 0, 0.9), ((3, 4, 20, 30), 1, 0.3), ((3, 4, 50, 60), 2, 0.3)]
    write(tmp_path / "found", [detections_of(boxes[i:]) for i in range(4)])
    return tmp_path / "found"


@pytest.mark.parametrize("place", ["detections.csv", "voc"])
def test_without_a_listing_images_are_those_that_the_files_name(folder, place):
    expected = read_results(folder, DATASET)
    (folder / "images.json").unlink()
    read = read_results(folder / place, DATASET)
    assert list(map(by_class, read.detections)) == list(map(by_class, expected.detections))


def test_devkit_files_alone_are_read_by_the_ids_of_a_voc_data_set(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "comp4_det_test_cat.txt").write_text("000005 0.25 2 3 10 20\n")
    dataset = Dataset(("cat",), [record(Path("000005"))])
    (found,) = read_results(results, dataset).detections
    assert by_class(found) == [(0.0, 0.25, [1, 2, 10, 20])]


def test_all_formats_have_the_same_figures(folder):
    truth = record(PATHS[0])
    flags = np.zeros(2, np.bool_)
    objects = Record(
        *(truth.image_id, truth.path, np.float32([(0, 1, 30, 41), (3, 4, 50, 50)]), np.array([0, 2])),
        *(flags, flags),
    )
    dataset = Dataset(CLASSES, [objects, *DATASET.records[1:]])
    figures = [evaluate(dataset, read_results(folder / place, dataset)).figures() for place in PLACES]
    assert 0 < figures[0]["coco"]["AP"] < 1
    assert all(one == figures[0] for one in figures)


def test_yolo_without_a_listing_is_refused(folder):
    (folder / "images.json").unlink()
    with pytest.raises(UserError, match=r"yolo: no images\.json lies in or beside it"):
        read_results(folder / "yolo", DATASET)


def change_listing(folder: Path, change) -> None:
    listing = json.loads((folder / "images.json").read_text())
    change(listing)
    (folder / "images.json").write_text(json.dumps(listing))


@pytest.mark.parametrize(
    ("place", "damage", "said"),
    [
        ("voc", lambda f: (f / "voc/out/c.xml").unlink(), r"c\.xml: no such file"),
        ("yolo", lambda f: (f / "yolo/out/c.txt").unlink(), r"c\.txt: no such file, but images\.json lists"),
        ("yolo", lambda f: (f / "yolo/out/c.txt").write_text("3 0 0 1 1 1"), r"c\.txt: label 3 is none"),
        (
            "yolo",
            lambda f: change_listing(f, lambda listing: listing["images"][0].pop("width")),
            r"images\.json does not state the size of in/a b\.jpg",
        ),
        (
            "detections.csv",
            lambda f: change_listing(f, lambda listing: listing["images"].pop(0)),
            r"detections\.csv: its image in/a b\.jpg is not in images\.json",
        ),
        (
            "devkit",
            lambda f: change_listing(f, lambda listing: listing["categories"].pop(0)),
            r"devkit: its class cat is not in images\.json",
        ),
        ("voc", lambda f: change_listing(f, lambda listing: listing.pop("images")), "no list of images"),
        ("nothing", lambda f: (f / "nothing").mkdir(), "nothing: holds no detections"),
        ("nothing.csv", lambda _: None, "no such file"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(folder, place, damage, said):
    damage(folder)
    with pytest.raises((UserError, OSError), match=said) as caught:
        read_results(folder / place, DATASET)
    assert "\n" not in str(caught.value)


def test_annotations_are_no_detections(folder):
    path = folder / "voc" / "in" / "a b.xml"
    path.write_text(path.read_text().replace("score>", "rank>"))
    with pytest.raises(UserError, match=r"a b\.xml: object 1 \(cat\) has no <score>"):
        read_results(folder / "voc", DATASET)


def test_scores_that_are_not_finite_are_refused_from_every_format(folder):
    shutil.copy(folder / "detections.csv", folder / "copy.csv")
    (folder / "copy.csv").write_text((folder / "copy.csv").read_text().replace("0.9", "nan"))
    with pytest.raises(UserError, match=r"copy\.csv\[0\]: score must be a finite number"):
        read_results(folder / "copy.csv", DATASET)
