"""Stated sizes against the photos', and boxes that are turned with their photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.records import Change, Record
from spp_det.data.sizes import check_sizes, settle_sizes, turn
from spp_det.errors import UserError
from spp_det.images import read_image

STORED = (60, 40)  # width, height of the stored pixels
BOX = (10, 5, 30, 25)


def photo(path: Path, orientation: int = 1, size: tuple[int, int] = STORED) -> Path:
    """Black, with a white rectangle in the box of the stored pixels."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x1, y1, x2, y2 = BOX
    pixels[y1:y2, x1:x2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def record(path: Path, size: tuple[int, int] | None, box: tuple[float, ...] = BOX) -> Record:
    no = np.zeros(1, np.bool_)
    return Record(path.stem, path, as_boxes([box]), np.array([0]), no, no, size)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_box_is_turned_with_its_photo(tmp_path, orientation, caplog):
    path = photo(tmp_path / "a.png", orientation)
    (settled,) = settle_sizes([record(path, STORED)], "set")
    assert settled.size == (40, 60)
    rows, columns = np.nonzero(read_image(path)[:, :, 0])
    white = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert settled.boxes.tolist() == [white]
    assert settled.changes == (
        Change("turned", f"labelled unturned; EXIF orientation {orientation} turns it"),
    )
    assert caplog.messages == [
        "set: 1 photos are turned by their EXIF orientation but were labelled unturned; their boxes are "
        f"turned with them, the first is {path}"
    ]


@pytest.mark.parametrize(("orientation", "size"), [(6, (40, 60)), (3, STORED), (1, STORED), (6, None)])
def test_a_photo_that_was_labelled_upright_stays(tmp_path, orientation, size, caplog):
    one = record(photo(tmp_path / "a.png", orientation), size)
    assert settle_sizes([one], "set") == [one]
    check_sizes([one], [None], "set")
    assert not caplog.messages


def test_boxes_that_fit_the_upright_photo_alone_tell_that_the_size_is_wrong(tmp_path, caplog):
    """Converters write the size of the stored pixels beside boxes that were drawn upright."""
    one = record(photo(tmp_path / "a.png", 6), STORED, (10, 5, 30, 58))
    (settled,) = settle_sizes([one], "set")
    assert (settled.size, settled.boxes.tolist()) == ((40, 60), one.boxes.tolist())
    assert not caplog.messages


def test_sides_that_are_exchanged_without_exif_are_another_size(tmp_path, caplog):
    settle_sizes([record(photo(tmp_path / "a.png"), (40, 60), (1, 1, 9, 9))], "set")
    assert "the annotations of 1 photos state another size than the photos have" in caplog.text


def test_a_photo_that_was_resized_is_counted_and_in_an_evaluation_refused(tmp_path, caplog):
    paths = [photo(tmp_path / f"{name}.png") for name in "abc"]
    records = [record(paths[0], STORED), *(record(path, (120, 80), (20, 10, 60, 50)) for path in paths[1:])]
    settled = settle_sizes(records, "set")
    assert [one.boxes.tolist() for one in settled] == [one.boxes.tolist() for one in records]
    assert [one.size for one in settled] == [STORED, (120, 80), (120, 80)]
    odd = Change("size", "labelled at 120x80, is 60x40")
    assert [one.changes for one in settled] == [(), (odd,), (odd,)]
    message = (
        "the annotations of 2 photos state another size than the photos have, the first is "
        f"{paths[1]}: 60x40, labelled at 120x80"
    )
    assert len(caplog.messages) == 1
    assert message in caplog.text
    with pytest.raises(UserError, match="label them again") as caught:
        check_sizes(records, [None] * 3, "set")
    assert message in str(caught.value)


def test_the_size_that_detections_state_counts_where_the_photo_is_not_at_hand(tmp_path):
    one = record(tmp_path / "nowhere.png", (120, 80))
    check_sizes([one], [None], "set")
    check_sizes([one], [(120, 80)], "set")
    with pytest.raises(UserError, match="60x40, labelled at 120x80"):
        check_sizes([one], [(60, 40)], "set")


side = st.integers(0, 50)


@given(st.tuples(side, side, side, side), st.sampled_from([5, 6, 7, 8]))
def test_a_turned_box_keeps_its_sides_and_comes_back(corners, orientation):
    x1, x2, y1, y2 = *sorted(corners[:2]), *sorted(corners[2:])
    box = as_boxes([(x1, y1, x2, y2)])
    turned = turn(box, orientation, (50, 60))
    assert (turned[0, 2:] - turned[0, :2]).tolist() == [y2 - y1, x2 - x1]
    back = {5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    assert turn(turned, back, (60, 50)).tolist() == box.tolist()
