"""The page of a look at a data set: what is drawn of a finding, and what a browser makes of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.commands.inspect_data import Inspection
from spp_det.data.inspection import Sighting, look_at
from spp_det.data.records import Change, Dataset, Record
from spp_det.report.data_page import GROUND, LONGEST_SIDE, MOST, picture, write_data_page
from tests.report.test_page import HOSTILE


def record(path: Path, name: str, box: tuple[float, ...], changes: tuple[Change, ...] = ()) -> Record:
    no = np.zeros(1, np.bool_)
    return Record(name, path, as_boxes([box]), np.array([0]), no, no, (400, 300), changes)


@pytest.fixture
def white(tmp_path) -> Path:
    path = tmp_path / "white.png"
    Image.new("RGB", (400, 300), "white").save(path)
    return path


def test_a_close_up_shows_the_box_and_grey_outside_the_photo(white):
    one = record(white, "a", (380, 0, 400, 20))
    drawn = picture(Sighting("train", one, "", (("as annotated", (380.0, -20.0, 420.0, 20.0)),)), ("cat",))
    assert drawn.shape == (240, 240, 3)  # x from 340 to 424, y from -24 to 60
    assert (drawn[150:, :90] == 255).all()
    assert (drawn[150:, 180:] == GROUND).all()
    assert (drawn[:60, :90] == GROUND).all()
    assert (np.ptp(drawn[118:128], axis=2) > 30).any()  # the box has a colour
    assert (
        (picture(Sighting("train", one, "", (("cat", (9.0, 9.0, 19.0, 19.0)),)), ("cat",)) != GROUND)
        .any(2)
        .all()
    )


@pytest.mark.parametrize("box", [(-1e7, -1e7, 1e7, 1e7), (9e6, 9e6, 9e6 + 4, 9e6 + 2), (5.0, 5.0, 5.1, 5.1)])
def test_an_absurd_box_costs_no_memory(white, box):
    drawn = picture(Sighting("train", record(white, "a", (1, 1, 9, 9)), "", (("cat", box),)), ("cat",))
    assert max(drawn.shape) <= LONGEST_SIDE


def test_a_photo_as_a_whole_has_its_objects(white):
    drawn = picture(Sighting("train", record(white, "a", (100, 100, 300, 200)), ""), ("cat",))
    assert drawn.shape == (270, LONGEST_SIDE, 3)
    assert (np.ptp(drawn[90:180, 88:94], axis=2) > 30).any()


def write(folder: Path, count: int) -> tuple[Path, dict]:
    photo = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)).save(photo)
    outside = Change("outside", f"{HOSTILE}: object 1", (-30, 10, 60, 60))
    records = [record(photo, f"{HOSTILE} {index}", (0, 10, 60, 60), (outside,)) for index in range(count)]
    gone = record(folder / "gone.png", "gone", (0, 0, 50, 50))
    look = look_at({HOSTILE: Dataset((HOSTILE,), [*records, gone])}, [])
    inspection = Inspection(folder / HOSTILE.replace("/", "_"), "voc", look, None)
    page = folder / "data.html"
    figures = inspection.figures()
    write_data_page(page, figures, look.findings, look.classes)
    return page, figures


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_names_are_text_pictures_are_shown_and_nothing_is_asked_for(browser, tmp_path, width, scheme):
    page, figures = write(tmp_path, MOST + 3)
    browser.open(page, width=width, scheme=scheme)
    shown = HOSTILE.removesuffix("\u202e")
    assert browser.run("document.querySelector('tbody tr:nth-child(3) th').textContent") == shown
    assert browser.run("document.querySelectorAll('script').length") == 0
    assert (
        browser.run("[...document.querySelectorAll('img')].map(one => one.naturalWidth > 0)") == [True] * MOST
    )
    assert browser.run("[...document.querySelectorAll('figure')].length") == MOST + 1  # gone has no picture
    listed = browser.run(
        "[...document.querySelectorAll('.odd li')].map(one => one.textContent.split(':')[0])"
    )
    assert listed == [finding["kind"] for finding in figures["findings"]] == ["outside", "damaged"]
    assert browser.run("document.body.textContent.includes('3 more are not shown')")
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.requests = [address for address in browser.requests if not address.startswith("data:")]


def test_a_set_without_anything_odd_says_so(browser, tmp_path, white):
    splits = {"train": Dataset(("cat",), [record(white, str(i), (0, 0, 40, 40)) for i in range(12)])}
    look = look_at(splits, [])
    page = tmp_path / "data.html"
    write_data_page(page, Inspection(tmp_path, "coco", look, None).figures(), look.findings, look.classes)
    browser.open(page)
    assert browser.run("document.querySelector('.note').textContent") == "Nothing odd was found."
    cells = (
        "[...document.querySelectorAll('tbody tr')].map(row => [...row.cells].map(one => one.textContent))"
    )
    assert browser.run(cells) == [
        ["photos", "12", "", "", "", "", ""],
        ["without objects", "0", "", "", "", "", ""],
        ["cat", "12", "0", "0", "12", "0", "0"],
        ["all", "12", "0", "0", "12", "0", "0"],
    ]
