"""Batches of an image folder: who sees what, and that it depends on nothing but seed, epoch and index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.config.pretrain import Training
from spp_det.data.class_folder import LabelledImages
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, encode_jpeg
from spp_det.pretraining.class_images import ClassBatches, readable

CPU = torch.device("cpu")
COUNT = 11


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> LabelledImages:
    """Each of its own grey, its label that grey's place among all."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{i}.jpg" for i in range(COUNT)]
    for i, path in enumerate(paths):
        path.write_bytes(encode_jpeg(np.full((20, 24, 3), 20 * i, np.uint8)))
    return LabelledImages(tuple(map(str, range(COUNT))), paths, np.arange(COUNT))


def batches(images, epoch=0, seed=0, workers=2, **train):
    settings = Training(**{"sizes": (16,), "batch": 4, "colour": 0, **train})
    with torch.random.fork_rng(devices=[]):
        return list(ClassBatches(images, settings, seed, workers, CPU)(epoch, 16))


def labels_of(found) -> list[int]:
    return torch.cat([labels for _, labels in found]).tolist()


def test_an_epoch_sees_every_image_once_with_its_label(images):
    found = batches(images)
    assert [len(labels) for _, labels in found] == [4, 4, 3]
    assert sorted(labels_of(found)) == list(range(COUNT))
    for pixels, labels in found:
        assert (pixels.dtype, pixels.shape[1:]) == (torch.uint8, (3, 16, 16))
        assert (pixels.float().mean((1, 2, 3)) / 20).round().long().tolist() == labels.tolist()


def test_the_steps_are_told_and_no_batch_is_tiny(images):
    assert ClassBatches(images, Training(batch=10), 0, 1, CPU).steps == 2
    assert [len(labels) for _, labels in batches(images, batch=10)] == [6, 5]


def test_each_epoch_and_seed_has_its_own_order_and_pictures(images):
    orders = {tuple(labels_of(batches(images, epoch, seed))) for epoch in (0, 1) for seed in (0, 1)}
    assert len(orders) == 4


def test_the_number_of_threads_changes_nothing(images):
    for (one, labels), (other, others) in zip(
        batches(images, workers=1, colour=0.3), batches(images, workers=3, colour=0.3), strict=True
    ):
        assert torch.equal(one, other)
        assert torch.equal(labels, others)


def test_processes_share_each_batch(images, monkeypatch):
    alone = batches(images, colour=0.3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(batches(images, colour=0.3))
    for (pixels, labels), (first, firsts), (second, seconds) in zip(alone, *shares, strict=True):
        assert len(firsts) == len(seconds)
        assert torch.equal(first, pixels[0::2])
        assert torch.equal(second[: len(labels) // 2], pixels[1::2])
        assert set(firsts.tolist()) | set(seconds.tolist()) == set(labels.tolist())


def test_dropout_is_seeded_by_the_epoch_alone(images):
    draws = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.rand(len(draws))
            next(iter(ClassBatches(images, Training(sizes=(16,), batch=4), 0, 1, CPU)(3, 16)))
            draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_files_that_cannot_be_read_are_left_out_and_named(images, tmp_path, caplog):
    (tmp_path / "bad.jpg").write_text("not a photo")
    paths = [images.paths[0], tmp_path / "bad.jpg", images.paths[1]]
    some = LabelledImages(("a", "b"), paths, np.array([0, 0, 1]))
    kept, skipped = readable(some, 2, strict=False)
    assert (list(kept.paths), kept.labels.tolist()) == (paths[::2], [0, 1])
    (one,) = skipped
    assert one["file"] == str(tmp_path / "bad.jpg")
    assert "not an image" in one["reason"]
    assert "bad.jpg" in caplog.text
    with pytest.raises(UnreadableImageError, match=r"bad\.jpg: not an image"):
        readable(some, 2, strict=True)
    with pytest.raises(UserError, match="no readable image"):
        readable(LabelledImages(("a",), paths[1:2], np.array([0])), 2, strict=False)
