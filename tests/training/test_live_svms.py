"""Examples come and go with their photos; the dual variables of those that stay are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det.model.svm import Hinge, fit_svms
from spp_det.training.live_svms import LivePool

OBJECTIVE = Hinge(C=0.1, bias=1.0, positive_weight=2.0)


def pool_of(rows: list[tuple[str, bytes]], signs: list[list[int]], capacity: int = 10) -> LivePool:
    pool = LivePool(3, len(signs[0]), capacity)
    vectors = torch.arange(3 * len(rows)).reshape(-1, 3).half() % 7
    pool.put(rows, vectors, np.array(signs, np.int8))
    return pool


ROWS = [("a", b"1"), ("a", b"2"), ("b", b"1"), ("b", b"2"), ("c", b"1")]
SIGNS = [[2, 0], [-1, -1], [0, 1], [-1, 0], [-1, -1]]


def test_a_window_that_is_an_example_already_gets_the_signs_that_it_lacks():
    pool = pool_of(ROWS, SIGNS)
    pool.put([("a", b"1"), ("d", b"1")], torch.ones(2, 3).half(), np.array([[-1, -1], [0, -1]], np.int8))
    assert pool.rows == [*ROWS, ("d", b"1")]
    assert pool.signs.tolist() == [[2, -1], *SIGNS[1:], [0, -1]]
    assert pool.vectors[0].tolist() == [0, 1, 2]  # as it was


def test_no_more_than_the_capacity_is_taken():
    pool = pool_of(ROWS, SIGNS, capacity=6)
    pool.put([("d", b"1"), ("d", b"2")], torch.ones(2, 3).half(), np.array([[-1, 0], [-1, 0]], np.int8))
    assert pool.size == len(pool.rows) == 6
    assert ("d", b"2") not in pool.place


@pytest.mark.parametrize("images", [["a"], ["c"], ["a", "c"], ["b"], ["a", "b", "c"], []])
def test_a_photos_examples_are_forgotten_and_the_others_keep_what_is_theirs(images):
    pool = pool_of(ROWS, SIGNS)
    pool.alpha = np.arange(10.0).reshape(5, 2)
    before = {row: (v.tolist(), s, a) for row, v, s, a in zip(
        ROWS, pool.vectors, SIGNS, pool.alpha.tolist(), strict=True)}  # fmt: skip
    left = pool.forget(images)
    assert len(pool.folds) == len(pool.origins) == pool.size
    assert set(left) == {row for row in ROWS if row[0] in images}
    assert set(pool.rows) == {row for row in ROWS if row[0] not in images}
    assert {row: pool.place[row] for row in pool.rows} == pool.place
    for row, index in pool.place.items():
        assert (
            pool.vectors[index].tolist(),
            pool.signs[index].tolist(),
            pool.alpha[index].tolist(),
        ) == before[row]


def test_dual_variables_are_recalled_where_the_sign_is_the_same():
    pool = pool_of(ROWS, SIGNS)
    pool.alpha = np.array([[0.5, 0], [0.25, 0.75], [0, 0.1], [0.2, 0], [0, 0.3]])
    left = pool.forget(["a"])
    pool.put(ROWS[:2], torch.ones(2, 3).half(), np.array([[1, 0], [-1, 1]], np.int8))
    pool.recall(left)
    assert pool.alpha[pool.place["a", b"1"]].tolist() == [0.5, 0]
    assert pool.alpha[pool.place["a", b"2"]].tolist() == [0.25, 0]  # a positive now, of the second class


def test_a_new_class_takes_all_windows_for_negatives_and_an_old_one_goes():
    pool = pool_of(ROWS, SIGNS)
    pool.alpha = np.arange(10.0).reshape(5, 2)
    pool.relabel([1, -1])
    assert pool.signs.tolist() == [[0, -1], [-1, -1], [1, -1], [0, -1], [-1, -1]]
    assert pool.alpha.tolist() == [[1, 0], [3, 0], [5, 0], [7, 0], [9, 0]]
    pool.relabel([0])
    assert pool.rows == [ROWS[1], ROWS[4], ROWS[2]] or set(pool.rows) == {ROWS[1], ROWS[2], ROWS[4]}


def test_a_fit_after_changes_is_the_fit_of_the_examples_that_are_left():
    """The solution of a strictly convex problem does not depend on where the solver starts."""
    generator = np.random.default_rng(0)
    rows = [(f"photo{i // 5}", bytes([i])) for i in range(60)]
    vectors = torch.from_numpy(generator.normal(0, 1, (60, 12)).astype(np.float16))
    signs = generator.choice(np.array([-1, -1, -1, 0, 1], np.int8), (60, 2))
    signs[signs.any(axis=1) == 0, 0] = -1
    pool = LivePool(12, 2, 100)
    pool.put(rows[:50], vectors[:50], signs[:50])
    pool.fit(OBJECTIVE, 1e-6)
    duals = pool.forget(["photo1", "photo4"])
    again = [i for i, row in enumerate(rows) if row[0] == "photo4"]
    pool.put([rows[i] for i in again], vectors[again], signs[again])
    pool.put(rows[50:], vectors[50:], signs[50:])
    pool.recall(duals)
    found = pool.fit(OBJECTIVE, 1e-6).svms
    left = [i for i, row in enumerate(rows) if row[0] != "photo1"]
    expected = fit_svms(vectors[left], signs[left], OBJECTIVE, 1e-6).svms
    torch.testing.assert_close(found.weight, expected.weight, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(found.bias, expected.bias, atol=2e-3, rtol=1e-2)
