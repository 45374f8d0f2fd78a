"""A training ends in the same bytes on any number of threads and processes, also where maps are lost.

The processor is one that splits sums by threads, so that whatever is computed by several has other bits. See
docs/numbers.md for the promise, and tests/stress/cores.py for the same without simulation, under torchrun.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest
import torch

from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.synthetic import generate_voc
from spp_det.runtime.cache import Cache
from spp_det.training.images import TrainingImages
from spp_det.training.stages import train
from tests.splitting import split_sums

PHOTOS = 12
ONCE = threading.Lock()


def configure(folder: Path, output: Path) -> Config:
    """All that a training without fine-tuning can do: fc layers, a fit on the way, two regressions."""
    tree = {
        "output": str(output),
        "data": {"root": str(folder / "voc")},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [64, 96]},
        "pyramid": {"levels": [3, 1], "normalize": "hellinger"},
        "fc": {"layer": "fc6", "weights": "random", "width": 24, "rank": [16, 16]},
        "svm": {"retrain_after": 100, "positive_iou": 0.7},
        "bbox": {"passes": 2},
        "runtime": {"device": "cpu", "workers": 2, "precision": "float32", "cache": str(output / "cache")},
    }
    return parse_config(tree, "test")


def maps(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "maps").rglob("*.safetensors")}


@contextmanager
def maps_lost_half_way() -> Iterator[list[Path]]:
    """When the mining begins, one map of the training's cache goes, and another one is cut short."""
    positives, lost = TrainingImages.positives, []

    def losing(self, *arguments):
        with ONCE:
            if not lost:
                paths = [self.cache.path("maps", key) for i in range(len(self)) for key in self._map_keys(i)]
                lost.extend([path for path in paths if path.exists()][3:8:4])
                lost[0].unlink()
                lost[1].write_bytes(lost[1].read_bytes()[:2000])
        yield from positives(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingImages, "positives", losing)
        yield lost


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _splitting() -> Iterator[None]:
    """By more than half precision forgives."""
    with pytest.MonkeyPatch.context() as patch:
        split_sums(patch, 2.0**-10)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cores")
    generate_voc(folder / "voc", {"trainval": PHOTOS}, seed=4, sizes=((112, 96), (96, 120)))
    return folder


@pytest.fixture(scope="module")
def whole(folder) -> bytes:
    """The model of a training on one thread that nothing disturbs."""
    with threads(1):
        trained = train(configure(folder, folder / "whole"))
    assert trained.metrics["svm"]["fits"] > 1
    trained.detector.save(folder / "whole" / "model.safetensors")
    return (folder / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_threads_and_lost_maps_change_no_byte_of_maps_and_model(folder, whole, tmp_path, count):
    copytree(folder / "whole" / "cache" / "proposals", tmp_path / "cache" / "proposals")
    with threads(count), maps_lost_half_way() as lost:
        train(configure(folder, tmp_path)).detector.save(tmp_path / "model.safetensors")
    assert len(lost) == 2
    assert maps(tmp_path / "cache") == maps(folder / "whole" / "cache")
    assert (tmp_path / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("count", [2, 3])
def test_processes_and_lost_maps_change_no_byte_of_maps_and_model(folder, whole, tmp_path, in_ranks, count):
    def work(rank: int) -> bytes:
        config = configure(folder, tmp_path / str(rank))
        copytree(folder / "whole" / "cache" / "proposals", config.runtime.cache / "proposals")
        train(config).detector.save(config.output / "model.safetensors")
        return (config.output / "model.safetensors").read_bytes()

    with maps_lost_half_way() as lost:
        assert in_ranks(count, work) == [whole] * count
    assert len(lost) == 2
    parts = [maps(tmp_path / str(rank) / "cache") for rank in range(count)]
    assert sum(map(len, parts)) == 2 * PHOTOS
    assert {name: data for part in parts for name, data in part.items()} == maps(folder / "whole" / "cache")
    assert Cache(tmp_path / "0" / "cache").stages() != Cache(tmp_path / "1" / "cache").stages()
