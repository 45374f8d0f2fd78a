"""Detection in files: in the order given, without holding many, and a bad file is said to be one."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from spp_det import inference
from spp_det.config.network import BackboneSettings, Pyramid
from spp_det.config.settings import Detection, Proposals
from spp_det.data.synthetic import scene
from spp_det.detections.types import DetectedImage
from spp_det.images import UnreadableImageError, read_image
from spp_det.inference import detect_files
from spp_det.model.backbone import Backbone
from spp_det.model.detector import Detector
from spp_det.model.features import SPPFeatures
from spp_det.model.model_file import ModelSettings
from spp_det.model.svm import LinearSVMs
from spp_det.proposals import selective
from spp_det.proposals.source import WindowSource
from spp_det.runtime.cache import Cache
from spp_det.runtime.threads import on_one_core

SEARCH = WindowSource(Proposals())


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Two classes of random weights, without box regression."""
    settings = ModelSettings(
        backbone=BackboneSettings(name="zf5_small", weights="random", scales=(96,)),
        pyramid=Pyramid(levels=(2, 1)),
        detection=Detection(score_threshold=-1e3),
    )
    features = SPPFeatures(Backbone("zf5_small"), settings.backbone, settings.pyramid)
    weight = torch.randn(2, features.dimension, generator=torch.Generator().manual_seed(0))
    return Detector(("a", "b"), features, None, LinearSVMs(0.05 * weight, torch.zeros(2)), (), settings)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Ten photos, each of its own width, the large ones first: they take longest to prepare."""
    folder, paths = tmp_path_factory.mktemp("photos"), []
    for index in range(10):
        image = scene(np.random.default_rng(index), sizes=((140 - 4 * index, 100),)).image
        paths.append(folder / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


@pytest.mark.parametrize("workers", [1, 4])
def test_each_file_gets_in_its_turn_what_the_detector_alone_finds_in_it(detector, paths, workers):
    """To the byte on one core, which is what each file of several has."""
    order = [paths[i] for i in (3, 0, 7, 1)]
    results = list(detect_files(detector, order, workers, SEARCH))
    assert [result.path for result in results] == order
    for path, result in zip(order, results, strict=True):
        np.testing.assert_array_equal(result.image, read_image(path))
        alone = on_one_core(partial(detector, path))
        assert len(alone["scores"]) > 0
        for key in ("boxes", "labels", "scores"):
            np.testing.assert_array_equal(result.detections[key], alone[key])


def test_windows_that_the_cache_has_are_not_searched_again(detector, paths, tmp_path, monkeypatch):
    cache = Cache(tmp_path)

    def found(cache: Cache | None) -> list[bytes]:
        results = detect_files(detector, paths[:3], 2, SEARCH, cache=cache)
        return [result.detections["boxes"].tobytes() for result in results]

    searched = found(None)
    assert found(cache) == searched
    monkeypatch.setattr("spp_det.proposals.selective.selective_search", None)
    assert found(cache) == searched


def test_a_single_file_is_searched_by_all_cores_to_the_same_result(detector, paths):
    """The windows are the same; scores are to rounding, because all cores share each sum."""
    (single,) = detect_files(detector, paths[:1], 2, SEARCH)
    first, _ = detect_files(detector, paths[:2], 2, SEARCH)
    one, other = (
        zip(*(found.detections[key].tolist() for key in ("boxes", "labels", "scores")), strict=True)
        for found in (single, first)
    )
    one, other = sorted(one), sorted(other)  # by their boxes, which nothing refines here
    assert len(one) > 0
    assert [place for *place, _ in one] == [place for *place, _ in other]
    np.testing.assert_allclose([score for *_, score in one], [score for *_, score in other], atol=1e-4)


def test_the_number_of_workers_changes_no_detection(detector, paths):
    one, two = (list(detect_files(detector, paths, workers, SEARCH)) for workers in (1, 2))
    assert [result.path for result in one] == [result.path for result in two] == paths
    for a, b in zip(one, two, strict=True):
        assert len(a.detections["scores"]) > 0
        for key in ("boxes", "labels", "scores"):
            np.testing.assert_array_equal(a.detections[key], b.detections[key])


@pytest.fixture
def looks(monkeypatch):
    """Of every search and every pass through the network: the thread, its cores for OpenCV and for torch."""
    searches, passes = [], []
    search, maps_at = selective.selective_search, SPPFeatures.maps_at

    def noted_search(image, mode, max_side, threads, engine):
        searches.append((threading.get_ident(), threads))
        return search(image, mode, max_side, threads, engine)

    def noted_maps(self, images, index):
        passes.append((threading.get_ident(), torch.get_num_threads()))
        return maps_at(self, images, index)

    monkeypatch.setattr(selective, "selective_search", noted_search)
    monkeypatch.setattr(SPPFeatures, "maps_at", noted_maps)
    return searches, passes


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_of_several_files_each_is_searched_and_seen_by_one_core(detector, paths, looks, workers):
    for _ in detect_files(detector, paths, workers, SEARCH):
        assert torch.get_num_threads() == 3  # whoever draws or writes keeps what it had
    searches, passes = looks
    assert [threads for _, threads in searches] == [1] * 10
    assert [threads for _, threads in passes] == [1] * 10
    assert sorted(ident for ident, _ in searches) == sorted(ident for ident, _ in passes)
    idents = {ident for ident, _ in passes}
    assert len(idents) <= workers
    assert threading.get_ident() not in idents


@pytest.mark.usefixtures("three_threads")
def test_a_single_file_gets_all_cores(detector, paths, looks):
    list(detect_files(detector, paths[:1], 2, SEARCH))
    assert looks == ([(threading.get_ident(), None)], [(threading.get_ident(), 3)])


def test_on_a_gpu_files_are_searched_ahead_and_seen_a_batch_after_the_other(
    detector, paths, blemished, looks
):
    """By a detector that says so, but computes here."""
    batches = []

    def seen(images, windows):
        batches.append((len(images), threading.get_ident()))
        return detector.detect_batch(images, windows)

    there = SimpleNamespace(device=torch.device("cuda"), detect_batch=seen)
    files = [*paths[:5], *blemished, *paths[5:]]
    results = list(detect_files(there, files, 2, SEARCH))
    searches, _ = looks
    assert threading.get_ident() not in {ident for ident, _ in searches}
    assert {threads for _, threads in searches} == {1}
    unreadable = [isinstance(result, UnreadableImageError) for result in results]
    assert sum(unreadable) == 2
    here = threading.get_ident()
    assert batches == [(8 - sum(unreadable[:8]), here), (len(files) - 8 - sum(unreadable[8:]), here)]
    for path, found, expected in zip(files, results, detect_files(detector, files, 2, SEARCH), strict=True):
        if isinstance(expected, UnreadableImageError):
            assert str(found) == str(expected)
            continue
        assert found.path == path
        np.testing.assert_array_equal(found.detections["labels"], expected.detections["labels"])
        np.testing.assert_allclose(found.detections["scores"], expected.detections["scores"], atol=1e-4)


def test_as_many_files_are_seen_at_once_as_there_are_workers(detector, paths, monkeypatch):
    together, maps_at = threading.Barrier(5, timeout=20), SPPFeatures.maps_at

    def waiting(self, images, index):
        together.wait()
        return maps_at(self, images, index)

    monkeypatch.setattr(SPPFeatures, "maps_at", waiting)
    assert len(list(detect_files(detector, paths, 5, SEARCH))) == 10


def test_an_error_of_the_detector_comes_in_its_turn(detector, paths, monkeypatch):
    """No error of a file: it is not skipped, whatever thread it came from."""
    maps_at = SPPFeatures.maps_at

    def failing(self, images, index):
        if images[0].shape[1] == 140 - 4 * 2:  # the third
            raise MemoryError("too large")
        return maps_at(self, images, index)

    monkeypatch.setattr(SPPFeatures, "maps_at", failing)
    results = detect_files(detector, paths, 3, SEARCH)
    assert [next(results).path for _ in range(2)] == paths[:2]
    with pytest.raises(MemoryError, match="too large"):
        next(results)


def test_several_processes_share_the_files_and_the_first_one_has_them_all(
    blemished, paths, detector, in_ranks
):
    files = [*blemished, *paths[2:5]]
    expected = list(detect_files(detector, files, 2, SEARCH))
    for count in (2, 9):  # 9: processes without a file
        found, *others = in_ranks(count, lambda _: list(detect_files(detector, files, 1, SEARCH)))
        assert others == [[]] * (count - 1)
        assert [type(result) for result in found] == [type(result) for result in expected]
        for result, alone in zip(found, expected, strict=True):
            if isinstance(alone, UnreadableImageError):
                assert str(result) == str(alone)
                continue
            assert result.path == alone.path
            np.testing.assert_array_equal(result.image, alone.image)
            for key in ("boxes", "labels", "scores"):
                np.testing.assert_array_equal(result.detections[key], alone.detections[key])


def test_no_files_give_no_results(detector):
    assert list(detect_files(detector, [], 2, SEARCH)) == []


def test_few_images_are_read_ahead(detector, paths, monkeypatch):
    read, lock = [], threading.Lock()

    def counted(path):
        with lock:
            read.append(path)
        return read_image(path)

    monkeypatch.setattr(inference, "read_image", counted)
    results = detect_files(detector, paths, 1, SEARCH)
    for handed_out in range(1, 5):
        next(results)
        time.sleep(0.05)
        assert handed_out <= len(read) <= handed_out + 2
    results.close()
    assert len(read) <= 6


@pytest.fixture
def blemished(paths, tmp_path) -> list[Path]:
    """A photo, a text, a file that is not there, a photo."""
    (tmp_path / "text.jpg").write_text("not a photo")
    return [paths[0], tmp_path / "text.jpg", tmp_path / "none.jpg", paths[1]]


def test_an_unreadable_file_yields_its_error_in_its_place_after_a_warning(detector, blemished, caplog):
    with caplog.at_level(logging.WARNING, logger="spp_det"):
        results = list(detect_files(detector, blemished, 2, SEARCH))
    kinds = [DetectedImage, UnreadableImageError, UnreadableImageError, DetectedImage]
    assert [type(result) for result in results] == kinds
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    for line, path in zip(lines, blemished[1:3], strict=True):
        assert line.startswith("skipped: ")
        assert str(path) in line


def test_strict_raises_the_error_after_the_results_before_it(detector, blemished):
    results = detect_files(detector, blemished, 2, SEARCH, strict=True)
    assert next(results).path == blemished[0]
    with pytest.raises(UnreadableImageError, match=r"text\.jpg"):
        next(results)


def test_a_single_file_that_cannot_be_read_is_treated_alike(detector, blemished, caplog):
    (result,) = detect_files(detector, blemished[1:2], 2, SEARCH)
    assert isinstance(result, UnreadableImageError)
    assert "text.jpg" in caplog.text
    with pytest.raises(UnreadableImageError, match=r"text\.jpg"):
        list(detect_files(detector, blemished[1:2], 2, SEARCH, strict=True))
