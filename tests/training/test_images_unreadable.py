"""Training images that cannot be read, are cut or odd, or vanish before their maps are made."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spp_det.config.settings import Proposals
from spp_det.data.records import Dataset
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import read_image
from spp_det.model.backbone import Backbone
from spp_det.model.features import ConvMap
from spp_det.runtime.cache import Cache
from spp_det.training.images import TrainingImages
from spp_det.training.windows import LabelledWindows
from tests.training.prepared import all_of, same
from tests.vectors import spp_features


@pytest.fixture
def broken(voc, tmp_path) -> Dataset:
    """The data set with an empty file, one that is no image, one that is absent, and one that is whole."""
    dataset = read_voc(voc, "trainval")
    for number, record in enumerate(dataset.records[:3]):
        path = tmp_path / f"broken{number}.jpg"
        if number < 2:
            path.write_bytes([b"", b"not an image"][number])
        object.__setattr__(record, "path", path)
    return dataset


REASONS = (
    "the file is empty",
    "not an image, or in a format that is not supported",
    "No such file or directory",
)


def test_unreadable_images_are_skipped_with_a_warning_each(prepare, prepared, broken, caplog):
    images = prepare(broken)
    assert len(images) == 1
    assert images.skipped == [
        {"file": str(record.path), "reason": reason}
        for record, reason in zip(broken.records[:3], REASONS, strict=True)
    ]
    assert torch.equal(all_of(images.vectors(0))[0], all_of(prepared.vectors(3))[0])
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 3
    for record, warning in zip(broken.records, warnings, strict=False):
        assert str(record.path) in warning
        assert "\n" not in warning


def test_strict_makes_them_errors(prepare, broken):
    with pytest.raises(UserError, match="broken0"):
        prepare(broken, strict=True)


def test_no_readable_image_at_all_is_an_error(prepare, broken):
    with pytest.raises(UserError, match="no readable training image"):
        prepare(Dataset(broken.classes, broken.records[:3]))


def test_a_truncated_jpeg_is_used_at_its_full_size(prepare, voc, tmp_path, caplog, monkeypatch):
    dataset = read_voc(voc, "trainval")
    record = dataset.records[2]
    data = record.path.read_bytes()
    path = tmp_path / "truncated.jpg"
    path.write_bytes(data[: 2 * len(data) // 3])
    object.__setattr__(record, "path", path)
    images = prepare(dataset)
    assert len(images) == 4
    assert images.windows()[2].boxes[:, 2].max() == record.size[0]
    assert caplog.text.count("truncated.jpg") == 1
    caplog.clear()
    monkeypatch.setattr("spp_det.images._warned", set())  # as another process, which finds all in the cache
    prepare(dataset)
    assert caplog.text.count("truncated.jpg: truncated JPEG") == 1


def test_an_annotation_of_another_size_is_fitted_to_the_image(prepare, voc):
    dataset = read_voc(voc, "trainval")
    record = dataset.records[0]
    width, height = record.size
    object.__setattr__(record, "size", (width + 50, height + 50))
    record.boxes[0, 2:] = width + 40, height + 40
    images = prepare(dataset)
    assert images.windows()[0].record.size == (width, height)
    assert images.windows()[0].boxes[0, 2:].tolist() == [width, height]


def test_proposals_of_a_tiny_image_are_its_windows(prepare, voc, tmp_path):
    dataset = read_voc(voc, "trainval")
    for number, shape in enumerate([(1, 1, 3), (3, 500, 3)]):
        record = dataset.records[number]
        path = tmp_path / f"{number}.ppm"
        path.write_bytes(b"P6 %d %d 255\n" % shape[1::-1] + bytes(range(256)) * 30)
        object.__setattr__(record, "path", path)
        object.__setattr__(record, "size", None)
        for name in ("boxes", "labels", "difficult", "crowd"):
            object.__setattr__(record, name, getattr(record, name)[:0])
    images = prepare(dataset)
    assert images.windows()[0].boxes.tolist() == [[0, 0, 1, 1]]
    assert isinstance(images.windows()[1], LabelledWindows)
    assert all_of(images.vectors(1))[0].isfinite().all()


def test_maps_that_half_precision_cannot_hold_are_refused(prepare):
    large = spp_features(Backbone("zf5_small"), (64,), 400, (3, 1), "max")
    large.maps_at = lambda images, _: [ConvMap(torch.full((4, 3, 3), 1e6), (1.0, 1.0)) for _ in images]
    with pytest.raises(UserError, match=r"backbone\.weights: conv5 of .* does not fit into half precision"):
        prepare(features=large)


def vanish(monkeypatch, *paths: Path) -> None:
    """Once their windows are known these files are gone."""

    def read(path: Path) -> np.ndarray:
        return read_image(path.with_name("gone.jpg") if path in paths else path)

    monkeypatch.setattr("spp_det.training.images.read_image", read)


@pytest.mark.parametrize("size", [1, 3])
def test_an_image_that_vanishes_before_its_maps_are_made_is_skipped(
    dataset, features, tmp_path, monkeypatch, caplog, size
):
    """The rest is what it would be without that image; also where several pass the network at once."""
    monkeypatch.setattr("spp_det.training.images.images_at_once", lambda _: size)
    images = TrainingImages(dataset, features, Proposals(), Cache(tmp_path / "cache"), 2)
    lost = dataset.records[1]
    vanish(monkeypatch, lost.path)
    assert not images.make_maps(np.arange(4))
    assert images.make_maps(np.arange(3))
    assert [one["reason"] for one in images.skipped] == [
        f"{lost.path.with_name('gone.jpg')}: no such file or directory"
    ]
    assert "skipped: " in caplog.text
    others = replace(dataset, records=[record for record in dataset.records if record is not lost])
    whole = TrainingImages(others, features, Proposals(), Cache(tmp_path / "cache"), 2)
    assert whole.make_maps(np.arange(3))
    assert whole.key() == images.key()
    assert same(whole, images)


def test_all_processes_learn_which_images_have_vanished(dataset, features, tmp_path, monkeypatch, in_ranks):
    vanish(monkeypatch, dataset.records[2].path)

    def work(rank: int) -> tuple[bool, list[str], list[str]]:
        images = TrainingImages(dataset, features, Proposals(), Cache(tmp_path / str(rank)), 1)
        whole = images.make_maps(np.arange(4))
        return whole, [image.record.image_id for image in images.images], [s["file"] for s in images.skipped]

    ids = [record.image_id for record in dataset.records]
    assert in_ranks(2, work) == [(False, [*ids[:2], ids[3]], [str(dataset.records[2].path)])] * 2


def test_a_vanished_image_is_an_error_where_strict_and_where_it_was_the_last(
    dataset, features, tmp_path, monkeypatch
):
    vanish(monkeypatch, *(record.path for record in dataset.records))
    for strict, said in ((True, "no such file"), (False, "no readable training image")):
        images = TrainingImages(dataset, features, Proposals(), Cache(tmp_path / "cache"), 2, strict)
        with pytest.raises(UserError, match=said):
            images.make_maps(np.arange(4))
