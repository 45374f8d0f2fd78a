"""Boxes at the edges of their image, and sizes that are not what the annotation says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.data.bounds import clip_records, fit_record
from spp_det.data.records import Change, Record
from spp_det.errors import UserError


def record(
    path: Path, boxes: list[list[float]], size: tuple[int, int] | None = (100, 80), image_id: str = "a"
) -> Record:
    flags = np.zeros(len(boxes), np.bool_)
    return Record(image_id, path, as_boxes(boxes), np.zeros(len(boxes), np.int64), flags, flags, size)


def name_object(record: Record, index: int) -> str:
    return f"{record.image_id}.xml: object {index + 1}"


def clip_one(one: Record) -> Record:
    return clip_records([one], name_object, "set")[0]


def image(path: Path, width: int, height: int) -> Path:
    Image.new("RGB", (width, height)).save(path)
    return path


NOWHERE = Path("nowhere.jpg")


def test_boxes_inside_pass_untouched_and_silently(caplog: pytest.LogCaptureFixture) -> None:
    one = record(NOWHERE, [[0, 0, 100, 80], [99, 79, 100, 80]])
    assert clip_one(one) is one
    assert not caplog.records


def test_boxes_outside_are_clipped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    records = [
        record(NOWHERE, [[1, 1, 2, 2]], image_id="a"),
        record(NOWHERE, [[1, 1, 2, 2], [-1, 5, 101, 90]], image_id="b"),
        record(NOWHERE, [[-1, -1, 5, 5]], image_id="c"),
    ]
    found = clip_records(records, name_object, "set")
    assert [one.boxes.tolist() for one in found] == [
        [[1, 1, 2, 2]],
        [[1, 1, 2, 2], [0, 5, 100, 80]],
        [[0, 0, 5, 5]],
    ]
    assert [one.changes for one in found] == [
        (),
        (Change("outside", "b.xml: object 2", (-1, 5, 101, 90)),),
        (Change("outside", "c.xml: object 1", (-1, -1, 5, 5)),),
    ]
    assert records[1].boxes[1].tolist() == [-1, 5, 101, 90]  # the caller's array is as it was
    assert caplog.messages == [
        "set: 2 boxes in 2 images reach outside their image and were clipped, the first is b.xml: object 2"
    ]


def test_rounding_errors_are_clipped_silently(caplog: pytest.LogCaptureFixture) -> None:
    assert clip_one(record(NOWHERE, [[-0.01, 0, 100.01, 80]])).boxes.tolist() == [[0, 0, 100, 80]]
    assert not caplog.records


@pytest.mark.parametrize("box", [[100, 5, 110, 10], [-10, 5, 0, 10], [5, 80, 10, 90], [5, 200, 10, 300]])
def test_box_wholly_outside_is_an_error_that_names_it(box: list[float]) -> None:
    with pytest.raises(UserError, match=r"^a\.xml: object 2 lies outside the 100x80 image$"):
        clip_one(record(NOWHERE, [[0, 0, 5, 5], box]))


def test_images_with_boxes_outside_are_counted() -> None:
    records = [record(NOWHERE, [[100, 5, 110, 10], [-9, 5, 0, 9]], image_id=name) for name in "abc"]
    with pytest.raises(UserError) as caught:
        clip_records([record(NOWHERE, [[0, 0, 5, 5]]), *records], name_object, "set")
    assert str(caught.value) == (
        "a.xml: object 1 lies outside the 100x80 image; so do boxes in 2 other images"
    )


def test_without_a_size_only_the_known_edges_clip() -> None:
    found = clip_one(record(NOWHERE, [[-3, 2, 5000, 6000]], size=None))
    assert found.boxes.tolist() == [[0, 2, 5000, 6000]]
    with pytest.raises(UserError, match="object 1 lies outside the image"):
        clip_one(record(NOWHERE, [[-30, 2, -3, 6000]], size=None))


def test_wrong_stated_size_does_not_ruin_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = image(tmp_path / "a.png", 200, 160)
    found = clip_one(record(path, [[10, 10, 190, 150]]))
    assert found.boxes.tolist() == [[10, 10, 190, 150]]
    assert found.size == (200, 160)
    assert caplog.messages == [
        f"{path}: is 200x160, but its annotation says 100x80; the photo's own size counts"
    ]


def test_fit_record_keeps_what_agrees() -> None:
    one = record(NOWHERE, [[0, 0, 100, 80]])
    assert fit_record(one, 100, 80) is one


def test_fit_record_clips_to_the_size_of_the_image() -> None:
    found = fit_record(record(NOWHERE, [[10, 10, 100, 80]]), 50, 40)
    assert found.size == (50, 40)
    assert found.boxes.tolist() == [[10, 10, 50, 40]]


def test_fit_record_learns_a_size_that_nobody_stated(caplog: pytest.LogCaptureFixture) -> None:
    found = fit_record(record(NOWHERE, [[10, 10, 100, 80]], size=None), 50, 40)
    assert (found.size, found.boxes.tolist()) == ((50, 40), [[10, 10, 50, 40]])
    assert not caplog.records


def test_fit_record_names_an_object_outside() -> None:
    with pytest.raises(UserError, match=r"nowhere\.jpg: object 1 lies outside the 50x40 image"):
        fit_record(record(NOWHERE, [[60, 10, 100, 80]]), 50, 40)


def test_no_boxes() -> None:
    assert fit_record(record(NOWHERE, []), 50, 40).boxes.shape == (0, 4)
    assert clip_one(record(NOWHERE, [])).boxes.shape == (0, 4)
