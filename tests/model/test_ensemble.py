"""Model combination: the union of the models' windows through one NMS, and classes matched by name."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from spp_det import Detector, Ensemble
from spp_det.boxes import iou
from spp_det.config.network import FC
from spp_det.config.settings import Proposals
from spp_det.detections.types import DetectedImage
from spp_det.errors import UserError
from spp_det.inference import detect_files
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import own_windows
from spp_det.model.ensemble import load_detector
from spp_det.model.svm import LinearSVMs
from spp_det.proposals import selective
from spp_det.proposals.source import WindowSource
from spp_det.runtime.threads import on_one_core

FC6 = FC(layer="fc6", weights="random", width=24)


def equal(a, b) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("boxes", "labels", "scores"))


def other_model(detector: Detector, seed: int = 1, order: tuple[int, ...] = (0, 1, 2)) -> Detector:
    """Other SVMs on the same features, the classes in another order."""
    generator = torch.Generator().manual_seed(seed)
    weight = detector.scorer.weight[list(order)]
    noise = weight.std() * torch.randn(weight.shape, generator=generator)
    svms = LinearSVMs(weight + noise, detector.scorer.bias[list(order)])
    regressors = [
        BoxRegressor(old.weight[list(order)] * 2, old.bias[list(order)]) for old in detector.regressors
    ]
    classes = [detector.classes[i] for i in order]
    return Detector(classes, detector.features, detector.head, svms, regressors, detector.settings)


def searching(detector: Detector, **proposals: object) -> Detector:
    """The same model, which looks for windows in another way."""
    settings = detector.settings.model_copy(update={"proposals": Proposals.model_validate(proposals)})
    parts = (detector.features, detector.head, detector.scorer, detector.regressors)
    return Detector(detector.classes, *parts, settings)


@hypothesis_settings(max_examples=12)
@given(
    copies=st.integers(1, 3),
    scales=st.sampled_from([(128,), (80, 160)]),
    fc=st.sampled_from([FC(), FC6]),
    passes=st.integers(0, 2),
    nms=st.sampled_from([0.0, 0.3, 0.6]),
    limit=st.sampled_from([1, 5, 100]),
    threshold=st.sampled_from([-1.5, 0.0, 1e6]),
    which=st.integers(0, 2),
)
def test_a_model_combined_with_itself_detects_what_it_detects_alone(
    build_detector, images, copies, scales, fc, passes, nms, limit, threshold, which
):
    options = {"nms": nms, "max_per_image": limit, "score_threshold": threshold}
    detector = build_detector(passes=passes, scales=scales, fc=fc, **options)
    windows = own_windows(detector, images[which])[::5]
    alone = detector.detect(images[which], windows)
    assert equal(Ensemble([detector] * copies).detect(images[which], windows), alone)


def test_images_of_a_batch_are_detected_as_each_alone(build_detector, images):
    detector = build_detector(passes=2, scales=(80, 160))
    windows = [own_windows(detector, image)[::5] for image in images]
    for model in (detector, Ensemble([detector, other_model(detector)])):
        found = model.detect_batch(images, windows)
        assert len(found) == len(images) > 1
        for together, image, mine in zip(found, images, windows, strict=True):
            alone = model.detect(image, mine)
            assert len(alone["scores"]) > 0
            np.testing.assert_array_equal(together["labels"], alone["labels"])
            np.testing.assert_allclose(together["boxes"], alone["boxes"], atol=0.01)
            np.testing.assert_allclose(together["scores"], alone["scores"], atol=1e-4)
        assert model.detect_batch([], []) == []


def slow_union(models, image, windows):
    """Every window of every model, the surest first; then each goes to the regressor of its own model."""
    classes, settings, rows = models[0].classes, models[0].settings.detection, []
    for model in models:
        vectors, scores = model.score(model.features.maps(image), windows)
        rows += [
            (float(scores[i, model.classes.index(name)]), name, i, model, vectors)
            for name in classes
            for i in range(len(windows))
        ]
    found = []
    for name in classes:
        kept = []
        for row in sorted((row for row in rows if row[1] == name), key=lambda row: -row[0]):
            overlaps = iou(windows[[row[2]]], windows[[other[2] for other in kept]])
            if (
                row[0] > settings.score_threshold
                and not (overlaps > settings.nms).any()
                and len(kept) < settings.max_per_image
            ):
                kept.append(row)
        found += kept
    found.sort(key=lambda row: -row[0])
    boxes = []
    for _, name, i, model, vectors in found:
        box, label = windows[[i]], np.array([model.classes.index(name)])
        for regressor in model.regressors:
            box = regressor(vectors.of_windows(np.array([i])), label, box)
        boxes.append(box[0])
    limit = np.array([image.shape[1], image.shape[0]] * 2)
    return {
        "boxes": np.clip(np.array(boxes), 0, limit),
        "labels": np.array([classes.index(row[1]) for row in found]),
        "scores": np.array([row[0] for row in found]),
        "owners": {id(row[3]) for row in found},
    }


@pytest.mark.parametrize("limit", [4, 100])
def test_detections_are_those_of_the_slow_version(build_detector, images, limit):
    first = build_detector(score_threshold=-0.5, nms=0.4, max_per_image=limit)
    models = [first, other_model(first, order=(2, 0, 1)), build_detector(passes=0, fc=FC6)]
    windows = own_windows(first, images[0])[::3]
    found, expected = Ensemble(models).detect(images[0], windows), slow_union(models, images[0], windows)
    assert len(expected["owners"]) > 1  # or the order of classes and the regressors are not put to the test
    assert found["labels"].tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)


def test_the_best_detection_of_each_class_is_the_surest_models(detector, images):
    models = [detector, other_model(detector, 1), other_model(detector, 2, (1, 2, 0))]
    found = Ensemble(models)(images[0])
    for label, name in enumerate(detector.classes):
        best = max(
            m(images[0])["scores"][m(images[0])["labels"] == m.classes.index(name)].max() for m in models
        )
        assert found["scores"][found["labels"] == label].max() == best


def test_the_order_of_classes_is_a_matter_of_names(detector, images):
    shuffled = other_model(detector, order=(1, 2, 0))
    shuffled.scorer = LinearSVMs(detector.scorer.weight[[1, 2, 0]], detector.scorer.bias[[1, 2, 0]])
    (regressor,) = detector.regressors
    shuffled.regressors = (BoxRegressor(regressor.weight[[1, 2, 0]], regressor.bias[[1, 2, 0]]),)
    for pair in ([detector, shuffled], [shuffled, detector]):
        ensemble, alone = Ensemble(pair), pair[0](images[0])
        assert ensemble.classes == pair[0].classes
        found = ensemble(images[0])
        assert found["labels"].tolist() == alone["labels"].tolist()
        np.testing.assert_allclose(found["scores"], alone["scores"], atol=1e-5)
        np.testing.assert_allclose(found["boxes"], alone["boxes"], atol=1e-3)


@pytest.mark.parametrize(
    ("classes", "parts"),
    [
        (("kangaroo", "raccoon", "koala"), ("not 'wombat'", "also 'koala'")),
        (("kangaroo", "raccoon"), ("not 'wombat'",)),
        (("kangaroo", "raccoon", "wombat", "emu"), ("also 'emu'",)),
    ],
)
def test_models_of_different_classes_are_refused_in_one_line(detector, classes, parts):
    head = (detector.features, None, detector.scorer, (), detector.settings)
    with pytest.raises(UserError, match="same classes: model 3") as caught:
        Ensemble([detector, detector, Detector(classes, *head)])
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_no_models_are_no_ensemble():
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


@pytest.fixture
def searches(monkeypatch):
    """The mode and the side of every selective search."""
    noted, search = [], selective.selective_search

    def noting(image, mode, max_side, threads, engine):
        noted.append((mode, max_side))
        return search(image, mode, max_side, threads, engine)

    monkeypatch.setattr(selective, "selective_search", noting)
    return noted


def test_an_image_is_searched_once_for_models_that_search_alike(detector, images, searches):
    Ensemble([detector, other_model(detector), detector])(images[0])
    assert searches == [("fast", 400)]


def test_models_that_search_differently_share_all_windows(detector, images, searches):
    ensemble = Ensemble([detector, searching(detector, mode="paper"), other_model(detector)])
    windows = own_windows(ensemble, images[0])
    assert searches == [("fast", 400), ("paper", None)]
    apart = [own_windows(model, images[0]).tolist() for model in ensemble.models[:2]]
    assert windows.tolist() == sorted({tuple(row): row for rows in apart for row in rows}.values())
    assert windows.dtype == np.float32
    assert equal(ensemble(images[0]), ensemble.detect(images[0], windows))


def test_no_windows_are_no_detections(detector, images):
    found = Ensemble([detector, other_model(detector)]).detect(images[0], np.zeros((0, 4), np.float32))
    assert {name: value.shape for name, value in found.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
    }


def test_it_is_called_like_a_detector(detector, images):
    ensemble = Ensemble([detector, other_model(detector)])
    several = ensemble(images[:2])
    assert isinstance(several, list)
    assert all(equal(one, ensemble(image)) for one, image in zip(several, images, strict=False))
    assert ensemble.settings == detector.settings
    assert ensemble.device == detector.device


def test_model_files_are_loaded_and_detect_in_files(detector, images, tmp_path):
    models, paths = [detector, other_model(detector, order=(2, 1, 0))], []
    for index, model in enumerate(models):
        paths.append(tmp_path / f"{index}.safetensors")
        model.save(paths[-1])
    assert isinstance(load_detector(paths[:1], precision="float32"), Detector)
    loaded = load_detector(paths, precision="float32")
    assert isinstance(loaded, Ensemble)
    files = [tmp_path / f"{index}.png" for index in range(2)]
    for path, image in zip(files, images, strict=False):
        Image.fromarray(image).save(path)
    results = detect_files(loaded, files, 2, WindowSource.of_model(loaded.searches, "no search"))
    for result, image in zip(results, images, strict=False):
        assert isinstance(result, DetectedImage)
        assert equal(result.detections, on_one_core(partial(Ensemble(models), image)))
