"""A small data set on disk, and its training images on caches of the tests' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spp_det.config.settings import Proposals
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.model.backbone import Backbone
from spp_det.model.features import SPPFeatures
from spp_det.proposals import selective
from spp_det.runtime.cache import Cache
from spp_det.training.images import TrainingImages
from tests.vectors import spp_features

SEARCH = Proposals()


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "voc"
    generate_voc(root, {"trainval": 4}, seed=3, sizes=((130, 100), (100, 120)))
    return root


@pytest.fixture(scope="session")
def ten_photos(tmp_path_factory) -> Path:
    """A folder with a data set, and room for the tests' own caches."""
    folder = tmp_path_factory.mktemp("ten")
    generate_voc(folder / "voc", {"trainval": 10}, seed=3, sizes=((130, 110),))
    return folder


@pytest.fixture(scope="session")
def whole(ten_photos) -> Dataset:
    return read_voc(ten_photos / "voc", "trainval")


@pytest.fixture
def dataset(voc) -> Dataset:
    return read_voc(voc, "trainval")


@pytest.fixture(scope="module")
def features() -> SPPFeatures:
    return spp_features(Backbone("zf5_small"), (64, 128), 400, (3, 1), "max")


@pytest.fixture
def prepare(dataset, features, tmp_path):
    """Training images on a cache of the test's own."""

    def make(dataset=dataset, features=features, search=SEARCH, strict=False, workers=2) -> TrainingImages:
        images = TrainingImages(dataset, features, search, Cache(tmp_path / "cache"), workers, strict)
        images.make_maps(np.arange(len(images)))
        return images

    return make


@pytest.fixture(scope="module")
def prepared(voc, features, tmp_path_factory) -> TrainingImages:
    """Those of all images, for tests that only look."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    images = TrainingImages(read_voc(voc, "trainval"), features, SEARCH, cache, workers=2)
    images.make_maps(np.arange(len(images)))
    return images


@pytest.fixture
def no_computing(monkeypatch):
    """Whoever searches, decodes or runs the network fails."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("this should have come from the cache")

    monkeypatch.setattr(selective, "selective_search", forbidden)
    monkeypatch.setattr("spp_det.proposals.source.decode", forbidden)
    monkeypatch.setattr(SPPFeatures, "maps_at", forbidden)
    monkeypatch.setattr("spp_det.training.images.read_image", forbidden)
