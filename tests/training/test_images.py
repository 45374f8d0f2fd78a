"""The training images: what is computed, what comes from the cache, and files that cannot be read."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spp_det.boxes import iou
from spp_det.config.settings import Proposals
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import read_image
from spp_det.model.backbone import Backbone
from spp_det.model.features import ConvMap, SPPFeatures, WindowVectors
from spp_det.model.head import FCHead
from spp_det.proposals import selective
from spp_det.proposals.files import write_proposals
from spp_det.runtime.cache import Cache, digest
from spp_det.training.images import MAPS_VERSION, TrainingImages
from spp_det.training.mining import Example
from spp_det.training.windows import LabelledWindows

SEARCH = Proposals()


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "voc"
    generate_voc(root, {"trainval": 4}, seed=3, sizes=((130, 100), (100, 120)))
    return root


@pytest.fixture
def dataset(voc) -> Dataset:
    return read_voc(voc, "trainval")


@pytest.fixture(scope="module")
def features() -> SPPFeatures:
    return SPPFeatures(Backbone("zf5_small"), (64, 128), 400, (3, 1), "max")


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


def artefacts(cache: Path, stage: str) -> list[Path]:
    return sorted((cache / stage).rglob("*.safetensors"))


def all_of(vectors: WindowVectors) -> tuple[torch.Tensor, np.ndarray]:
    """Every distinct vector ``[M, D]``, and the row of each window."""
    return vectors.make(np.arange(len(vectors))), vectors.of


def same(a: TrainingImages, b: TrainingImages) -> bool:
    """Whether all windows and vectors are equal to the bit."""

    def equal(index: int) -> bool:
        (one, one_of), (two, two_of) = all_of(a.vectors(index)), all_of(b.vectors(index))
        boxes = np.array_equal(a.windows()[index].boxes, b.windows()[index].boxes)
        return boxes and np.array_equal(one_of, two_of) and torch.equal(one, two)

    return len(a) == len(b) and all(equal(index) for index in range(len(a)))


@pytest.fixture
def no_computing(monkeypatch):
    """Whoever searches, decodes or runs the network fails."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("this should have come from the cache")

    monkeypatch.setattr(selective, "selective_search", forbidden)
    monkeypatch.setattr("spp_det.proposals.source.read_image", forbidden)
    monkeypatch.setattr(SPPFeatures, "maps_at", forbidden)
    monkeypatch.setattr("spp_det.training.images.read_image", forbidden)


# ---------------------------------------------------------------- several processes


def everything(images: TrainingImages) -> list[object]:
    """What all processes are to see alike, as lists."""
    boxes = [windows.boxes for windows in images.windows()]
    chosen = [(index, boxes[index][: 20 + index : 3] + 1) for index in (2, 0, 3)]
    found: list[object] = [[each.tolist() for each in boxes], images.key()]
    found += [(vectors.tolist(), signs.tolist()) for vectors, signs in images.positives(0.6)]
    found += [(vectors.tolist(), of.tolist()) for vectors, of in images.distinct_vectors(chosen)]
    return [*found, images.skipped]


def test_each_process_makes_maps_of_its_own_images_and_all_see_the_same(
    dataset, prepare, features, tmp_path, in_ranks
):
    dataset.records[1].path.with_name("empty.jpg").write_bytes(b"")
    records = [
        *dataset.records,
        replace(dataset.records[1], path=dataset.records[1].path.with_name("empty.jpg")),
    ]
    dataset, order = Dataset(dataset.classes, records), np.array([1, 3, 0, 2])
    expected = everything(prepare(dataset))

    def work(rank: int) -> list[object]:
        cache = Cache(tmp_path / str(rank))
        images = TrainingImages(dataset, features, SEARCH, cache, workers=2)
        images.make_maps(order)
        assert images.owners(order) == [0, 1, 2, 0]
        stream = list(images.stream(order, "looking"))
        own = [index for index, owner in zip(order, images.owners(order), strict=True) if owner == rank]
        assert [each for each in stream if isinstance(each, int)] == [r for r in (0, 1, 2, 0) if r != rank]
        examples = [each.windows.record.path for each in stream if isinstance(each, Example)]
        assert examples == [images.windows()[index].record.path for index in own]
        return everything(images)

    assert in_ranks(3, work) == [expected] * 3
    sizes = [len(artefacts(tmp_path / str(rank), "maps")) for rank in range(3)]
    assert sizes == [4, 2, 2]  # two scales an image
    assert [len(artefacts(tmp_path / str(rank), "proposals")) for rank in range(3)] == [2, 1, 1]


# ---------------------------------------------------------------- what they hold


def test_windows_are_the_objects_and_the_proposals(prepared, dataset):
    assert len(prepared) == 4
    assert prepared.skipped == []
    for windows, record in zip(prepared.windows(), dataset.records, strict=True):
        searched = selective.selective_search(read_image(record.path))
        assert np.array_equal(windows.boxes, np.concatenate([record.boxes, searched]))
        assert windows.objects == len(record)
        assert np.array_equal(windows.overlaps, iou(windows.boxes, record.boxes))


def test_vectors_are_those_of_maps_in_half_precision(prepared, dataset, features):
    for index, record in enumerate(dataset.records):
        maps = features.maps(read_image(record.path))
        vectors, vector_of = all_of(features.vectors(maps, prepared.windows()[index].boxes))
        mine, mine_of = all_of(prepared.vectors(index))
        assert np.array_equal(mine_of, vector_of)
        assert torch.equal(mine, vectors.half().float())  # a maximum invents no digits


def test_distinct_vectors_of_some_windows_are_theirs_each_once(prepared, features):
    whole, of = all_of(prepared.vectors(1))
    chosen = np.random.default_rng(0).integers(0, len(of), 20)
    boxes, nothing = prepared.windows()[1].boxes[chosen], np.zeros((0, 4), np.float32)
    (vectors, vector_of), none = prepared.distinct_vectors([(1, boxes), (0, nothing)])
    assert torch.equal(vectors[vector_of].float(), whole[of[chosen]])
    assert len(np.unique(vector_of)) == len(vectors) == len(np.unique(of[chosen]))
    assert none[0].shape == (0, features.dimension)
    assert none[1].shape == (0,)


def test_a_sample_is_drawn_by_the_generator_without_repeats(prepared):
    whole, of = all_of(prepared.vectors(2))
    for most in (7, len(of), len(of) + 5):
        drawn = np.random.default_rng(1).permutation(len(of))[:most]
        sample = prepared.sample(2, most, np.random.default_rng(1))
        assert torch.equal(sample, whole[of[drawn]])
        assert len(sample) == min(most, len(of))
    other = prepared.sample(2, 7, np.random.default_rng(2))
    assert not torch.equal(other, prepared.sample(2, 7, np.random.default_rng(1)))


@pytest.mark.parametrize("min_iou", [1.0, 0.6])
def test_positives_come_image_by_image(prepared, min_iou):
    wanted = [windows.positives(min_iou) for windows in prepared.windows()]
    found = list(prepared.positives(min_iou))
    with_any = [index for index, (windows, _) in enumerate(wanted) if len(windows)]
    assert len(found) == len(with_any)
    for (vectors, signs), index in zip(found, with_any, strict=True):
        windows, labels = wanted[index]
        whole, of = all_of(prepared.vectors(index))
        rows = sorted(set(of[windows]))
        assert torch.equal(vectors, whole[rows])
        counted = Counter(zip(of[windows].tolist(), labels.tolist(), strict=True))  # by a second way
        assert signs.dtype == np.int8
        assert {(rows[i], k): signs[i, k] for i, k in zip(*signs.nonzero(), strict=True)} == counted


def test_a_vector_that_more_windows_share_than_a_sign_can_count_has_the_largest(prepared, monkeypatch):
    def many(self, _):
        return np.zeros(300, np.int64), np.full(300, self.record.labels[0])

    monkeypatch.setattr(LabelledWindows, "positives", many)
    for (vectors, signs), windows in zip(prepared.positives(0.6), prepared.windows(), strict=True):
        assert len(vectors) == len(signs) == 1
        own = np.arange(prepared.classes) == windows.record.labels[0]
        assert signs[0].tolist() == (127 * own).tolist()


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_a_head_stands_between_pool5_and_what_the_svms_are_trained_on(prepared, features, layer):
    head = FCHead(layer, features.dimension, 24)
    plain, headed = list(prepared.positives(0.6)), list(prepared.positives(0.6, head))
    assert len(plain) == len(headed) > 0
    for (vectors, signs), (seen, seen_signs) in zip(plain, headed, strict=True):
        torch.testing.assert_close(seen, head(vectors.float()).half())
        assert signs.tolist() == seen_signs.tolist()
    for index, example in zip((3, 1), prepared.stream([3, 1], "title", head), strict=True):
        whole, of = all_of(prepared.vectors(index))
        seen, seen_of = all_of(example.vectors)
        assert seen.shape == (len(whole), 24)
        torch.testing.assert_close(seen, head(whole))
        assert (seen_of == of).all()
    # The regressor's stay pool5.
    ((vectors, _),) = prepared.distinct_vectors([(0, prepared.windows()[0].boxes[:3])])
    assert vectors.shape[1] == features.dimension


def test_a_stream_keeps_the_order_that_it_is_given(prepared):
    order = [2, 0, 3, 3]
    streamed = list(prepared.stream(np.array(order), "title"))
    assert [example.windows.record.image_id for example in streamed] == [
        prepared.images[index].record.image_id for index in order
    ]
    for example, index in zip(streamed, order, strict=True):
        found, expected = all_of(example.vectors), all_of(prepared.vectors(index))
        assert torch.equal(found[0], expected[0])
        assert (found[1] == expected[1]).all()


def test_an_image_without_objects_is_a_source_of_windows(prepare, dataset, voc):
    empty = voc / "Annotations" / f"{dataset.records[0].image_id}.xml"
    text = empty.read_text()
    try:
        empty.write_text(text[: text.index("<object>")] + "</annotation>\n")
        images = prepare(read_voc(voc, "trainval", dataset.classes))
    finally:
        empty.write_text(text)
    windows = images.windows()[0]
    assert windows.objects == 0
    assert len(windows.boxes) > 10
    assert len(images.vectors(0).of) == len(windows.boxes)
    assert len(list(images.positives(1.0))) == 3


def test_the_number_of_workers_changes_nothing(prepare, prepared):
    assert same(prepare(workers=1), prepared)
    assert same(prepare(workers=5), prepared)


# ---------------------------------------------------------------- the cache


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
    list(images.stream(range(4), "title"))
    assert len(networks) == 8
    prepare(workers=workers)
    assert len(networks) == 8


def test_only_the_maps_that_are_missing_are_computed(prepare, prepared, networks, tmp_path):
    prepare()
    artefacts(tmp_path / "cache", "maps")[2].unlink()
    again = prepare()
    assert len(networks) == 9
    assert same(again, prepared)


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
    rounded_features = SPPFeatures(Backbone("zf5_small").at("bfloat16"), (64, 128), 400, (3, 1), "max")
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
            SPPFeatures(features.backbone, (64,), 400, (3, 1), "max"),
            0,
        ),  # each scale is an artefact of its own
        (SPPFeatures(features.backbone, (64, 96, 128), 400, (3, 1), "max"), 4),
        (SPPFeatures(features.backbone, (64, 128), 400, (6, 2), "average"), 0),  # pools the same maps
        (SPPFeatures(features.backbone, (64, 128), 130, (3, 1), "max"), 8),
        (SPPFeatures(reseeded, (64, 128), 400, (3, 1), "max"), 8),
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


# ---------------------------------------------------------------- files that cannot be read


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


def test_an_annotation_of_another_size_is_fitted_to_the_image(prepare, voc, caplog):
    dataset = read_voc(voc, "trainval")
    record = dataset.records[0]
    width, height = record.size
    object.__setattr__(record, "size", (width + 50, height + 50))
    record.boxes[0, 2:] = width + 40, height + 40
    images = prepare(dataset)
    assert images.windows()[0].record.size == (width, height)
    assert images.windows()[0].boxes[0, 2:].tolist() == [width, height]
    assert record.path.name in caplog.text


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
    large = SPPFeatures(Backbone("zf5_small"), (64,), 400, (3, 1), "max")
    large.maps_at = lambda images, _: [ConvMap(torch.full((4, 3, 3), 1e6), (1.0, 1.0)) for _ in images]
    with pytest.raises(UserError, match=r"backbone\.weights: conv5 of .* does not fit into half precision"):
        prepare(features=large)


def vanish(monkeypatch, *paths: Path) -> None:
    """Once their windows are known these files are gone."""

    def read(path: Path) -> np.ndarray:
        return read_image(path.with_name("gone.jpg") if path in paths else path)

    monkeypatch.setattr("spp_det.training.images.read_image", read)


def test_a_gpu_makes_maps_of_several_images_at_once(dataset, prepare, features, tmp_path, monkeypatch):
    alone = prepare()
    groups, maps_at = [], SPPFeatures.maps_at

    def noted(self, images, index):
        groups.append((len(images), index))
        return maps_at(self, images, index)

    monkeypatch.setattr(SPPFeatures, "maps_at", noted)
    monkeypatch.setattr("spp_det.training.images.images_at_once", lambda _: 3)
    images = TrainingImages(dataset, features, SEARCH, Cache(tmp_path / "other"), 2)
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


@pytest.mark.parametrize("size", [1, 3])
def test_an_image_that_vanishes_before_its_maps_are_made_is_skipped(
    dataset, features, tmp_path, monkeypatch, caplog, size
):
    """The rest is what it would be without that image; also where several pass the network at once."""
    monkeypatch.setattr("spp_det.training.images.images_at_once", lambda _: size)
    images = TrainingImages(dataset, features, SEARCH, Cache(tmp_path / "cache"), 2)
    lost = dataset.records[1]
    vanish(monkeypatch, lost.path)
    assert not images.make_maps(np.arange(4))
    assert images.make_maps(np.arange(3))
    assert [one["reason"] for one in images.skipped] == [
        f"{lost.path.with_name('gone.jpg')}: no such file or directory"
    ]
    assert "skipped: " in caplog.text
    others = replace(dataset, records=[record for record in dataset.records if record is not lost])
    whole = TrainingImages(others, features, SEARCH, Cache(tmp_path / "cache"), 2)
    assert whole.make_maps(np.arange(3))
    assert whole.key() == images.key()
    assert same(whole, images)


def test_all_processes_learn_which_images_have_vanished(dataset, features, tmp_path, monkeypatch, in_ranks):
    vanish(monkeypatch, dataset.records[2].path)

    def work(rank: int) -> tuple[bool, list[str], list[str]]:
        images = TrainingImages(dataset, features, SEARCH, Cache(tmp_path / str(rank)), 1)
        whole = images.make_maps(np.arange(4))
        return whole, [image.record.image_id for image in images.images], [s["file"] for s in images.skipped]

    ids = [record.image_id for record in dataset.records]
    assert in_ranks(2, work) == [(False, [*ids[:2], ids[3]], [str(dataset.records[2].path)])] * 2


def test_a_vanished_image_is_an_error_where_strict_and_where_it_was_the_last(
    dataset, features, tmp_path, monkeypatch
):
    vanish(monkeypatch, *(record.path for record in dataset.records))
    for strict, said in ((True, "no such file"), (False, "no readable training image")):
        images = TrainingImages(dataset, features, SEARCH, Cache(tmp_path / "cache"), 2, strict)
        with pytest.raises(UserError, match=said):
            images.make_maps(np.arange(4))


def test_maps_of_another_device_than_the_cpu_have_keys_of_their_own(prepared, monkeypatch):
    image, features = prepared.images[0], prepared.features
    keys = [digest(image.key, MAPS_VERSION, key, prepared._network) for key in features.keys]
    assert prepared._map_keys(0) == keys  # of all caches that there are
    monkeypatch.setattr(features.backbone, "mean", torch.zeros(3, device="meta"))
    assert not set(prepared._map_keys(0)) & set(keys)
