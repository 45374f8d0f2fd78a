"""The pool of examples: its parts stay in step, the easiest negatives go, a fit is that of its vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.config.settings import SVM
from spp_det.data.records import Record
from spp_det.errors import UserError
from spp_det.model.svm import Hinge, LinearSVMs, fit_svms
from spp_det.training import pool as pools
from spp_det.training.pool import ExamplePool, capacity_of, memory_for
from tests.vectors import rows

OBJECTIVE = Hinge(C=1e-3, bias=10.0, positive_weight=2.0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["add", "fit", "weigh", "evict"]), max_size=10),
    st.integers(0, 2**32 - 1),
)
def test_rows_signs_and_dual_variables_stay_in_step(steps, seed):
    """Against a dictionary from a row's number to its vector, signs and dual variables."""
    rng = np.random.default_rng(seed)
    pool, known, count = ExamplePool(40, 3, capacity=10_000), {}, 0
    for step in ["add", *steps, "weigh", "evict"]:
        if step == "add":
            size = int(rng.integers(1, 30))
            vectors = rows(np.arange(count, count + size))
            signs = rng.integers(-1, 2, (size, 3)).astype(np.int8)
            pool.add(vectors, signs)
            for i in range(size):
                known[count + i] = (vectors[i].half(), signs[i].copy(), np.zeros(3))
            count += size
        elif step in ("fit", "weigh"):
            if step == "fit":
                pool.fit(Hinge(C=1e-3, bias=10.0, positive_weight=2.0, scale=0.2), 1e-2)
            else:
                pool.alpha = rng.random((pool.size, 3)) * (rng.random((pool.size, 3)) < 0.5)
            for row, number in enumerate(pool.vectors[:, 0].int().tolist()):
                known[number] = (*known[number][:2], pool.alpha[row].copy())
        else:
            svms, below = LinearSVMs(torch.randn(3, 40) * 0.1, torch.zeros(3)), -0.5
            svms.weight[:, 0] = 0
            pool.evict(svms, below)
            for number, (vector, signs, alpha) in list(known.items()):
                scores = svms(vector.float()[None])[0].numpy()
                signs[(signs < 0) & (scores < below) & (alpha == 0)] = 0
                if not signs.any():
                    del known[number]
        assert pool.size == len(pool.vectors) == len(pool.signs) == len(pool.alpha) == len(known)
        for vector, signs, alpha in zip(pool.vectors, pool.signs, pool.alpha, strict=True):
            expected = known[int(vector[0])]
            assert torch.equal(vector, expected[0])
            assert signs.tolist() == expected[1].tolist()
            assert alpha.tolist() == expected[2].tolist()


def test_only_easy_negatives_that_carry_no_weight_are_forgotten():
    pool = ExamplePool(2, 2, capacity=6)
    svms = LinearSVMs(torch.eye(2), torch.zeros(2))  # the scores are the vector
    pool.add(
        torch.tensor([[-2.0, -2], [-2, 5], [-2, -2], [-1, -2], [-2, -2], [-1.25, -1.125]]),
        np.array([[1, 0], [-1, -1], [-1, -1], [-1, -1], [-1, 1], [-1, -1]], np.int8),
    )
    pool.alpha[2] = [0.5, 0]
    pool.evict(svms, below=-1.2)
    assert pool.vectors.tolist() == [[-2, -2], [-2, 5], [-2, -2], [-1, -2], [-2, -2], [-1.25, -1.125]]
    assert pool.signs.tolist() == [[1, 0], [0, -1], [-1, 0], [-1, 0], [0, 1], [0, -1]]
    pool.alpha[2] = 0
    pool.evict(svms, below=-1.2)
    assert pool.vectors.tolist() == [[-2, -2], [-2, 5], [-1, -2], [-2, -2], [-1.25, -1.125]]
    assert pool.signs.tolist() == [[1, 0], [0, -1], [-1, 0], [0, 1], [0, -1]]


def test_what_does_not_fit_is_refused_and_the_easiest_negatives_make_room():
    pool = ExamplePool(1, 2, capacity=5)
    svms = LinearSVMs(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))  # the vector and its opposite
    signs = np.array([[-1, 0], [1, 0], [-1, -1], [0, -1], [-1, 0]], np.int8)
    pool.add(torch.tensor([[-3.0], [-9.0], [-2.0], [1.0], [-2.5]]), signs)
    with pytest.raises(ValueError, match="room for 5"):
        pool.add(torch.zeros(1, 1), np.array([[-1, 0]], np.int8))
    assert pool.size == len(pool.signs) == 5  # as before
    pool.make_room(svms, 0)
    assert pool.size == 5
    pool.make_room(svms, 2)
    assert pool.vectors[:, 0].tolist() == [-9, -2, 1]  # -2 is hard for the second class
    assert pool.signs.tolist() == [[1, 0], [-1, -1], [0, -1]]
    pool.make_room(svms, 5)
    assert pool.vectors[:, 0].tolist() == [-9]


def test_a_fit_of_the_pool_is_a_fit_of_its_vectors():
    """Each starts where the last one ended; that must not show in the result."""
    rng = np.random.default_rng(0)
    pool = ExamplePool(40, 2, capacity=280)
    for _ in range(4):
        signs = rng.integers(-1, 2, (70, 2)).astype(np.int8)
        pool.add(rows(np.zeros(70)) + torch.from_numpy(signs[:, [0]].astype(np.float32)), signs)
        fit = pool.fit(OBJECTIVE, 1e-5)
        alone = fit_svms(pool.vectors, pool.signs, OBJECTIVE, 1e-5)
        np.testing.assert_allclose(fit.primal, alone.primal, rtol=2e-5)
        pool.evict(fit.svms, below=-1.05)
    assert pool.size < 280


def test_a_fit_without_a_fold_is_a_fit_of_the_other_examples():
    """Also of examples that moved when others were forgotten; the fit of all goes on as if nothing was."""
    rng = np.random.default_rng(2)
    pool = ExamplePool(40, 2, capacity=280)
    for fold in (0, 1, 2, 0):
        signs = rng.integers(-1, 2, (70, 2)).astype(np.int8)
        pool.add(rows(np.zeros(70)) + torch.from_numpy(signs[:, [0]].astype(np.float32)), signs, fold)
    pool.evict(pool.fit(OBJECTIVE, 1e-5).svms, below=-1.05)
    assert len(pool.folds) == pool.size < 280
    alpha = pool.alpha.copy()
    for fold in range(3):
        rest = pool.folds != fold
        alone = fit_svms(pool.vectors[torch.from_numpy(rest)], pool.signs[rest], OBJECTIVE, 1e-6)
        without = pool.fit_without(fold, OBJECTIVE, 1e-6)
        np.testing.assert_allclose(without.primal, alone.primal, rtol=1e-5)
        torch.testing.assert_close(without.svms.weight, alone.svms.weight, rtol=0.05, atol=0.01)
    assert np.array_equal(pool.alpha, alpha)
    assert np.bincount(pool.folds).tolist() == [(pool.folds == fold).sum() for fold in range(3)]


def test_a_fit_that_does_not_end_is_named(caplog):
    pool = ExamplePool(40, 2, capacity=100)
    pool.add(rows(np.zeros(60)), np.where(np.arange(120).reshape(60, 2) % 3, -1, 1).astype(np.int8))
    pool.fit(OBJECTIVE, tolerance=-1.0)  # which no gap is below
    assert [line for line in caplog.messages if "SVM 1: the relative duality gap is still" in line]
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 5])  # 5: processes without a class
def test_several_processes_fit_and_forget_as_one_does(in_ranks, count):
    """More examples than are scored at a time, three classes."""
    rng = np.random.default_rng(1)
    signs = rng.integers(-1, 2, (2500, 3)).astype(np.int8)
    vectors = rows(np.zeros(2500)) + torch.from_numpy(signs[:, [0]].astype(np.float32))

    def work(_: int) -> tuple[object, ...]:
        pool = ExamplePool(40, 3, capacity=2500)
        pool.add(vectors, signs.copy())
        fit = pool.fit(OBJECTIVE, 0.1)
        pool.evict(fit.svms, below=-1.0)
        weights = fit.svms.weight.tolist(), fit.svms.bias.tolist()
        return *weights, fit.gap.tolist(), fit.primal.tolist(), pool.alpha.tolist(), pool.signs.tolist()

    alone = fit_svms(vectors.half(), signs, OBJECTIVE, 0.1)
    found = in_ranks(count, work)
    assert found == [found[0]] * count
    assert found[0][:4] == (
        *(alone.svms.weight.tolist(), alone.svms.bias.tolist()),
        *(alone.gap.tolist(), alone.primal.tolist()),
    )
    assert 0 < len(found[0][-1]) < 2500


# ---------------------------------------------------------------- the memory


def record(objects: int, difficult: int = 0) -> Record:
    """A photo of so many objects, the first of which are difficult."""
    flags = np.arange(objects) < difficult
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (objects, 1))
    none = np.zeros(objects, np.bool_)
    return Record("a", Path("a.jpg"), boxes, np.zeros(objects, np.int64), flags, none, (10, 10))


def test_auto_is_a_number_that_follows_from_photos_objects_and_vectors_alone():
    voc = [record(2)] * 2425 + [record(3)] * 2586  # as many photos and objects as VOC 2007's trainval
    assert memory_for(SVM(), voc, 50 * 512).memory_mb == 5509
    assert memory_for(SVM(), voc, 50 * 672).memory_mb == 7230
    near = SVM(positive_iou=0.7)  # windows count too
    assert memory_for(near, voc, 50 * 512) == near.model_copy(update={"memory_mb": 9818})
    difficult = [record(5, difficult=5)] * 5011
    assert memory_for(near, difficult, 50 * 512).memory_mb == 20 * 5011 * 50 * 512 * 2 // 2**20
    few = [record(3)] * 300
    assert memory_for(SVM(), few, 50 * 512).memory_mb == 896  # R's
    assert memory_for(SVM(memory_mb=77), voc, 50 * 512).memory_mb == 77


def test_the_memory_holds_as_many_examples_as_it_says():
    assert capacity_of(SVM(memory_mb=896), 50 * 512) == 18350
    assert capacity_of(SVM(memory_mb=1), 300_000) == 1


def test_memory_that_the_system_does_not_give_is_one_line(monkeypatch):
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pools.np, "empty", refuse)
    with pytest.raises(UserError, match=r"^svm\.memory_mb = 48: the system does not give so much memory"):
        ExamplePool(25_600, 2, capacity=1000)


def test_a_pool_that_grows_keeps_its_examples():
    pool = ExamplePool(40, 2, capacity=3)
    vectors = torch.randn(5, 40)
    pool.add(vectors[:3], np.ones((3, 2), np.int8))
    pool.grow(2)
    assert pool.capacity == 3
    pool.grow(5)
    pool.add(vectors[3:], np.ones((2, 2), np.int8))
    assert torch.equal(pool.vectors, vectors.half())


def test_more_examples_than_there_is_room_for_are_not_restored():
    pool = ExamplePool(40, 2, capacity=3)
    examples = np.ones((4, 2), np.int8), np.zeros((4, 2)), np.zeros(4, np.int64), np.zeros((4, 2), np.int64)
    with pytest.raises(ValueError, match="4 examples do not fit in the room for 3"):
        pool.restore(*examples)
    pool.restore(*(array[:3] for array in examples))
    assert len(pool.vectors) == 3
    pool.evict(LinearSVMs(torch.zeros(2, 40), torch.zeros(2)), 0.5)  # positives all: none is forgotten
    assert pool.size == 3
