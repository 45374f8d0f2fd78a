"""The training images and the cache: what is computed once, found again by content, and computed anew."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from spp_det.config.settings import Proposals
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.features import SPPFeatures
from spp_det.proposals.files import write_proposals
from spp_det.runtime.cache import Cache, digest
from spp_det.training.images import TrainingImages
from spp_det.training.keys import VERSIONS
from tests.training.prepared import all_of, artefacts, same
from tests.vectors import spp_features


def test_a_second_run_computes_nothing_and_gives_the_same(prepare, prepared, request):
    first = prepare()
    request.getfixturevalue("no_computing")
    second = prepare()
    assert same(first, second)
    assert same(second, prepared)


@pytest.fixture
def networks(monkeypatch):
    """The number of torch's threads at every pass of an image through the network, two scales an image."""
    passes, lock = [], threading.Lock()
    maps_at = SPPFeatures.maps_at

    def noted(self, images, index):
        assert len(images) == 1
        with lock:
            passes.append((torch.get_num_threads(), threading.get_ident()))
        return maps_at(self, images, index)

    monkeypatch.setattr(SPPFeatures, "maps_at", noted)
    return passes


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_each_image_passes_the_network_once_on_a_core_of_its_own(prepare, prepared, networks, workers):
    images = prepare(workers=workers)
    assert [number for number, _ in networks] == [1] * 8
    assert threading.get_ident() not in {ident for _, ident in networks}
    assert len({ident for _, ident in networks}) <= workers
    assert same(images, prepared)
    list(images.positives(0.6))
    list(images.stream(range(4)).own)
    assert len(networks) == 8
    prepare(workers=workers)
    assert len(networks) == 8


def test_only_the_maps_that_are_missing_are_computed(prepare, prepared, networks, tmp_path):
    prepare()
    artefacts(tmp_path / "cache", "maps")[2].unlink()
    again = prepare()
    assert len(networks) == 9
    assert same(again, prepared)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cells": np.zeros((3, 4), np.float16)},
        {"cells": np.zeros((3, 4, 7), np.float16)},
        {"cells": np.zeros((3, 4, 5), np.float32)},
        {"cells": np.zeros((0, 4, 5), np.float16)},
        {"cells": np.full((3, 4, 64), np.inf, np.float16)},
        {"enlargement": np.zeros(2)},
        {"enlargement": np.ones(3)},
    ],
)
def test_a_map_with_a_right_checksum_and_wrong_arrays_is_computed_anew(prepare, prepared, tmp_path, wrong):
    images, cache = prepare(), Cache(tmp_path / "cache")
    path = artefacts(tmp_path / "cache", "maps")[0]
    cache.store("maps", path.stem, {**cache.load("maps", path.stem), **wrong})
    assert same(images, prepared)


def test_as_many_images_pass_the_network_at_once_as_there_are_workers(prepare, monkeypatch):
    together, maps_at = threading.Barrier(4, timeout=20), SPPFeatures.maps_at

    def waiting(self, images, index):
        together.wait()
        return maps_at(self, images, index)

    monkeypatch.setattr(SPPFeatures, "maps_at", waiting)
    assert len(prepare(workers=4)) == 4


def test_each_precision_has_maps_of_its_own(prepare, tmp_path):
    """A cache may be shared by machines with and without bfloat16."""
    exact = prepare()
    rounded_features = spp_features(Backbone("zf5_small").at("bfloat16"), (64, 128), 400, (3, 1), "max")
    rounded = prepare(features=rounded_features)
    assert len(artefacts(tmp_path / "cache", "maps")) == 16
    assert len(artefacts(tmp_path / "cache", "proposals")) == 4
    assert not same(exact, rounded)
    for index in range(4):
        (one, one_of), (two, two_of) = all_of(exact.vectors(index)), all_of(rounded.vectors(index))
        assert (one_of == two_of).all()
        assert (two - one).norm() / one.norm() < 0.05
    assert same(prepare(), exact)  # which the other has not replaced


def test_artefacts_are_found_by_content_not_by_name(prepare, dataset, voc, tmp_path, request):
    first = prepare()
    moved = tmp_path / "elsewhere"
    voc_copy = read_voc(voc, "trainval")
    moved.mkdir()
    for number, record in enumerate(voc_copy.records):
        path = moved / f"renamed{number}.jpeg"
        path.write_bytes(record.path.read_bytes())
        object.__setattr__(record, "path", path)
    request.getfixturevalue("no_computing")
    assert same(prepare(voc_copy), first)
    assert dataset.records[0].path != voc_copy.records[0].path


def test_other_settings_have_other_artefacts(prepare, features, tmp_path):
    prepare()
    assert len(artefacts(tmp_path / "cache", "proposals")) == 4
    assert len(artefacts(tmp_path / "cache", "maps")) == 8
    prepare(search=Proposals(max_side=100))
    assert len(artefacts(tmp_path / "cache", "proposals")) == 8
    assert len(artefacts(tmp_path / "cache", "maps")) == 8
    reseeded = Backbone("zf5_small").load_weights("random", seed=1)
    variants = [
        (
            spp_features(features.backbone, (64,), 400, (3, 1), "max"),
            0,
        ),  # each scale is an artefact of its own
        (spp_features(features.backbone, (64, 96, 128), 400, (3, 1), "max"), 4),
        (spp_features(features.backbone, (64, 128), 400, (6, 2), "average"), 0),  # pools the same maps
        (spp_features(features.backbone, (64, 128), 130, (3, 1), "max"), 8),
        (spp_features(reseeded, (64, 128), 400, (3, 1), "max"), 8),
    ]
    total = 8
    for variant, new in variants:
        prepare(features=variant)
        total += new
        assert len(artefacts(tmp_path / "cache", "maps")) == total


def test_windows_come_from_a_file_that_counts_by_its_content(prepare, prepared, dataset, tmp_path):
    boxes = [windows.boxes[windows.objects :] for windows in prepared.windows()]
    ids = [record.image_id for record in dataset.records]

    def imported(name: str, first: int = 0) -> TrainingImages:
        write_proposals(tmp_path / name, {i: found[first:] for i, found in zip(ids, boxes, strict=True)})
        return prepare(search=Proposals(mode="file", file=tmp_path / name))

    assert same(imported("a.npz"), prepared)
    assert same(imported("b.npz"), prepared)
    assert len(artefacts(tmp_path / "cache", "proposals")) == 4
    fewer = imported("a.npz", first=5)
    assert [len(windows.boxes) + 5 for windows in fewer.windows()] == [
        len(windows.boxes) for windows in prepared.windows()
    ]
    assert len(artefacts(tmp_path / "cache", "proposals")) == 8


@pytest.mark.usefixtures("no_computing")
def test_an_image_that_a_file_does_not_know_is_named_before_any_work(prepare, dataset, tmp_path):
    ids = [record.image_id for record in dataset.records]
    write_proposals(tmp_path / "a.json", {image_id: np.zeros((0, 4), np.float32) for image_id in ids[:-1]})
    with pytest.raises(UserError, match=rf"a\.json: has no windows for the image {ids[-1]} "):
        prepare(search=Proposals(mode="file", file=tmp_path / "a.json"))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(_: bytes) -> bytes:
    return b""


def one_bit(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 4]) + data[-99:]


@pytest.mark.parametrize("stage", ["proposals", "maps"])
@pytest.mark.parametrize("damage", [cut, empty, one_bit])
def test_a_damaged_artefact_is_computed_again(prepare, prepared, tmp_path, caplog, stage, damage):
    prepare()
    paths = artefacts(tmp_path / "cache", stage)
    paths[1].write_bytes(damage(paths[1].read_bytes()))
    assert same(prepare(), prepared)
    assert str(paths[1]) in caplog.text
    caplog.clear()
    assert same(prepare(), prepared)  # this time from the cache
    assert not caplog.records


def test_an_artefact_that_vanishes_during_a_training_is_computed_again(prepare, prepared, tmp_path):
    images = prepare()
    for path in artefacts(tmp_path / "cache", "maps"):
        path.unlink()
    assert same(images, prepared)


def test_a_gpu_makes_maps_of_several_images_at_once(dataset, prepare, features, tmp_path, monkeypatch):
    alone = prepare()
    groups, maps_at = [], SPPFeatures.maps_at

    def noted(self, images, index):
        groups.append((len(images), index))
        return maps_at(self, images, index)

    monkeypatch.setattr(SPPFeatures, "maps_at", noted)
    monkeypatch.setattr("spp_det.training.images.images_at_once", lambda _: 3)
    images = TrainingImages(dataset, features, Proposals(), Cache(tmp_path / "other"), 2)
    images.make_maps(np.arange(4))
    assert sorted(groups) == [(1, 0), (1, 1), (3, 0), (3, 1)]
    for index in range(4):
        (one, _), (two, _) = all_of(alone.vectors(index)), all_of(images.vectors(index))
        torch.testing.assert_close(one, two, atol=2e-3, rtol=2e-3)
    groups.clear()
    for index, number in ((1, 0), (2, 0), (2, 1)):
        images.cache.remove("maps", images._map_keys(index)[number])
    images.make_maps(np.arange(4))
    assert groups == [(2, 0), (1, 1)]
    assert len(artefacts(tmp_path / "other", "maps")) == 8


def test_maps_of_another_device_than_the_cpu_have_keys_of_their_own(prepared, monkeypatch):
    image, features = prepared.images[0], prepared.features
    keys = [digest(image.key, VERSIONS["maps"], key, prepared._network) for key in features.keys]
    assert prepared._map_keys(0) == keys  # of all caches that there are
    monkeypatch.setattr(features.backbone, "mean", torch.zeros(3, device="meta"))
    assert not set(prepared._map_keys(0)) & set(keys)
