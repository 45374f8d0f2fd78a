"""The windows of each step: a table by hand, and what every batch obeys."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.config.settings import FineTune
from spp_det.training.batches import Batch, BatchSampler, Candidates, hold_out
from spp_det.training.windows import LabelledWindows
from tests.training.scenes import record, scenes


def candidates(positives=(), labels=(), negatives=()) -> Candidates:
    return Candidates(*(np.array(part, np.int64) for part in (positives, labels, negatives)))


def sampler(offered, background=2, scales=1, seed=0, **chosen) -> BatchSampler:
    everything = np.arange(len(offered))
    return BatchSampler(offered, everything, background, scales, FineTune(**chosen), seed)


def counts(batch: Batch) -> Counter[tuple[int, int, int]]:
    """How often each (image, window, label) was drawn."""
    return Counter(zip(batch.images.tolist(), batch.windows.tolist(), batch.labels.tolist(), strict=True))


# ---------------------------------------------------------------- candidates


def test_candidates_of_a_scene_by_hand():
    objects = [[0, 0, 10, 10], [40, 0, 50, 10], [80, 0, 90, 10]]
    proposals = as_boxes(
        [
            [0, 0, 10, 8],  # 3: .8 of the raccoon
            [0, 0, 10, 4],  # 4: .4 of it
            [0, 0, 10, 1],  # 5: .1
            [0, 5, 10, 25],  # 6: .2
            [40, 0, 50, 8],  # 7: .8 of the difficult kangaroo
            [40, 0, 50, 3],  # 8: .3 of it
            [80, 0, 90, 4],  # 9: .4 of the wombat
            [20, 20, 30, 30],  # 10: nothing
        ]
    )
    windows = LabelledWindows.of(record(objects, [1, 0, 2], difficult=[1]), proposals)
    found = Candidates.of(windows, FineTune())
    assert found.positives.tolist() == [0, 2, 3]
    assert found.labels.tolist() == [1, 2, 1]
    assert found.negatives.tolist() == [4, 5, 6, 9]
    wide = Candidates.of(windows, FineTune(positive_iou=0.9, negative_iou_high=0.3))
    assert wide.positives.tolist() == [0, 2]
    assert wide.negatives.tolist() == [5, 6]


def test_what_lies_in_a_crowd_is_no_background():
    proposals = as_boxes([[20, 20, 30, 30], [0, 0, 10, 4], [200, 0, 210, 10]])
    windows = LabelledWindows.of(record([[0, 0, 10, 10], [0, 0, 100, 100]], [0, 0], crowd=[1]), proposals)
    found = Candidates.of(windows, FineTune())
    assert found.positives.tolist() == [0]
    assert found.negatives.tolist() == [4]  # neither is near an object, but one may well show a part of it


def test_images_without_near_misses_offer_what_is_far_from_everything():
    for labelled in (record([], []), record([[0, 0, 10, 10]], [0])):
        windows = LabelledWindows.of(labelled, as_boxes([[20, 20, 30, 30], [40, 40, 50, 50]]))
        assert Candidates.of(windows, FineTune()).negatives.tolist() == [len(labelled), len(labelled) + 1]


@settings(max_examples=80)
@given(scenes())
def test_candidates_overlap_as_they_must(windows):
    chosen = FineTune(negative_iou_low=0.2)
    found = Candidates.of(windows, chosen)
    marked = windows.record
    unknown = marked.difficult | marked.crowd
    for window, label in zip(found.positives, found.labels, strict=True):
        mine = (marked.labels == label) & ~unknown
        assert windows.overlaps[window, mine].max() >= 0.5
    largest = windows.overlaps.max(axis=1, initial=0)
    assert (largest[found.negatives] < 0.5).all()
    assert (windows.overlaps[found.negatives][:, unknown] <= 0.2).all()
    near = largest[found.negatives] >= 0.2
    assert near.all() or not near.any()


# ---------------------------------------------------------------- batches


def test_a_batch_by_hand():
    """Eight windows of two images: 2 positives, 6 negatives, from each image in turn."""
    offered = [candidates([5], [1], [6, 7, 8, 9]), candidates([3, 4], [0, 1], [10])]
    drawn = counts(sampler(offered, batch=8).step(0))
    assert drawn[0, 5, 1] == 1
    assert drawn[1, 3, 0] + drawn[1, 4, 1] == 1
    assert {key[:2] for key in drawn if key[2] == 2} == {(0, 6), (0, 7), (0, 8), (0, 9), (1, 10)}
    assert sum(n for key, n in drawn.items() if key[2] == 2) == 6  # the first ones again once all have been


def test_batches_lie_image_by_image():
    offered = [candidates(range(9), [0] * 9, range(9, 60)) for _ in range(5)]
    batch = sampler(offered, images_per_step=3).step(4)
    assert (np.diff(batch.images) >= 0).all()
    assert len(np.unique(batch.images)) == 3
    assert len(batch.images) == 128


def test_without_a_negative_all_are_positives():
    batch = sampler([candidates([0, 1], [0, 1])], batch=8).step(0)
    assert counts(batch) == {(0, 0, 0): 4, (0, 1, 1): 4}


def test_without_any_positive_there_is_nothing_to_sample():
    with pytest.raises(ValueError, match="no positive"):
        sampler([candidates(negatives=[1, 2])])


def test_every_image_with_a_candidate_has_its_turn():
    offered = [candidates([0], [0], [1, 2]) for _ in range(7)]
    offered[3] = candidates()
    taken = sampler(offered, images_per_step=2)
    seen = np.concatenate([np.unique(taken.step(number).images) for number in range(3)])
    assert sorted(seen) == [0, 1, 2, 4, 5, 6]


def test_a_step_of_images_without_objects_gets_one_that_has_some():
    offered = [candidates(negatives=range(50)) for _ in range(9)] + [candidates([0], [1], [1])]
    taken = sampler(offered, batch=8)
    for number in range(5):
        assert (taken.step(number).labels == 1).sum() == 2


def test_scales_and_mirrors_are_drawn_for_each_window():
    offered = [candidates(range(50), [0] * 50, range(50, 200))]
    batch = sampler(offered, scales=3, batch=400).step(0)
    assert all(100 < n < 170 for n in np.bincount(batch.scales, minlength=3))
    assert 150 < batch.mirrored.sum() < 250
    assert not sampler(offered, flips=False).step(0).mirrored.any()


def test_steps_and_seeds_draw_differently_and_each_always_the_same():
    offered = [candidates(range(50), [0] * 50, range(50, 200))]

    def drawn(seed: int, number: int) -> bytes:
        batch = sampler(offered, seed=seed).step(number)
        return (
            b"".join(a.tobytes() for a in (batch.windows, batch.scales, batch.mirrored)) + b"%d" % batch.seed
        )

    assert drawn(0, 1) == drawn(0, 1)
    assert len({drawn(seed, number) for seed in (0, 1) for number in (0, 1, 2)}) == 6


@st.composite
def offers(draw: st.DrawFn) -> list[Candidates]:
    images = []
    for _ in range(draw(st.integers(1, 6))):
        positives, negatives = draw(st.integers(0, 20)), draw(st.integers(0, 40))
        labels = draw(st.lists(st.integers(0, 2), min_size=positives, max_size=positives))
        images.append(candidates(range(positives), labels, range(positives, positives + negatives)))
    images.append(candidates([0], [1], draw(st.sampled_from([[], [1, 2]]))))
    return images


@settings(max_examples=100)
@given(offers(), st.integers(2, 60), st.floats(0.05, 0.9), st.integers(1, 8), st.integers(0, 10**6))
def test_every_batch_has_its_share_of_positives(offered, size, fraction, images_per_step, number):
    chosen = {"batch": size, "positive_fraction": fraction, "images_per_step": images_per_step}
    batch = sampler(offered, background=3, **chosen).step(number)
    images = np.unique(batch.images)
    assert len(images) <= images_per_step
    assert {
        len(part) for part in (batch.images, batch.windows, batch.labels, batch.scales, batch.mirrored)
    } == {size}
    positive = batch.labels < 3
    if any(len(offered[i].negatives) for i in images):
        assert positive.sum() == max(1, round(size * fraction))
    for image, window, label in zip(batch.images, batch.windows, batch.labels, strict=True):
        mine = offered[image]
        if label == 3:
            assert window in mine.negatives
        else:
            assert mine.labels[mine.positives.tolist().index(window)] == label
    for part, kind in ((positive, "positives"), (~positive, "negatives")):
        drawn = Counter(zip(batch.images[part].tolist(), batch.windows[part].tolist(), strict=True))
        available = sum(len(getattr(offered[i], kind)) for i in images)
        if part.any():  # none again before all have been
            assert max(drawn.values()) == -(-part.sum() // available)
            assert len(drawn) == min(part.sum(), available)


# ---------------------------------------------------------------- what is held out


def test_held_out_images_are_a_share_and_never_all_of_a_class():
    offered = [candidates([0], [i % 2], [1]) for i in range(40)]
    offered[7] = candidates([0], [2], [1])  # the only wombat
    for seed in range(30):
        learnt, watched = hold_out(offered, 3, FineTune(held_out=0.2), seed)
        assert len(watched) == 8
        assert 7 in learnt
        assert sorted([*learnt, *watched]) == list(range(40))
    assert len({tuple(hold_out(offered, 3, FineTune(held_out=0.2), seed)[1]) for seed in range(5)}) > 1


def test_none_are_held_out_where_that_is_asked_or_there_are_too_few():
    offered = [candidates([0], [0], [1]) for _ in range(9)]
    for share in (0.0, 0.1):
        assert hold_out(offered, 1, FineTune(held_out=share), 0)[1].tolist() == []
    alone = [candidates([0], [label], [1]) for label in range(9)]
    assert hold_out(alone, 9, FineTune(held_out=0.5), 0)[1].tolist() == []
