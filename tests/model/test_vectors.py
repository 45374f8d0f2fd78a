"""Vectors when they are asked for: of the rows, in the order, as often, and on threads of any number."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from spp_det.model.features import PooledVectors
from spp_det.model.svm import LinearSVMs
from spp_det.model.vectors import chunk_size
from spp_det.runtime.threads import ahead, on_all_cores, on_one_core
from tests.vectors import all_of, held, random_windows, spp_features

LEVELS = (6, 3, 2, 1)


def head_and_tail(vectors):
    """Of each vector by itself, exactly: nothing that rounds differently in another batch."""
    return torch.stack([vectors[:, 0], vectors.amax(1), 2 * vectors[:, -1]], dim=1)


@pytest.fixture
def pooled_rows(monkeypatch):
    """Rows that were pooled so far."""
    pooled = []
    pool = PooledVectors._pool

    def noted(self, index, rows):
        pooled.append(len(rows))
        return pool(self, index, rows)

    monkeypatch.setattr(PooledVectors, "_pool", noted)
    return pooled


def test_only_what_is_asked_for_is_pooled(backbone, image, pooled_rows):
    features = spp_features(backbone, (120, 240))
    vectors = features.vectors(features.maps(image), random_windows(200, 200, 150))
    vectors.through(head_and_tail)
    assert len(vectors) > 100
    assert pooled_rows == []
    vectors.make(np.array([5, 3]))
    assert sum(pooled_rows) == 2
    vectors.of_windows(np.array([7]))
    assert sum(pooled_rows) == 3
    vectors.each(head_and_tail)
    assert sum(pooled_rows) == 3 + len(vectors)


@pytest.mark.parametrize("normalize", ["none", "hellinger", "signed_root"])
@pytest.mark.parametrize("scales", [(160,), (100, 160, 300)])
def test_rows_come_in_the_order_they_are_asked_for_and_as_often(backbone, image, scales, normalize):
    features = spp_features(backbone, scales, normalize=normalize)
    vectors = features.vectors(features.maps(image), random_windows(80, 200, 150))
    whole, of = on_one_core(partial(all_of, vectors))
    rng = np.random.default_rng(0)
    for rows in (rng.permutation(len(vectors)), np.array([3, 3, 0]), np.array([], np.int64)):
        assert torch.equal(on_one_core(partial(vectors.make, rows)), whole[torch.from_numpy(rows)])
        assert torch.equal(vectors.of_rows(rows), whole[torch.from_numpy(rows)])
    windows = np.array([70, 2, 2, 11])
    assert torch.equal(vectors.of_windows(windows), whole[torch.from_numpy(of[windows])])


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("scales", [(160,), (100, 160, 300)])
def test_each_is_the_function_of_all_at_once(backbone, image, scales, chunk):
    features = spp_features(backbone, scales)
    vectors = features.vectors(features.maps(image), random_windows(80, 200, 150))
    assert len(vectors) > 50
    sizes = []

    def noted(some):
        sizes.append(len(some))
        return head_and_tail(some)

    whole, _ = all_of(vectors)
    assert torch.equal(replace(vectors, chunk=chunk).each(noted), head_and_tail(whole))
    assert sum(sizes) == len(vectors)
    assert max(sizes) == min(chunk, len(vectors))


def test_a_chunk_is_a_few_megabytes_of_vectors(backbone, image):
    features = spp_features(backbone)
    vectors = features.vectors(features.maps(image), random_windows(20, 200, 150))
    assert 2**20 < 4 * features.dimension * vectors.chunk < 2**24
    assert chunk_size(10**7, vectors.device) == 1  # one is more than enough


@pytest.mark.parametrize("scales", [(160,), (120, 160)])
def test_each_of_no_windows_has_the_shape_of_the_result(backbone, image, scales):
    features = spp_features(backbone, scales)
    vectors = features.vectors(features.maps(image), np.zeros((0, 4), np.float32))
    assert len(vectors) == 0
    assert vectors.each(head_and_tail).shape == (0, 3)
    assert vectors.through(head_and_tail).each(lambda x: x[:, :2]).shape == (0, 2)
    assert vectors.of_windows(np.zeros(0, np.int64)).shape == (0, features.dimension)


def test_through_puts_layers_one_after_the_other(backbone, image):
    features = spp_features(backbone, (100, 300))
    vectors = features.vectors(features.maps(image), random_windows(40, 200, 150))
    whole, of = all_of(vectors)
    assert vectors.through(None) is vectors
    first = vectors.through(head_and_tail)
    second = first.through(lambda x: x[:, :2] + 1)
    assert len(first) == len(second) == len(vectors)
    assert (first.of == of).all()
    assert (second.of == of).all()
    expected = head_and_tail(whole)[:, :2] + 1
    rows = np.array([4, 0, 4])
    assert torch.equal(second.make(rows), expected[rows])
    assert torch.equal(second.of_windows(rows), expected[of[rows]])
    assert torch.equal(second.each(lambda x: -x), -expected)
    assert torch.equal(vectors.make(rows), whole[rows])  # the plain ones are what they were


@pytest.mark.parametrize("normalize", ["none", "hellinger", "signed_root"])
@pytest.mark.parametrize("scales", [(160,), (100, 160, 300)])
def test_svms_score_pooled_windows_without_making_their_vectors(
    backbone, image, pooled_rows, scales, normalize
):
    features = spp_features(backbone, scales, normalize=normalize)
    vectors = features.vectors(features.maps(image), random_windows(150, 200, 150))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, features.dimension, generator=generator) / features.dimension
    svms = LinearSVMs(weight, torch.tensor([0.1, 0.2, 0.3]))
    scores = vectors.scores(svms)
    assert pooled_rows == []
    torch.testing.assert_close(scores, vectors.each(svms), atol=1e-5, rtol=1e-4)
    assert sum(pooled_rows) == len(vectors)
    through = vectors.through(lambda x: -x)  # the outputs of layers have to be made
    assert torch.equal(through.scores(svms), through.each(svms))
    nothing = features.vectors(features.maps(image), np.zeros((0, 4), np.float32))
    assert nothing.scores(svms).shape == (0, 3)


def test_vectors_that_are_there_already_are_handed_out():
    given, of = torch.arange(12.0).view(4, 3), np.array([3, 0, 0, 2, 1])
    vectors = held(given, of)
    assert len(vectors) == 4
    assert vectors.device == given.device
    assert torch.equal(vectors.of_windows(np.array([0, 2])), given[[3, 0]])
    assert torch.equal(replace(vectors, chunk=3).each(lambda x: x.sum(1)), given.sum(1))
    nothing = held(torch.zeros(0, 3), np.zeros(0, np.int64))
    assert len(nothing) == 0
    assert nothing.each(lambda x: x.sum(1)).shape == (0,)


def test_each_makes_no_graph_on_any_thread(three_threads):  # noqa: ARG001
    weight = torch.ones(3, requires_grad=True)
    vectors = replace(held(torch.ones(50, 3), np.arange(50)), chunk=4)
    graphs = []

    def product(some):
        result = some @ weight
        graphs.append(result.requires_grad)
        return result

    assert not vectors.each(product).requires_grad
    assert graphs == [False] * 13


def in_time(work):
    """What ``work()`` gives on a thread of its own; a failure where it hangs."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it hung, or failed"
    return results[0]


@pytest.mark.usefixtures("three_threads")
def test_each_works_from_within_the_threads_that_it_uses_itself(backbone, image):
    features = spp_features(backbone, (100, 160, 300))
    vectors = features.vectors(features.maps(image), random_windows(80, 200, 150))
    vectors = replace(vectors, chunk=5)
    expected = vectors.each(head_and_tail)

    def work(_=None):
        return vectors.each(head_and_tail)

    inner = replace(held(torch.zeros(20, 2), np.arange(20)), chunk=1)

    def nested():
        """Every chunk of one asks for each chunk of another."""
        return inner.each(lambda some: work().sum()[None].expand(len(some)))

    assert torch.equal(in_time(work), expected)
    assert torch.equal(in_time(nested), expected.sum().expand(20))
    for several in (lambda: on_all_cores(work, range(12)), lambda: list(ahead(work, range(12), 4))):
        found = in_time(several)
        assert len(found) == 12
        assert all(torch.equal(one, expected) for one in found)


@pytest.mark.usefixtures("three_threads")
def test_each_may_be_called_from_many_threads_at_once(backbone, image):
    features = spp_features(backbone, (160,))
    vectors = replace(features.vectors(features.maps(image), random_windows(80, 200, 150)), chunk=5)
    expected, found = vectors.each(head_and_tail), []
    callers = [
        threading.Thread(target=lambda: found.append(vectors.each(head_and_tail)), daemon=True)
        for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(found) == 6
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.usefixtures("three_threads")
def test_an_exception_of_the_function_comes_out_and_the_next_call_works():
    vectors = replace(held(torch.arange(30.0).view(10, 3), np.arange(10)), chunk=1)

    def picky(some):
        if some[0, 0] == 12:
            raise ValueError("not this one")
        return some

    with pytest.raises(ValueError, match="not this one"):
        vectors.each(picky)
    assert torch.equal(vectors.each(lambda x: x), torch.arange(30.0).view(10, 3))
