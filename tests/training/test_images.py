"""The training images: their windows and vectors, in one process and in several."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from spp_det.boxes import iou
from spp_det.config.settings import Proposals
from spp_det.data.records import Dataset
from spp_det.data.voc import read_voc
from spp_det.images import read_image
from spp_det.model.head import FCHead
from spp_det.proposals import selective
from spp_det.runtime.cache import Cache
from spp_det.runtime.threads import on_one_core
from spp_det.training.images import TrainingImages
from spp_det.training.windows import LabelledWindows
from tests.training.prepared import all_of, artefacts, same

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
        images = TrainingImages(dataset, features, Proposals(), cache, workers=2)
        images.make_maps(order)
        stream = images.stream(order)
        assert list(stream.owners) == [0, 1, 2, 0]
        own = order[images.owned(order)]
        assert own.tolist() == order[[(0, 3), (1,), (2,)][rank],].tolist()
        examples = [each.windows.record.path for each in stream.own]
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
        maps = on_one_core(partial(features.maps, read_image(record.path)))
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


def test_mirrored_images_come_after_all_others(prepared, dataset, features):
    views = prepared.views(np.array([2, 0]), flips=True)
    assert views.tolist() == [2, 0, 6, 4]
    for view, example in zip(views, prepared.stream(views).own, strict=True):
        pixels, boxes = read_image(dataset.records[view % 4].path), example.windows.boxes.copy()
        assert np.array_equal(boxes, prepared.windows()[view % 4].boxes)
        if view >= 4:
            boxes[:, [0, 2]] = pixels.shape[1] - boxes[:, [2, 0]]
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        vectors, vector_of = all_of(features.vectors(on_one_core(partial(features.maps, pixels)), boxes))
        assert np.array_equal(example.vectors.of, vector_of)
        assert torch.equal(all_of(example.vectors)[0], vectors.half().float())


def test_positives_of_mirrored_images_are_as_many_windows(prepared):
    alone, both = list(prepared.positives(0.6)), list(prepared.positives(0.6, flips=True))
    assert len(both) == 2 * len(alone)
    for (vectors, signs), (first, first_signs), (_, second_signs) in zip(
        alone, both[: len(alone)], both[len(alone) :], strict=True
    ):
        assert torch.equal(vectors, first)
        assert np.array_equal(signs, first_signs)
        assert np.array_equal(signs.sum(axis=0), second_signs.sum(axis=0))


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
    for index, example in zip((3, 1), prepared.stream([3, 1], head).own, strict=True):
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
    streamed = list(prepared.stream(np.array(order)).own)
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
