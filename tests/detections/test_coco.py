"""COCO's results list and its listing, as text and from detections of other formats."""

from __future__ import annotations

import io
import json

import pytest

from spp_det.detections.coco import as_results, check_listing, check_results, write_listing, write_results
from spp_det.detections.types import Found
from spp_det.errors import UserError

ENTRIES = [
    {"file_name": "a.jpg", "width": 9, "height": 8, "found": [[1, 0.5, 1.0, 2.0, 4.5, 8.0]]},
    {"file_name": "b.jpg", "width": 7, "height": 6, "found": []},
]
LISTING = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 9, "height": 8},
        {"id": 2, "file_name": "b.jpg", "width": 7, "height": 6},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
RESULTS = [{"image_id": 1, "category_id": 2, "bbox": [1.0, 2.0, 3.5, 6.0], "score": 0.5}]
DOG = Found("a.jpg", "dog", 0.5, (1.0, 2.0, 4.5, 8.0))


def test_what_is_written_is_sound_json():
    results, listing = io.StringIO(), io.StringIO()
    write_results(iter(ENTRIES), results)
    skipped = [{"file": "c.jpg", "reason": "the file is empty"}]
    write_listing(iter(ENTRIES), ["cat", "dog"], skipped, listing)
    assert json.loads(results.getvalue()) == RESULTS
    assert json.loads(listing.getvalue()) == {**LISTING, "skipped": skipped}
    check_results(RESULTS, "results")
    check_listing(LISTING, "listing")


def test_rows_of_another_format_get_the_ids_of_the_listing():
    assert as_results([DOG], LISTING, "a.csv") == (RESULTS, LISTING)


def test_without_a_listing_the_rows_make_one():
    results, listing = as_results([DOG, DOG._replace(name="cat")], None, "a.csv")
    assert [(row["image_id"], row["category_id"]) for row in results] == [(1, 1), (1, 2)]
    assert listing["images"] == [{"id": 1, "file_name": "a.jpg"}]
    assert listing["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    check_listing(listing, "listing")


@pytest.mark.parametrize(
    ("row", "said"), [({"image": "c.jpg"}, "image c.jpg"), ({"name": "cow"}, "class cow")]
)
def test_what_the_listing_lacks_is_named(row, said):
    with pytest.raises(UserError, match=f"^a.csv: its {said} is not in images.json$"):
        as_results([DOG._replace(**row)], LISTING, "a.csv")


@pytest.mark.parametrize("listing", [[], {"images": []}, {**LISTING, "categories": [{"id": 1, "name": ""}]}])
def test_what_is_no_listing_is_refused(listing):
    with pytest.raises(UserError, match=r"^listing: "):
        check_listing(listing, "listing")
