"""Faults that are planted in a generated data set are found; the set without them has none."""

from __future__ import annotations

import json
import re
import shutil
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.commands.inspect_data import look_into, read_for_a_look
from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.convert import write_dataset
from spp_det.data.inspection import choose_sample, look_at
from spp_det.data.synthetic import generate_voc
from tests.command_line import Ended, assert_last_line, assert_one_line, spp_det

SIZE = (320, 240)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "photos"
    generate_voc(root, {"trainval": 32, "test": 6}, seed=3, sizes=(SIZE,))
    return root


@pytest.fixture(scope="module")
def planted(sound, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planted") / "photos"
    shutil.copytree(sound, root)
    plant_copies(root)
    plant_specks(root)
    plant_turn(root)
    plant_outside(root)
    return root


def plant_copies(root: Path) -> None:
    """One photo of the training in the test, byte for byte, and another one saved again, smaller."""
    photos = root / "JPEGImages"
    shutil.copy(photos / "trainval_00000.jpg", photos / "test_same.jpg")
    with Image.open(photos / "trainval_00001.jpg") as photo:
        photo.resize((160, 120)).save(photos / "test_again.png")
    for name, size in (("test_same", SIZE), ("test_again", (160, 120))):
        width, height = size
        text = f"<annotation><size><width>{width}</width><height>{height}</height></size></annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    with (root / "ImageSets" / "Main" / "test.txt").open("a") as split:
        split.write("test_same\ntest_again\n")


def plant_specks(root: Path) -> None:
    """A class of objects so small that no window covers them, and in the test alone."""
    box = "<xmin>{}</xmin><ymin>9</ymin><xmax>{}</xmax><ymax>12</ymax>"
    speck = f"<object><name>speck</name><bndbox>{box}</bndbox></object>"
    for index in range(4):
        specks = "".join(speck.format(x, x + 3) for x in (40, 80))
        edit(root, f"test_{index:05d}", "</annotation>", f"{specks}</annotation>")


def plant_turn(root: Path) -> None:
    """A photo that EXIF turns, with the boxes and the size of the stored pixels."""
    path = root / "JPEGImages" / "trainval_00002.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as photo:
        photo.load()
        photo.save(path, exif=exif)


def plant_outside(root: Path) -> None:
    edit(root, "trainval_00003", r"<xmax>\d+</xmax>", "<xmax>350</xmax>")


def edit(root: Path, image_id: str, old: str, new: str) -> None:
    path = root / "Annotations" / f"{image_id}.xml"
    text, count = re.subn(old, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def configure(root: Path, **data: str) -> Config:
    return parse_config({"data": {"root": str(root), **data}}, "test")


@pytest.fixture(scope="module")
def run(planted) -> tuple[Ended, dict, Path]:
    page, figures = planted.parent / "data.html", planted.parent / "data.json"
    recipe = planted.parent / "recipe.yaml"
    recipe.write_text(f"data: {{root: {planted}}}\n")
    ended = spp_det("inspect-data", recipe, "--sample", 16, "--json", figures, "--page", page)
    assert ended.code == 0, ended.err
    return ended, json.loads(figures.read_text()), page


def found(run) -> dict[str, dict]:
    return {finding["kind"]: finding for finding in run[1]["findings"]}


def test_a_sound_set_has_nothing_odd(sound):
    inspection = look_into(configure(sound), sample=12)
    assert inspection.look.findings == ()
    assert inspection.recall is not None
    assert inspection.recall["recall"]["0.5"] >= 0.9
    assert inspection.recall["photos"] == 12


def test_photos_that_two_splits_share_are_found_also_saved_again(run):
    copies = found(run)["in two splits"]
    assert copies["text"].startswith("2 photos are in more than one split")
    assert [(seen["split"], seen["image"], seen["what"]) for seen in copies["photos"]] == [
        ("trainval", "trainval_00000", ""),
        ("test", "test_same", "trainval: trainval_00000 again"),
        ("trainval", "trainval_00001", ""),
        ("test", "test_again", "trainval: trainval_00001 again"),
    ]


def test_a_class_that_is_tiny_and_not_in_the_training_is_found(run):
    kinds = found(run)
    assert kinds["unseen class"]["text"] == "trainval has no object of speck (8 elsewhere)"
    assert {seen["image"] for seen in kinds["unseen class"]["photos"]} == {f"test_0000{i}" for i in range(4)}
    assert kinds["tiny"]["text"].endswith("have a side under 10 pixels: speck (8)")
    assert kinds["tiny"]["photos"][0]["boxes"] == [{"name": "speck", "box": [39, 8, 43, 12]}]
    assert run[1]["sizes"]["speck"]["<16"] == 8


def test_a_photo_that_was_labelled_unturned_is_found(run):
    (seen,) = found(run)["labelled unturned"]["photos"]
    assert (seen["image"], seen["what"]) == (
        "trainval_00002",
        "labelled unturned; EXIF orientation 6 turns it",
    )
    assert "EXIF" not in found(run)  # whose boxes nobody has turned


def test_a_box_outside_is_found_as_it_was_annotated(run):
    (seen,) = found(run)["outside"]["photos"]
    assert seen["image"] == "trainval_00003"
    assert seen["boxes"][0]["box"][2] == 350


def test_windows_that_cover_too_few_objects_are_found(run):
    windows, recall = found(run)["windows"], run[1]["recall"]
    specks = recall["per_class"]["speck"]
    assert specks == recall["by_size"]["<16"]
    assert specks["objects"] >= 4
    assert specks["recall"]["0.5"] == 0
    assert f"class speck 0% of {specks['objects']}" in windows["text"]
    assert windows["text"].endswith("try proposals.mode=paper")
    assert sum("speck" in seen["what"] for seen in windows["photos"]) == specks["objects"]
    assert len(windows["photos"]) == round(recall["objects"] * (1 - recall["recall"]["0.5"]))


def test_counts_are_those_of_the_annotations(run, planted):
    parts = run[1]["splits"]
    assert {name: part["photos"] for name, part in parts.items()} == {"trainval": 32, "test": 8}
    assert parts["test"]["without_objects"] == 2
    assert found(run)["without objects"]["text"] == "2 photos (5% of all) have no object"
    files = (planted / "Annotations").glob("trainval_*.xml")
    names = [name for path in files for name in re.findall(r"<name>(.*)</name>", path.read_text())]
    assert parts["trainval"]["objects"] == {name: names.count(name) for name in parts["trainval"]["objects"]}
    assert parts["trainval"]["objects"]["speck"] == 0


def test_terminal_and_page_say_the_same(run):
    ended, _, page = run
    text = page.read_text()
    for finding in found(run).values():
        assert f"{finding['kind']}: {finding['text']}" in " ".join(ended.err.split())
        assert escape(finding["text"]) in text
    for word in ("speck", "trainval", "without objects", "covered %"):
        assert word in ended.out
        assert word in text


@pytest.mark.parametrize("format_", ["coco", "yolo"])
def test_the_same_is_found_in_other_formats(planted, tmp_path, format_):
    """Boxes of YOLO are fractions: no reader can tell whether they were drawn on the unturned photo."""
    _, splits = read_for_a_look(configure(planted).data, seed=0)
    write_dataset({"train": splits["trainval"], "test": splits["test"]}, tmp_path / "set", format_)
    annotations = next(tmp_path.rglob("trainval_00003.txt" if format_ == "yolo" else "train.json"))
    if format_ == "yolo":
        annotations.write_text(annotations.read_text() + "0 .9 .5 .3 .3\n")
    else:
        content = json.loads(annotations.read_text())
        content["annotations"][0]["bbox"][2] = 330
        annotations.write_text(json.dumps(content))
    inspection = look_into(configure(tmp_path / "set"), sample=0)
    assert (inspection.format, list(inspection.look.splits)) == (format_, ["train", "test"])
    texts = {finding.kind: finding.text for finding in inspection.look.findings}
    assert texts["in two splits"].startswith("2 photos")
    assert texts["outside"].startswith("1 boxes in 1 photos")
    assert texts["EXIF"].startswith("1 photos")
    assert texts["unseen class"] == "train has no object of speck (8 elsewhere)"
    assert inspection.recall is None


def test_a_share_is_held_out_where_there_are_no_splits(planted, tmp_path):
    shutil.copytree(planted, tmp_path / "photos", ignore=shutil.ignore_patterns("ImageSets"))
    _, splits = read_for_a_look(configure(tmp_path / "photos").data, seed=0)
    assert {name: len(part) for name, part in splits.items()} == {"learnt from": 32, "held out": 8}


def test_what_the_recipe_names_is_looked_at_alone(planted):
    format_, splits = read_for_a_look(configure(planted, train="trainval", test="none").data, seed=0)
    assert (format_, list(splits)) == ("voc", ["trainval"])
    _, splits = read_for_a_look(configure(planted, test="test", classes=["ring", "speck"]).data, seed=0)
    assert {name: part.classes for name, part in splits.items()} == dict.fromkeys(
        ("trainval", "test"), ("ring", "speck")
    )


def test_a_sample_gives_each_class_its_turn(planted):
    config = configure(planted)
    look = look_at(read_for_a_look(config.data, 0)[1])
    places = choose_sample(look, 14, seed=0)
    assert len({record.path for _, record in places}) == len(places) == 14
    photos = np.zeros(len(look.classes), np.int64)
    for _, record in places:
        photos[np.unique(record.labels)] += 1
    assert photos.min() >= 2
    again = choose_sample(look, 14, seed=0)
    assert [record.image_id for _, record in again] == [record.image_id for _, record in places]


def test_what_a_training_would_refuse_is_one_line(planted, tmp_path):
    shutil.copytree(planted, tmp_path / "photos")
    edit(tmp_path / "photos", "trainval_00004", r"<xmin>\d+</xmin>(\s*)<ymin>", r"<xmin>330</xmin>\1<ymin>")
    edit(tmp_path / "photos", "trainval_00004", r"<xmax>\d+</xmax>", "<xmax>340</xmax>")
    ended = spp_det("inspect-data", "squeezenet_svm", f"data.root={tmp_path / 'photos'}")
    assert_last_line(ended, "trainval_00004.xml: object 1", "lies outside the 320x240 image")
    assert_one_line(
        spp_det("inspect-data", "squeezenet_svm", f"data.root={tmp_path / 'none'}"), "no such folder"
    )
