"""Training of the box regressor: which windows it sees, that it learns to move them, and bad cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spp_det.boxes import as_boxes, encode_deltas, iou
from spp_det.config.settings import BoxRegression
from spp_det.data.records import Record
from spp_det.errors import UserError
from spp_det.model.bbox import BoxRegressor, fit_ridge
from spp_det.runtime.sharing import share
from spp_det.training import regression
from spp_det.training.folds import Folds
from spp_det.training.regression import mean_vector_norm, train_regressors
from spp_det.training.windows import LabelledWindows

CLASSES = ("kangaroo", "raccoon", "wombat")
DIMENSION = 30
MIXING = np.random.default_rng(9).standard_normal((4, DIMENSION))


def image(seed: int, labels=(0, 1), difficult=(), jittered: int = 20) -> LabelledWindows:
    """Objects apart from each other, windows jittered around each, and windows on nothing."""
    rng = np.random.default_rng(seed)
    count = len(labels)
    corner = np.stack([np.arange(count) * 200 + 50, np.full(count, 50)], axis=1) + rng.uniform(
        -9, 9, (count, 2)
    )
    objects = np.concatenate([corner, corner + rng.uniform(40, 100, (count, 2))], axis=1)
    size = np.tile(objects[:, 2:] - objects[:, :2], 2)
    near = [objects + 0.2 * rng.uniform(-1, 1, objects.shape) * size for _ in range(jittered)]
    far = as_boxes([[x, 300, x + 50, 360] for x in range(0, 400, 60)])
    record = Record(
        image_id=str(seed),
        path=Path("a.jpg"),
        boxes=as_boxes(objects),
        labels=np.array(labels, np.int64),
        difficult=np.isin(np.arange(count), difficult),
        crowd=np.zeros(count, np.bool_),
    )
    return LabelledWindows.of(record, np.concatenate([as_boxes(box) for box in near] + [far]))


class Vectors:
    """Vectors in which a window's true deltas can be read, and a note of the windows asked for."""

    def __init__(self, images: list[LabelledWindows], scale: float = 1.0) -> None:
        self.images = images
        self.scale = scale
        self.asked: list[tuple[int, int]] = []

    def __call__(self, chosen):
        """Of images and boxes in each, one after another."""
        return (self.of_boxes(index, boxes) for index, boxes in chosen)

    def of_boxes(self, index: int, boxes: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """A vector a box, listed backwards."""
        same = (self.images[index].boxes[None] == boxes[:, None]).all(axis=2)
        self.asked += [(index, int(row.argmax())) for row in same if row.any()]
        objects = self.images[index].record.boxes
        deltas = encode_deltas(boxes, objects[iou(boxes, objects).argmax(axis=1)])
        vectors = torch.from_numpy(self.scale * (deltas[::-1] @ MIXING + 1)).float()
        return vectors, np.arange(len(boxes))[::-1].copy()

    def of_each(self, index: int, windows: np.ndarray) -> torch.Tensor:
        vectors, vector_of = self.of_boxes(index, self.images[index].boxes[windows])
        return vectors[torch.from_numpy(vector_of)]


def train(images, vectors=None, **options) -> BoxRegressor:
    """The only one, or the first."""
    return train_all(images, vectors, **options)[0]


def train_all(images, vectors=None, seed: int = 0, mean_norm: float = 20.0, **settings):
    return train_regressors(
        images,
        vectors or Vectors(images),
        CLASSES,
        DIMENSION,
        mean_norm,
        BoxRegression.model_validate(settings),
        np.random.default_rng(seed),
    )[0]


def refine(regressor, images, index: int):
    """The windows near objects of an image, those objects, and where the regressor puts the windows."""
    windows, objects = images[index].near(0.5)
    boxes, labels = images[index].boxes, images[index].record.labels
    refined = regressor(Vectors(images).of_each(index, windows), labels[objects], boxes[windows])
    return boxes[windows], boxes[objects], refined


def test_windows_move_onto_their_objects():
    regressor = train([image(i) for i in range(6)], ridge=0.01)
    others = [image(i) for i in range(50, 54)]
    for index in range(4):
        before, objects, after = refine(regressor, others, index)
        assert np.diagonal(iou(before, objects)).min() < 0.75
        assert np.diagonal(iou(after, objects)).min() > 0.95


@pytest.mark.parametrize("count", [2, 5])  # 5: processes without a class
def test_several_processes_fit_what_one_does(in_ranks, count):
    images = [image(i, labels=(0, 1, 2)[: 1 + i]) for i in range(3)]
    """Both passes, each with a class that has no example left to fit."""

    def work(_: int) -> tuple[BoxRegressor, ...]:
        return train_all(images, ridge=50.0, max_windows=30, passes=2)

    (alone,) = in_ranks(1, work)
    for found in in_ranks(count, work):
        for regressor, same in zip(found, alone, strict=True):
            assert torch.equal(regressor.weight, same.weight)
            assert torch.equal(regressor.bias, same.bias)


def test_several_processes_agree_on_the_mean_norm(in_ranks):
    vectors = [torch.randn(5, 30, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    owners = [1, 0, 0, 1, 1]

    def work(_: int) -> float:
        return mean_vector_norm(share(vectors, owners))

    assert in_ranks(2, work) == [mean_vector_norm(share(vectors))] * 2


def test_it_is_the_ridge_on_scaled_half_precision_vectors():
    images = [image(i) for i in range(3)]
    regressor = train(images, mean_norm=4.0, norm=20.0, ridge=50.0)
    vectors, targets = [], []
    for index, windows in enumerate(images):
        near, objects = windows.near(0.5)
        mine = windows.record.labels[objects] == 1
        vectors.append(Vectors(images).of_each(index, near[mine]).half().float() * 5)
        targets.append(encode_deltas(windows.boxes[near[mine]], windows.record.boxes[objects[mine]]))
    fitted = fit_ridge(torch.cat(vectors), np.concatenate(targets), 50.0)
    torch.testing.assert_close(regressor.weight[1], 5 * fitted.weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(regressor.bias[1], fitted.bias, atol=1e-4, rtol=1e-3)


def test_the_result_does_not_depend_on_the_size_of_the_features():
    images = [image(i) for i in range(3)]
    one = train(images, Vectors(images), mean_norm=7.0, ridge=50.0)
    other = train(images, Vectors(images, scale=8.0), mean_norm=56.0, ridge=50.0)
    torch.testing.assert_close(8 * other.weight, one.weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(other.bias, one.bias, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("min_iou", [0.4, 0.6, 0.8])
def test_every_example_overlaps_an_object_that_is_not_difficult(min_iou):
    images = [image(i, labels=(0, 1, 2, 1), difficult=[1]) for i in range(4)]
    vectors = Vectors(images)
    train(images, vectors, min_iou=min_iou)
    wanted = set()
    for index, windows in enumerate(images):
        overlaps = windows.overlaps
        for window, best in enumerate(overlaps.argmax(axis=1)):
            if overlaps[window, best] >= min_iou and best != 1:
                wanted.add((index, window))
    assert set(vectors.asked) == wanted
    assert len(vectors.asked) == len(wanted)


@pytest.mark.parametrize("most", [1, 7, 41])
def test_a_class_has_at_most_so_many_examples(most):
    images = [image(i, labels=(0, 1, 1)) for i in range(3)]
    vectors = Vectors(images)
    train(images, vectors, max_windows=most)
    counts = np.zeros(3, int)
    available = np.zeros(3, int)
    for index, window in vectors.asked:
        counts[images[index].record.labels[images[index].overlaps[window].argmax()]] += 1
    for windows in images:
        np.add.at(available, windows.record.labels[windows.near(0.5)[1]], 1)
    assert counts.tolist() == np.minimum(available, most).tolist()
    assert len(set(vectors.asked)) == len(vectors.asked)


def test_the_draw_is_that_of_the_generator():
    images = [image(i) for i in range(3)]
    runs = []
    for seed in (1, 1, 2):
        vectors = Vectors(images)
        regressor = train(images, vectors, seed=seed, max_windows=10)
        runs.append((vectors.asked, regressor))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert torch.equal(runs[0][1].weight, runs[1][1].weight)
    assert torch.equal(runs[0][1].bias, runs[1][1].bias)


def test_with_room_for_all_the_generator_does_not_matter():
    images = [image(i) for i in range(3)]
    assert torch.equal(train(images, seed=1).weight, train(images, seed=2).weight)


def test_a_second_regressor_learns_from_windows_as_the_first_without_their_image_moves_them():
    images = [image(i, labels=(1,)) for i in range(4)]
    asked = []

    class Noting(Vectors):
        def of_boxes(self, index, boxes):
            asked.append((index, boxes))
            return super().of_boxes(index, boxes)

    first, second = train_all(images, Noting(images), passes=2, ridge=2000.0)
    torch.testing.assert_close(first.weight, train(images, ridge=2000.0).weight, atol=1e-5, rtol=1e-3)
    assert [index for index, _ in asked] == [0, 1, 2, 3] * 2
    for (index, before), (_, after) in zip(asked[:4], asked[4:], strict=True):
        others = [other for i, other in enumerate(images) if i != index]
        alone = train(others, ridge=2000.0)
        moved = alone(
            Vectors(images).of_boxes(index, before)[0].flip(0), np.ones(len(before), np.int64), before
        )
        objects = images[index].record.boxes
        kept = moved[iou(moved, objects)[:, 0] >= 0.5]
        np.testing.assert_allclose(after, kept, atol=3.0)  # means and whitening are those of all images
        assert iou(after, objects).mean() > iou(before, objects).mean()
    assert not torch.allclose(first.weight, second.weight)


@pytest.mark.parametrize("images", [[], [image(0, labels=())], [image(0, labels=(0, 1), difficult=[1])]])
def test_classes_without_examples_leave_their_boxes(images):
    regressor = train(images)
    boxes = as_boxes([[10, 20, 50, 60]])
    seen = {0} if images and len(images[0].record) else set()
    for label in {0, 1, 2} - seen:
        assert not regressor.weight[label].any()
        assert not regressor.bias[label].any()
        refined = regressor(torch.randn(1, DIMENSION), np.array([label]), boxes)
        np.testing.assert_allclose(refined, boxes, atol=1e-4)


def test_objects_of_one_pixel_give_finite_maps():
    record = Record(
        image_id="a",
        path=Path("a.jpg"),
        boxes=as_boxes([[5, 5, 6, 6], [0, 0, 1, 4000], [100, 100, 101, 101.5]]),
        labels=np.array([0, 0, 1]),
        difficult=np.zeros(3, np.bool_),
        crowd=np.zeros(3, np.bool_),
    )
    proposals = as_boxes(
        [[5, 5, 6, 6], [5, 5, 7, 6], [0, 0, 1, 2000], [0, 0, 3000, 4000], [100, 100, 101, 101]]
    )
    images = [LabelledWindows.of(record, proposals)]
    regressor = train(images, ridge=1e-3)
    assert regressor.weight.isfinite().all()
    assert regressor.bias.isfinite().all()
    _, _, refined = refine(regressor, images, 0)
    assert np.isfinite(refined).all()


def test_the_mean_norm_is_over_all_vectors_not_over_images():
    images = [
        torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]),
        torch.zeros(0, 2),
        torch.tensor([[6.0, 8.0]]),
    ]
    assert mean_vector_norm(share(images)) == (5 + 1 + 0 + 10) / 4


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_features_that_nothing_can_be_learnt_from_are_refused(value):
    with pytest.raises(UserError, match=r"backbone.weights.* norm (0|inf|nan)"):
        mean_vector_norm(share([torch.full((3, 2), value)]))


class Noted(dict):
    """What was fitted, and in which order."""

    def __init__(self) -> None:
        self.fits: list[tuple[int, int]] = []

    def __setitem__(self, which, fitted) -> None:
        self.fits.append(which)
        super().__setitem__(which, fitted)


def test_a_class_that_was_fitted_before_is_not_fitted_again(in_ranks):
    """And draws its examples all the same, so that the classes after it get theirs. By however many processes
    it goes on."""
    images = [image(seed, labels=(0, 1, 2)) for seed in range(4)]

    def fitted(kept: Noted) -> tuple[BoxRegressor, ...]:
        return train_regressors(
            *(images, Vectors(images), CLASSES, DIMENSION, 20.0),
            BoxRegression(max_windows=15, passes=2),
            np.random.default_rng(3),
            kept,
        )[0]

    kept = [Noted(), Noted()]
    whole = fitted(kept[0])
    assert kept[0].fits == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    kept[1].update(kept[0])
    for each in kept:
        del each[1, 1], each[2, 0]
        each.fits.clear()
    for again in in_ranks(2, lambda rank: fitted(kept[rank])):
        for one, other in zip(whole, again, strict=True):
            assert torch.equal(one.weight, other.weight)
            assert torch.equal(one.bias, other.bias)
    assert kept[0].fits == kept[1].fits == [(1, 1), (2, 0)]


def test_each_fold_has_regressors_of_its_own_and_the_whole_is_as_without_folds():
    images = [image(seed, labels=(0, 1, 2)) for seed in range(6)]
    folds = Folds(np.array([0, 1, 0, 1, 0, 1]), 2)
    learnt = (images, Vectors(images), CLASSES, DIMENSION, 20.0, BoxRegression(passes=2))
    whole, *without = train_regressors(*learnt, np.random.default_rng(0), folds=folds)
    plain = train_regressors(*learnt, np.random.default_rng(0))
    assert (len(plain), len(without)) == (1, 2)
    for one, other in zip(whole, plain[0], strict=True):
        torch.testing.assert_close(one.weight, other.weight)
    for number in range(2):  # passes
        first, second = (each[number].weight for each in without)
        assert first.shape == second.shape == whole[number].weight.shape
        assert (first != second).flatten(1).any(dim=1).all()  # of every class


@pytest.mark.parametrize("most", [2**30, 5000, 0])
def test_another_ridge_reads_the_vectors_and_products_of_the_first_pass(most, monkeypatch):
    """To the bits of a regression that makes its own; of as many classes as the memory holds."""
    monkeypatch.setattr(regression, "MOST_BYTES", most)
    images = [image(seed, labels=(0, 1, 2)) for seed in range(6)]
    folds = Folds(np.array([0, 1, 0, 1, 0, 1]), 2)

    def fitted(ridge: float, pooled: dict | None = None, vectors: Vectors | None = None):
        settings = BoxRegression(passes=2, ridge=ridge, max_windows=15)
        learnt = (images, vectors or Vectors(images), CLASSES, DIMENSION, 20.0, settings)
        return train_regressors(*learnt, np.random.default_rng(0), folds=folds, pooled_first=pooled)

    pooled: dict = {}
    fitted(2000.0, pooled)
    size = sum(each.bytes for each in pooled.values())
    assert size <= most
    assert len(pooled) == {2**30: 3, 5000: 1, 0: 0}[most]
    asked = Vectors(images)
    found = fitted(5.0, pooled, asked)
    # Windows are asked for in the first pass alone; moved boxes are no windows.
    assert len(asked.asked) == 15 * (3 - len(pooled))
    for ours, theirs in zip(found, fitted(5.0), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.weight, other.weight)
            assert torch.equal(one.bias, other.bias)
