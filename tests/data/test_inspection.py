"""What a look at a data set counts, from records made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.inspection import (
    FEW,
    SIZES,
    choose_sample,
    in_three_lines,
    look_at,
    size_of,
    sizes_by_class,
)
from spp_det.data.records import Change, Dataset, Record


@pytest.fixture
def photo(tmp_path):
    """``photo(name, [(label, side), ...])``: a record with squares of that side; each photo has its own."""

    def make(name: str, *objects: tuple[int, int], orientation: int = 1, **fields) -> Record:
        path = tmp_path / f"{name}.png"
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = np.random.default_rng(sum(map(ord, name))).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((200, 150)).save(path, exif=exif)
        no = np.zeros(len(objects), np.bool_)
        boxes = as_boxes([(5, 5, 5 + side, 5 + side) for _, side in objects])
        labels = np.array([label for label, _ in objects], np.int64)
        return Record(
            name, path, boxes, labels, **{"difficult": no, "crowd": no, "size": (200, 150), **fields}
        )

    return make


def kinds(look) -> dict[str, str]:
    return {finding.kind: finding.text for finding in look.findings}


def many(photo, label: int, name: str = "many") -> list[Record]:
    return [photo(f"{name}{index}", (label, 40)) for index in range(FEW)]


def test_enough_of_everything_is_nothing_odd(photo):
    look = look_at(
        {"train": Dataset(("cat",), many(photo, 0)), "test": Dataset(("cat",), many(photo, 0, "t"))}
    )
    assert look.findings == ()
    assert in_three_lines(look) == (
        "counts: train 10 photos with 10 objects (10 to 10 a class); "
        "test 10 photos with 10 objects (10 to 10 a class)",
        "sizes of objects: <16 px 0%, 16-32 px 0%, 32-64 px 100%, 64-128 px 0%, 128+ px 0%",
        "nothing odd in annotations and headers",
    )


def test_classes_are_those_of_all_splits_that_own_an_object(photo):
    train = Dataset(("declared", "cat"), many(photo, 1))
    test = Dataset(("cat", "dog"), [photo("a", (1, 40), (0, 40))])
    look = look_at({"train": train, "test": test})
    assert look.classes == ("cat", "dog")
    assert look.splits["test"].records[0].labels.tolist() == [1, 0]
    assert kinds(look) == {"unseen class": "train has no object of dog (1 elsewhere)"}


def test_difficult_objects_and_crowds_teach_nothing(photo):
    yes, no = np.ones(1, np.bool_), np.zeros(1, np.bool_)
    records = [
        *many(photo, 0),
        photo("hard", (1, 40), difficult=yes),
        photo("crowd", (1, 40), crowd=yes, difficult=no),
    ]
    look = look_at({"train": Dataset(("cat", "dog"), records)})
    assert kinds(look) == {"unseen class": "train has no object of dog (0 elsewhere)"}
    assert {record.image_id for _, record in choose_sample(look, 99, 0)} == {f"many{i}" for i in range(FEW)}


def test_every_oddity_is_counted(photo):
    outside = Change("outside", "b.xml: object 1 (cat)", (-9, 0, 20, 20))
    records = [
        *many(photo, 0),
        photo("empty"),
        photo("tiny", (0, 9), (0, 10)),
        photo("b", (0, 20), changes=(outside, outside)),
        photo("c", (0, 20), changes=(Change("size", "labelled at 1x1, is 200x150"),)),
        photo("d", (0, 20), changes=(Change("turned", "labelled unturned"),), orientation=6),
        photo("e", (0, 20), orientation=3),
        photo("f", orientation=3),  # without boxes that could be wrong
    ]
    gone = Record(
        "gone", Path("nowhere.png"), records[0].boxes, *[records[0].labels], *[np.zeros(1, np.bool_)] * 2
    )
    look = look_at({"train": Dataset(("cat",), [*records, gone])})
    found = kinds(look)
    assert list(found) == [
        "other size",
        "labelled unturned",
        "outside",
        "damaged",
        "EXIF",
        "tiny",
        "without objects",
    ]
    assert found["outside"] == "2 boxes in 1 photos reach outside and were clipped"
    assert found["tiny"] == "1 boxes (5.9% of all) have a side under 10 pixels: cat (1)"
    assert found["EXIF"].startswith("1 photos are turned by EXIF")
    assert found["without objects"] == "2 photos (11% of all) have no object"
    seen = {finding.kind: finding.sightings for finding in look.findings}
    assert [one.boxes for one in seen["outside"]] == [(("as annotated", (-9, 0, 20, 20)),)] * 2
    assert [one.record.image_id for one in seen["without objects"]] == ["empty", "f"]
    assert seen["damaged"][0].what == "no such file or directory"
    third = in_three_lines(look)[2]
    assert all(text in third for text in found.values())
    sample = {record.image_id for _, record in choose_sample(look, 99, 0)}
    assert sample == {f"many{i}" for i in range(FEW)} | {"tiny", "b", "d", "e", "gone"}


def test_what_is_damaged_inside_is_told_by_whoever_decoded_it(photo):
    records = many(photo, 0)
    look = look_at({"train": Dataset(("cat",), records)}, [], {3: "a part of the file is missing"})
    assert kinds(look) == {"damaged": "1 photos are missing or damaged"}
    assert look.findings[0].sightings[0][1:3] == (records[3], "a part of the file is missing")


def test_copies_across_splits_come_before_copies_in_one(photo):
    one, two = many(photo, 0), many(photo, 0, "t")
    splits = {"train": Dataset(("cat",), one), "test": Dataset(("cat",), [*two, one[3]])}
    look = look_at(splits)  # the same file in both
    assert list(kinds(look)) == ["in two splits"]
    look = look_at(splits, [(0, 1), (3, 20), (3, 11)])
    assert list(kinds(look)) == ["in two splits", "twice in a split"]
    assert kinds(look)["in two splits"].startswith("1 photos are in more than one split")
    assert [(seen.split, seen.record.image_id) for seen in look.findings[0].sightings] == [
        ("train", "many3"),
        ("test", "t1"),
        ("test", "many3"),
    ]


def test_few_objects_are_named_and_a_long_list_is_cut(photo):
    names = tuple(f"class {index}" for index in range(12))
    records = [photo(f"p{index}", (index, 40)) for index in range(12)]
    text = kinds(look_at({"train": Dataset(names, records)}))["few objects"]
    assert text.startswith("train has fewer than 10 objects of class 0 (1), class 1 (1)")
    assert text.endswith("class 7 (1) and 4 other classes")


def test_sizes_are_the_sides_of_squares_of_equal_area(photo):
    boxes = as_boxes([(0, 0, 15.9, 15.9), (0, 0, 16, 16), (0, 0, 8, 128), (0, 0, 64, 64), (0, 0, 500, 500)])
    assert [SIZES[i] for i in size_of(boxes)] == ["<16", "16-32", "32-64", "64-128", "128+"]
    assert size_of(as_boxes([])).tolist() == []
    look = look_at({"train": Dataset(("cat",), [photo("a", (0, 10), (0, 20), (0, 31))])})
    assert sizes_by_class(look) == {"cat": {"<16": 1, "16-32": 2, "32-64": 0, "64-128": 0, "128+": 0}}
