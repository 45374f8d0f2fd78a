"""Real annotated photos, where a checkout has them beside it; the other tests never need them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from spp_det.data.bounds import fit_record
from spp_det.data.coco import coco_instances
from spp_det.data.folder import find_images
from spp_det.data.voc import read_voc, write_voc
from spp_det.images import image_size, read_image

DATA = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the photos of {DATA}, which is absent")

COUNTS = {
    ("zoo6", "trainval"): (385, [29, 36, 31, 36, 203, 163]),
    ("zoo6", "test"): (128, [14, 11, 13, 7, 63, 54]),
    ("bccd", "trainval"): (292, [292, 3350, 301]),
    ("bccd", "test"): (72, [69, 805, 71]),
}


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_reads_every_object_without_a_warning(
    name: str, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = read_voc(DATA / name, split)
    labels = np.concatenate([record.labels for record in dataset.records])
    images, objects = COUNTS[name, split]
    assert len(dataset) == images
    assert np.bincount(labels).tolist() == objects
    assert [record.path for record in dataset.records] == find_images(
        [DATA / name / f"ImageSets/Main/{split}.txt"]
    )
    for record in dataset.records:
        assert fit_record(record, *image_size(record.path)) is record
    assert not caplog.records


def test_writes_the_same_integers(tmp_path: Path) -> None:
    dataset = read_voc(DATA / "bccd", "test")
    write_voc(dataset, tmp_path, "test")
    again = read_voc(tmp_path, "test")
    for a, b in zip(dataset.records, again.records, strict=True):
        assert np.array_equal(a.boxes, b.boxes)
        assert np.array_equal(a.labels, b.labels)
    assert len(coco_instances(dataset)["annotations"]) == 945


def test_truncated_photo_has_its_full_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cut.jpg"  # a name of its own: the warning comes once in a process
    path.write_bytes((DATA / "zoo6/JPEGImages/kangaroo_00090.jpg").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert read_image(path).shape == (393, 590, 3)
    assert f"{path}: truncated JPEG" in caplog.text


def test_gray_photo_is_rgb() -> None:
    image = read_image(DATA / "zoo6/JPEGImages/raccoon-150.jpg")
    assert image.shape == (183, 275, 3)
    assert (image == image[:, :, :1]).all()
