"""Mining: negatives obey the rules, and the SVMs learn what they should, by however many processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.boxes import area, as_boxes, intersection, iou
from spp_det.config import settings as sections
from spp_det.errors import UserError
from spp_det.model.svm import Hinge, LinearSVMs, fit_svms
from spp_det.runtime.sharing import Shared, share
from spp_det.training import mining
from spp_det.training.mining import Example, Mining, train_svms
from spp_det.training.pool import ExamplePool
from spp_det.training.windows import LabelledWindows
from tests.training.scenes import record
from tests.vectors import held, rows

SVM = partial(sections.SVM, memory_mb=896)

# ---------------------------------------------------------------- which windows become negatives


def all_vectors(example: Example) -> torch.Tensor:
    """``[M, D]``, the distinct ones."""
    return example.vectors.make(np.arange(len(example.vectors)))


def hard_negatives(
    example: Example, svms: LinearSVMs, config: sections.SVM
) -> tuple[torch.Tensor, np.ndarray]:
    """Vectors ``[n, D]`` and signs ``[n, K]``."""
    found = mining._hard_negatives(svms, example, config)
    return torch.from_numpy(found["vectors"]), found["signs"]


def mined(example: Example, svms: LinearSVMs, config: sections.SVM) -> tuple[ExamplePool, np.ndarray]:
    """What one image adds to an empty pool, and the counts that are reported."""
    vectors, signs = hard_negatives(example, svms, config)
    pool = ExamplePool(all_vectors(example).shape[1], len(svms.weight), capacity=len(vectors))
    pool.add(vectors, signs)
    return pool, (signs < 0).sum(axis=0)


def numbered(windows: LabelledWindows, vector_of=None) -> Example:
    """One vector a window (or as given), whose first component is its number."""
    vector_of = np.arange(len(windows.boxes)) if vector_of is None else vector_of
    return Example(windows, held(rows(np.arange(vector_of.max(initial=-1) + 1)), vector_of))


def indifferent(classes: int) -> LinearSVMs:
    return LinearSVMs(torch.zeros(classes, 40), torch.zeros(classes))


def negatives_of(pool: ExamplePool, label: int) -> list[int]:
    return sorted(pool.vectors[pool.signs[:, label] < 0][:, 0].int().tolist())


def test_a_hand_made_image():
    windows = LabelledWindows.of(
        record([[0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 240, 40]], [0, 1, 0], difficult=[2]),
        as_boxes(
            [
                [0, 0, 40, 20],  # 3: half of the first object
                [0, 0, 40, 8],  # 4: a fifth of it
                [0, 0, 40, 10],  # 5: a quarter of it; 4 lies on it by 0.8
                [200, 0, 240, 30],  # 6: on the difficult object of class 0
                [300, 300, 340, 340],  # 7: on nothing
            ]
        ),
    )
    svms = LinearSVMs(torch.zeros(2, 40), torch.zeros(2))
    svms.weight[:, 0] = -0.01  # the first of two that overlap scores best
    pool, counts = mined(numbered(windows), svms, SVM())
    assert negatives_of(pool, 0) == [1, 4, 7]  # 1: a positive of the other class
    assert negatives_of(pool, 1) == [0, 2, 3, 4, 7]  # 6 lies on 2, 5 on 4 by more than 0.7
    assert counts.tolist() == [3, 5]
    assert (pool.signs <= 0).all()
    assert (pool.alpha == 0).all()


def test_windows_that_the_svms_get_right_by_the_margin_are_not_added():
    boxes = as_boxes([[20 * i, 0, 20 * i + 10, 10] for i in range(6)])
    windows = LabelledWindows.of(record([], []), boxes)
    svms = LinearSVMs(torch.zeros(1, 40), torch.tensor([1.0]))
    svms.weight[0, 0] = -0.5  # scores 1, 0.5, 0, -0.5, -1, -1.5
    pool, _ = mined(numbered(windows), svms, SVM())
    assert negatives_of(pool, 0) == [0, 1, 2, 3, 4]
    assert negatives_of(mined(numbered(windows), svms, SVM(hard_score=-0.1))[0], 0) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_near_difficult_and_crowd_objects_there_are_no_negatives_of_their_class(kind):
    windows = LabelledWindows.of(
        record([[0, 0, 40, 40]], [0], **{kind: [0]}), as_boxes([[0, 0, 40, 30], [60, 60, 90, 90]])
    )
    pool, _ = mined(numbered(windows), indifferent(2), SVM())
    assert negatives_of(pool, 0) == [2]
    assert negatives_of(pool, 1) == [0, 2]


@st.composite
def images(draw: st.DrawFn) -> Example:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    objects, proposals = draw(st.integers(0, 5)), draw(st.integers(0, 40))
    corner = rng.integers(0, 30, (objects + proposals, 2))
    boxes = as_boxes(np.concatenate([corner, corner + rng.integers(3, 30, corner.shape)], axis=1))
    marked = record(boxes[:objects], rng.integers(0, 3, objects))
    marked.difficult[:], marked.crowd[:] = rng.random((2, objects)) < 0.2
    vector_of = rng.integers(0, 30, len(boxes)) if draw(st.booleans()) else np.arange(len(boxes))
    return numbered(LabelledWindows.of(marked, boxes[objects:]), vector_of)


@settings(max_examples=80, deadline=None)
@given(images(), st.integers(0, 2**32 - 1))
def test_negatives_are_those_of_the_rules(example, seed):
    generator = torch.Generator().manual_seed(seed)
    svms = LinearSVMs(torch.randn(3, 40, generator=generator) * 0.2, torch.full((3,), -0.5))
    config = SVM(negative_iou=0.4, duplicate_iou=0.6, hard_score=-0.9)
    pool, counts = mined(example, svms, config)
    marked, boxes = example.windows.record, example.windows.boxes
    scores = svms(all_vectors(example)).numpy()[example.vectors.of]
    overlaps, mutual = iou(boxes, marked.boxes), iou(boxes, boxes)
    inside = intersection(boxes, marked.boxes) / area(boxes)[:, None]
    overlaps = np.where(marked.crowd, inside, overlaps)  # a part of a window, where it is in a crowd
    for label in range(3):
        wanted: list[int] = []
        for i in np.argsort(-scores[:, label], kind="stable"):
            far = (overlaps[i][marked.labels == label] < config.negative_iou).all()
            alone = all(mutual[i, j] <= config.duplicate_iou + 1e-6 for j in wanted)
            if far and alone and scores[i, label] > config.hard_score:
                wanted.append(int(i))
        assert negatives_of(pool, label) == sorted({int(example.vectors.of[i]) for i in wanted})
        assert counts[label] == len(negatives_of(pool, label))
    assert len(set(pool.vectors[:, 0].tolist())) == pool.size  # one row a vector, for all classes
    assert (pool.signs != 0).any(axis=1).all()


def test_negatives_are_the_same_however_many_vectors_are_made_at_a_time():
    """Each is made once, to be scored, and those that are hard once more."""
    rng = np.random.default_rng(4)
    corner = rng.integers(0, 300, (80, 2))
    boxes = as_boxes(np.concatenate([corner, corner + rng.integers(3, 30, corner.shape)], axis=1))
    whole = numbered(LabelledWindows.of(record([], []), boxes), rng.permutation(80) // 2)
    svms = LinearSVMs(torch.randn(3, 40, generator=torch.Generator().manual_seed(2)), torch.zeros(3))
    svms.weight[:, 0] *= 0.01
    expected, signs = hard_negatives(whole, svms, SVM())
    assert 0 < len(expected) < 40
    for chunk in (1, 7, 40):
        made: list[int] = []
        counted = replace(whole.vectors, made=made, chunk=chunk)
        found, found_signs = hard_negatives(Example(whole.windows, counted), svms, SVM())
        assert torch.equal(found, expected)
        assert (found_signs == signs).all()
        assert sorted(made) == sorted([*range(40), *expected[:, 0].int().tolist()])


def test_an_image_without_windows_adds_nothing():
    windows = LabelledWindows.of(record([], []), np.zeros((0, 4), np.float32))
    nothing = held(torch.zeros(0, 40), np.zeros(0, np.int64))
    pool, counts = mined(Example(windows, nothing), indifferent(2), SVM())
    assert pool.size == 0
    assert counts.tolist() == [0, 0]


# ---------------------------------------------------------------- training

CLASSES = ("kangaroo", "raccoon")
DIRECTIONS = torch.nn.functional.normalize(torch.randn(3, 60, generator=torch.Generator().manual_seed(1)))


def stream(count: int, seed: int = 0) -> Shared[Example]:
    return share(list(scenes(count, seed)))


def scenes(count: int, seed: int = 0):
    """Images of one object and 60 windows each: an object's vector points its class's way, others a third."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        label = index % 2
        corner = rng.uniform(50, 400, (60, 2))
        proposals = as_boxes(np.concatenate([corner, corner + rng.uniform(20, 60, (60, 2))], axis=1))
        windows = LabelledWindows.of(record([[0, 0, 40, 40]], [label]), proposals)
        kinds = torch.tensor([label] + [2] * 60)
        vectors = 15 * DIRECTIONS[kinds] + torch.randn(61, 60, generator=generator)
        yield Example(windows, held(vectors, np.arange(61)))


def positives(count: int, seed: int = 0):
    for example in scenes(count, seed):
        signs = np.arange(len(CLASSES)) == example.windows.record.labels[:, None]
        yield all_vectors(example)[:1], signs.astype(np.int8)


@pytest.mark.parametrize("retrain_after", [100_000, 300])
def test_a_separable_stream_is_learnt(retrain_after):
    config = SVM(retrain_after=retrain_after)
    svms, figures = train_svms(positives(30), stream(30), CLASSES, 60, 15.0, config)
    for example in scenes(20, seed=1):  # others than it learnt from
        scores = svms(all_vectors(example))
        label = int(example.windows.record.labels[0])
        assert scores[0].argmax() == label
        assert scores[0, label] > 0
        assert scores[0, 1 - label] < 0
        assert (scores[1:] < 0).all()
    assert figures["duality_gap"] <= config.tolerance
    assert (figures["fits"] > 1) == (retrain_after == 300)
    assert figures["negatives"].keys() == set(CLASSES)
    assert all(count > 0 for count in figures["negatives"].values())


def test_without_a_fit_on_the_way_all_negatives_are_trained_on():
    """Then mining is no more than a collection, and the result the fit of everything at once."""
    config = SVM(retrain_after=100_000, duplicate_iou=1.0)
    svms, figures = train_svms(positives(10), stream(10), CLASSES, 60, 15.0, config)
    vectors, signs = [], []
    for example in scenes(10):
        own = int(example.windows.record.labels[0])
        vectors += [all_vectors(example)[:1], all_vectors(example)]
        everything = -np.ones((62, 2), np.int8)
        everything[0] = np.arange(2) == own  # as a positive, to its class alone
        everything[1, own] = 0  # as a window, to the other class alone
        signs.append(everything)
    objective = Hinge(config.C, config.bias, config.positive_weight, config.norm / 15.0)
    whole = fit_svms(torch.cat(vectors).half(), np.concatenate(signs), objective, config.tolerance)
    assert figures["fits"] == 1
    assert figures["examples"] == 10 * 62
    for example in scenes(3, seed=5):
        given = all_vectors(example)
        torch.testing.assert_close(svms(given), whole.svms(given), atol=0.02, rtol=0)


def test_a_pass_with_fits_finds_about_what_all_negatives_teach():
    exhaustive, _ = train_svms(positives(30), stream(30), CLASSES, 60, 15.0, SVM(retrain_after=100_000))
    mining_svms, figures = train_svms(positives(30), stream(30), CLASSES, 60, 15.0, SVM(retrain_after=200))
    assert figures["examples"] < 500  # of 1856: easy ones were left out or forgotten
    for example in scenes(5, seed=3):
        given = all_vectors(example)
        difference = (mining_svms(given) - exhaustive(given)).abs()
        assert difference.mean() < 0.1


@pytest.mark.parametrize("capacity", [70, 150])
def test_with_little_room_it_keeps_to_it_says_so_and_learns_about_the_same(monkeypatch, caplog, capacity):
    sizes = []

    class Small(ExamplePool):
        def __init__(self, dimension: int, classes: int, _capacity: int) -> None:
            super().__init__(dimension, classes, capacity)

        def add(self, vectors, signs, fold=0, image=-1) -> None:
            super().add(vectors, signs, fold, image)
            sizes.append(self.size)

    exhaustive, _ = train_svms(positives(30), stream(30), CLASSES, 60, 15.0, SVM(retrain_after=100_000))
    monkeypatch.setattr(mining, "ExamplePool", Small)
    svms, figures = train_svms(positives(30), stream(30), CLASSES, 60, 15.0, SVM(retrain_after=100_000))
    assert max(sizes) == capacity  # so it was full
    assert caplog.text.count("svm.memory_mb = 896 is full after") == 1
    assert figures["fits"] > 1
    for example in scenes(5, seed=3):
        given = all_vectors(example)
        difference = (svms(given) - exhaustive(given)).abs()
        assert difference.mean() < 0.3


def test_positives_that_do_not_fit_are_named_with_the_setting_and_what_they_need():
    vectors, signs = torch.zeros(3, 300_000), np.eye(3, 2, dtype=np.int8)  # 0.6 MB each in half precision
    images = [(vectors, signs)] * 4
    with pytest.raises(UserError, match=r"svm\.memory_mb = 2: .* take 7 MiB, and negatives"):
        train_svms(images, share([]), CLASSES, 300_000, 1.0, SVM(memory_mb=2))
    train_svms(images, share([]), CLASSES, 300_000, 1.0, SVM(memory_mb=7))


def test_the_result_does_not_depend_on_the_size_of_the_features():
    """They are scaled to the norm of the settings, and the SVMs back again."""
    svms, _ = train_svms(positives(10), stream(10), CLASSES, 60, 15.0, SVM(tolerance=1e-6))
    larger = [(32 * vectors, signs) for vectors, signs in positives(10)]
    many = [replace(e, vectors=e.vectors.through(lambda vectors: 32 * vectors)) for e in scenes(10)]
    other, _ = train_svms(larger, share(many), CLASSES, 60, 32 * 15.0, SVM(tolerance=1e-6))
    torch.testing.assert_close(32 * other.weight, svms.weight, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(other.bias, svms.bias, atol=1e-2, rtol=1e-2)


def test_positives_that_share_a_vector_count_each():
    """As near an object, where many windows have the same cells."""
    config = SVM(tolerance=1e-6, retrain_after=100_000)
    shared = [(vectors, 5 * signs) for vectors, signs in positives(10)]
    apart = [(vectors.repeat(5, 1), signs.repeat(5, axis=0)) for vectors, signs in positives(10)]
    one, figures = train_svms(shared, stream(10), CLASSES, 60, 15.0, config)
    five, of_five = train_svms(apart, stream(10), CLASSES, 60, 15.0, config)
    single, _ = train_svms(positives(10), stream(10), CLASSES, 60, 15.0, config)
    assert of_five["examples"] - figures["examples"] == 4 * 10
    assert figures["negatives"] == of_five["negatives"]
    torch.testing.assert_close(one.weight, five.weight, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(one.bias, five.bias, atol=1e-2, rtol=1e-2)
    assert (one.weight - single.weight).abs().max() > 10 * (one.weight - five.weight).abs().max()


def test_two_trainings_give_the_same_bits():
    def train() -> LinearSVMs:
        return train_svms(positives(15), stream(15), CLASSES, 60, 15.0, SVM(retrain_after=200))[0]

    one, two = train(), train()
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


@pytest.mark.parametrize("settings", [SVM(retrain_after=200), SVM(retrain_after=100_000)])
def test_who_goes_on_from_any_image_gets_the_same_bits(settings, in_ranks):
    """Through arrays without any vector, as a file has them; by any number of processes."""
    states: list[dict[str, np.ndarray]] = []
    pools: list[torch.Tensor] = []

    def remember(state: Mining) -> None:
        states.append({name: array.copy() for name, array in state.arrays().items()})
        pools.append(state.pool.vectors.clone())

    images = list(scenes(12))
    whole, figures = train_svms(positives(12), share(images), CLASSES, 60, 15.0, settings, None, remember)
    assert len(states) == 12
    for done in (1, 5, 9, 12):

        def go_on(_: int):
            own = {name: array.copy() for name, array in states[done - 1].items()}  # noqa: B023
            state = Mining.of(own, 60, len(CLASSES), settings)
            mined = state.mined()
            state.pool.vectors.fill_(torch.nan)
            state.remake(positives(12), share([images[index] for index in mined]))
            restored = state.pool.vectors.clone()
            rest = share(images[state.images :])
            svms, again = train_svms(iter(()), rest, CLASSES, 60, 15.0, settings, state)
            return state.images, restored.tolist(), svms.weight.tolist(), svms.bias.tolist(), again

        for ranks in (1, 3):
            for last, restored, weight, bias, again in in_ranks(ranks, go_on):
                assert last == 12
                assert restored == pools[done - 1].tolist()
                assert (weight, bias) == (whole.weight.tolist(), whole.bias.tolist())
                assert again == figures
    assert (figures["fits"] > 1) == (settings.retrain_after == 200)


@pytest.mark.parametrize("capacity", [None, 90])
def test_several_processes_end_with_one_process_s_svms(monkeypatch, in_ranks, capacity):
    """To the bit, after the same pools: fits fall between images that were scored side by side."""
    if capacity is not None:
        monkeypatch.setattr(mining, "ExamplePool", lambda d, k, _: ExamplePool(d, k, capacity))
    config = SVM(retrain_after=15)

    def work(_: int):
        svms, figures = train_svms(positives(31), stream(31), CLASSES, 60, 15.0, config)
        return svms.weight.tolist(), svms.bias.tolist(), figures

    (alone,) = in_ranks(1, work)
    assert alone[2]["fits"] > 3
    for count in (2, 3, 5):  # 3 and 5: processes without a class
        assert in_ranks(count, work) == [alone] * count


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("signs", np.zeros((3, 2), np.int8)),
        ("signs", None),
        ("origins", np.zeros((3, 2))),
        ("origins", np.array([[-1, 0], [-1, 1], [0, 0]])),
        ("origins", np.array([[-2, 0], [-1, 1], [-1, 0]])),
        ("offers", np.array([2])),
        ("offered", np.zeros((2, 2), np.int64)),
        ("weight", np.zeros(60, np.float32)),
        ("counts", np.array(1)),
        ("alpha", None),
    ],
)
def test_a_state_whose_parts_do_not_fit_together_is_refused(name, wrong):
    state = Mining.begin(60, 3, SVM())
    state.pool.add(torch.ones(3, 60), np.eye(3, dtype=np.int8))
    arrays = state.arrays()
    assert Mining.of(arrays, 60, 3, SVM()).pool.size == 3
    arrays = {key: array for key, array in arrays.items() if key != name}
    with pytest.raises(ValueError, match=name):
        Mining.of(arrays if wrong is None else {**arrays, name: wrong}, 60, 3, SVM())


def test_images_that_hold_no_negatives_do_no_harm():
    svms, figures = train_svms(positives(10), share([]), CLASSES, 60, 15.0, SVM(C=1.0))
    assert figures["negatives"] == {"kangaroo": 0, "raccoon": 0}
    for vectors, signs in positives(10):
        assert svms(vectors)[0, signs[0] > 0] > 0.9
