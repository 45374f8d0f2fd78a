"""The detector: the forms of a call, what every result obeys, and a slow version of all its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spp_det import Detector
from spp_det.boxes import as_boxes, iou
from spp_det.config.network import FC
from spp_det.config.settings import Proposals
from spp_det.errors import UserError
from spp_det.proposals import selective_search

HEADS = {
    "fc6": FC(layer="fc6", weights="random", width=24),
    "fc7": FC(layer="fc7", weights="random", width=24),
    "compressed fc6": FC(layer="fc6", weights="random", width=24, rank=(6, 4)),
    "compressed fc7": FC(layer="fc7", weights="random", width=24, rank=(6, 4)),
}


@pytest.fixture(params=[FC(), *HEADS.values()], ids=["pool5", *HEADS])
def fc(request) -> FC:
    """Between the pyramid and the SVMs."""
    return request.param


def equal(a, b) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("boxes", "labels", "scores"))


def check(found, width, height, classes=3):
    """What every result obeys, whatever the model."""
    assert set(found) == {"boxes", "labels", "scores"}
    boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
    assert (boxes.dtype, labels.dtype, scores.dtype) == (np.float32, np.int64, np.float32)
    assert boxes.shape == (len(scores), 4)
    assert labels.shape == scores.shape == (len(scores),)
    assert np.isfinite(boxes).all()
    assert np.isfinite(scores).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= [width, height, width, height]).all()
    assert (np.diff(scores) <= 0).all()
    assert set(labels) <= set(range(classes))


# ---------------------------------------------------------------- how it is called


def test_an_array_a_pil_image_and_a_file_give_the_same_detections(detector, images, tmp_path):
    image, path = images[0], tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    expected = detector(image)
    assert len(expected["scores"]) > 10
    for same in (Image.fromarray(image), Image.open(path), path, str(path)):
        assert equal(detector(same), expected)


def test_a_list_gives_a_list_in_its_order(detector, images, tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(images[1]).save(path)
    mixed = [images[2], path, Image.fromarray(images[0])]
    for several in (mixed, tuple(mixed)):
        found = detector(several)
        assert isinstance(found, list)
        for one, index in zip(found, (2, 1, 0), strict=True):
            assert equal(one, detector(images[index]))
    assert detector([]) == []
    assert isinstance(detector(images[:1]), list)


def test_a_gray_image_is_the_same_as_its_three_equal_channels(detector, images):
    gray = images[0][:, :, 1].copy()
    assert equal(detector(gray), detector(np.dstack([gray] * 3)))
    assert equal(detector(Image.fromarray(gray)), detector(gray))


def test_two_calls_give_the_same_bits(detector, images):
    assert equal(detector(images[0]), detector(images[0]))


def test_any_number_of_threads_gives_the_same_boxes(detector, images):
    before, expected = torch.get_num_threads(), detector(images[0])
    try:
        torch.set_num_threads(3 if before == 1 else 1)
        found = detector(images[0])
    finally:
        torch.set_num_threads(before)
    assert (found["labels"] == expected["labels"]).all()
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)


def test_the_arguments_are_left_as_they_were(detector, images):
    image = images[0].copy()
    windows = selective_search(image)
    copy = windows.copy()
    detector(image)
    detector.detect(image, windows)
    assert (image == images[0]).all()
    assert (windows == copy).all()


def test_an_image_that_cannot_be_changed_is_welcome(detector, images):
    image = images[0].copy()
    image.flags.writeable = False
    assert equal(detector(image), detector(images[0]))
    assert equal(detector(np.asfortranarray(images[0])), detector(images[0]))


@pytest.mark.parametrize(
    "wrong", [np.zeros((20, 20, 3)), np.zeros((2, 20, 20, 3), np.uint8), np.zeros((0, 5, 3), np.uint8)]
)
def test_an_array_that_is_no_image_is_refused(detector, wrong):
    with pytest.raises(ValueError, match="image"):
        detector(wrong)


def test_a_file_that_is_no_image_is_refused_by_name(detector, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    for wrong in (path, tmp_path / "absent.jpg"):
        with pytest.raises(UserError, match=wrong.name):
            detector(wrong)


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("scales", [(128,), (80, 160)])
def test_every_result_is_well_formed(build_detector, images, passes, scales, fc):
    detector = build_detector(passes=passes, scales=scales, fc=fc)
    for image in images:
        found = detector(image)
        check(found, image.shape[1], image.shape[0])
        assert len(found["scores"]) > 10


def by_hand(head, vector):
    """A ReLU behind every layer, but none between the two that a compressed layer is made of."""
    state = head.layers.state_dict()
    for name in head.layers:
        if f"{name}.0.weight" in state:
            vector = (
                state[f"{name}.1.weight"] @ (state[f"{name}.0.weight"] @ vector) + state[f"{name}.1.bias"]
            )
        else:
            vector = state[f"{name}.weight"] @ vector + state[f"{name}.bias"]
        vector = vector.clamp(min=0)
    return vector


def slow_detect(detector, image, windows):
    """Section 4.1 window by window: fc layers, score, threshold, greedy suppression, limit, regression of
    pool5, clip."""
    settings = detector.settings.detection
    maps = detector.features.maps(image)
    vectors = []
    for window in windows:
        vectors.append(detector.features.vectors(maps, window[None]).make(np.array([0]))[0])
    seen = vectors  # by the SVMs
    if detector.head is not None:
        seen = [by_hand(detector.head, vector) for vector in vectors]
    rows = []  # score, label, window
    logits = torch.stack([detector.scorer.weight @ vector + detector.scorer.bias for vector in seen]).double()
    scores = logits
    if detector.settings.scorer == "softmax":
        scores = logits.softmax(dim=1).logit()
    for label in range(len(detector.classes)):
        scored = [(float(score), i) for i, score in enumerate(scores[:, label])]
        kept = []
        for score, i in sorted(scored, key=lambda pair: -pair[0]):
            near = [j for j in kept if iou(windows[[i]], windows[[j]])[0, 0] > settings.nms]
            if score > settings.score_threshold and not near and len(kept) < settings.max_per_image:
                kept.append(i)
                rows.append((score, label, i))
    rows.sort(key=lambda row: -row[0])
    boxes = []
    for _, label, i in rows:
        weight, bias = detector.regressors[0].weight[label], detector.regressors[0].bias[label]
        dx, dy, dw, dh = (float(row @ vectors[i] + b) for row, b in zip(weight, bias, strict=True))
        x1, y1, x2, y2 = windows[i].tolist()
        w, h = x2 - x1, y2 - y1
        cx, cy, w, h = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
        limit = np.array([image.shape[1], image.shape[0]] * 2)
        boxes.append(np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, limit))
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    return {"boxes": np.array(boxes), "labels": labels, "scores": scores}


@pytest.mark.parametrize("scorer", ["svm", "softmax"])
@pytest.mark.parametrize("limit", [4, 100])
def test_detections_are_those_of_the_slow_version(build_detector, images, limit, fc, scorer):
    detector = build_detector(fc=fc, scorer=scorer, score_threshold=-0.5, nms=0.4, max_per_image=limit)
    windows = selective_search(images[0])[::3]
    found, expected = detector.detect(images[0], windows), slow_detect(detector, images[0], windows)
    assert found["labels"].tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)


def test_its_windows_are_those_of_selective_search(detector, images):
    search = detector.settings.proposals
    windows = selective_search(images[0], search.mode, search.max_side)
    assert equal(detector(images[0]), detector.detect(images[0], windows))


@pytest.mark.parametrize("mode", ["edgeboxes", "file"])
def test_a_model_of_windows_from_elsewhere_asks_for_them(build_detector, images, mode):
    detector = build_detector()
    windows = selective_search(images[0])
    expected = detector.detect(images[0], windows)
    detector.settings = detector.settings.model_copy(update={"proposals": Proposals(mode=mode)})
    assert equal(detector.detect(images[0], windows), expected)
    with pytest.raises(UserError, match=rf"proposals.mode is {mode}.*detector\.detect\(image, windows\)"):
        detector(images[0])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_no_two_boxes_of_a_class_overlap_by_more_than_the_threshold(build_detector, images, threshold):
    detector = build_detector(passes=0, nms=threshold)
    found = detector(images[0])
    overlaps = iou(found["boxes"], found["boxes"])
    np.fill_diagonal(overlaps, 0)
    same_class = found["labels"][:, None] == found["labels"][None]
    assert (overlaps[same_class] <= threshold).all()
    assert (overlaps[~same_class] > threshold).any()  # classes do not suppress each other


@pytest.mark.parametrize("limit", [1, 5])
def test_a_class_has_at_most_so_many_detections_and_these_are_its_best(build_detector, images, limit):
    unlimited, limited = build_detector()(images[0]), build_detector(max_per_image=limit)(images[0])
    for label in range(3):
        mine = unlimited["scores"][unlimited["labels"] == label]
        assert limited["scores"][limited["labels"] == label].tolist() == mine[:limit].tolist()


@pytest.mark.parametrize("most", [1, 6])
@pytest.mark.parametrize("passes", [1, 2])
def test_an_image_has_at_most_so_many_detections_and_these_are_its_best(build_detector, images, most, passes):
    everything = build_detector(passes=passes)(images[0])
    limited = build_detector(passes=passes, max_all_classes=most)(images[0])
    assert len(limited["scores"]) == most < len(everything["scores"])
    if passes == 1:  # where there are two, fewer boxes are looked at again
        assert limited["scores"].tolist() == everything["scores"][:most].tolist()


@pytest.mark.parametrize("threshold", [-1.5, 0.0, 1.0])
def test_detections_score_above_the_threshold(build_detector, images, threshold):
    found = build_detector(score_threshold=threshold)(images[0])
    assert len(found["scores"])
    assert (found["scores"] > threshold).all()


def test_nothing_above_the_threshold_is_no_detections(build_detector, images):
    found = build_detector(score_threshold=1e6)(images[0])
    check(found, 150, 110)
    assert found["boxes"].shape == (0, 4)


def test_without_a_regressor_the_boxes_are_windows(build_detector, images):
    windows = selective_search(images[0])
    found = build_detector(passes=0).detect(images[0], windows)
    rows = {tuple(row) for row in windows.tolist()}
    assert all(tuple(row) in rows for row in found["boxes"].tolist())


def test_the_regressor_moves_boxes_but_neither_scores_nor_labels(build_detector, images):
    windows = selective_search(images[0])
    plain = build_detector(passes=0).detect(images[0], windows)
    refined = build_detector(passes=1).detect(images[0], windows)
    assert (refined["scores"] == plain["scores"]).all()
    assert (refined["labels"] == plain["labels"]).all()
    assert not np.allclose(refined["boxes"], plain["boxes"])


# ---------------------------------------------------------------- images at the edge of sense


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2000), (2000, 3), (16, 16), (40, 200)])
@pytest.mark.parametrize("content", ["noise", "uniform"])
def test_extreme_images_give_a_result(detector, shape, content):
    image = np.full((*shape, 3), 77, np.uint8)
    if content == "noise":
        image = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    check(detector(image), shape[1], shape[0])


def test_no_windows_are_no_detections(detector, images):
    found = detector.detect(images[0], np.zeros((0, 4), np.float32))
    check(found, 150, 110)
    assert len(found["scores"]) == 0


def test_one_window_and_the_same_window_twice_are_one_detection_a_class(detector, images):
    windows = as_boxes([[20, 20, 90, 90]])
    once = detector.detect(images[0], windows)
    assert equal(detector.detect(images[0], np.repeat(windows, 2, axis=0)), once)
    assert len(once["scores"]) <= 3


# ---------------------------------------------------------------- kept on disk


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_a_loaded_detector_detects_the_same_to_the_bit(build_detector, images, tmp_path, passes):
    detector = build_detector(passes=passes, scales=(96, 128), levels=(4, 2))
    detector.save(tmp_path / "model.safetensors")
    # The one in memory computes in float32; "auto" would not on every machine.
    loaded = Detector.load(tmp_path / "model.safetensors", precision="float32")
    assert loaded.classes == detector.classes
    assert loaded.head is None
    assert len(loaded.regressors) == passes
    for image in images:
        assert equal(loaded(image), detector(image))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", HEADS)
def test_with_fc_layers_too_at_either_precision(build_detector, images, tmp_path, kind, precision):
    detector = build_detector(fc=HEADS[kind], precision=precision)
    detector.save(tmp_path / "model.safetensors")
    loaded = Detector.load(tmp_path / "model.safetensors", precision=precision)
    assert loaded.settings == detector.settings
    assert loaded.head.precision == loaded.features.backbone.precision == getattr(torch, precision)
    state, expected = loaded.head.layers.state_dict(), detector.head.layers.state_dict()
    assert list(state) == list(expected)
    for name, tensor in expected.items():  # whatever it computes in
        assert tensor.dtype == torch.float32
        assert torch.equal(state[name], tensor)
    assert loaded.scorer.weight.shape == (3, 24)
    assert loaded.regressors[0].weight.shape == (3, 4, loaded.features.dimension)
    for image in images:
        found = loaded(image)
        assert len(found["scores"]) > 10
        assert equal(found, detector(image))


def test_a_softmax_detector_comes_back_from_its_file(build_detector, images, tmp_path):
    detector = build_detector(fc=HEADS["fc7"], scorer="softmax")
    detector.save(tmp_path / "model.safetensors")
    loaded = Detector.load(tmp_path / "model.safetensors", precision="float32")
    assert loaded.settings == detector.settings
    assert loaded.scorer.weight.shape == (4, 24)  # the background's row too
    for image in images:
        found = loaded(image)
        assert len(found["scores"]) > 5
        assert equal(found, detector(image))


def test_a_scorer_that_the_settings_do_not_name_is_refused(build_detector):
    svm = build_detector()
    settings = svm.settings.model_copy(update={"scorer": "softmax"})
    with pytest.raises(ValueError, match="the settings say softmax, but the scorer is LinearSVMs"):
        Detector(svm.classes, svm.features, None, svm.scorer, (), settings)


def test_the_precision_of_a_detector_is_chosen_when_it_is_loaded(
    build_detector, images, tmp_path, monkeypatch
):
    build_detector(fc=HEADS["fc7"], precision="bfloat16").save(tmp_path / "rounded")
    build_detector(fc=HEADS["fc7"], precision="float32").save(tmp_path / "exact")
    assert (tmp_path / "rounded").read_bytes() == (tmp_path / "exact").read_bytes()
    windows = selective_search(images[0])
    exact, rounded = (
        Detector.load(tmp_path / "exact", precision=p).detect(images[0], windows)
        for p in ("float32", "bfloat16")
    )
    assert not equal(exact, rounded)
    np.testing.assert_allclose(rounded["scores"][:10], exact["scores"][:10], atol=0.2)  # they spread by 2
    for there, expected in ((True, rounded), (False, exact)):
        pays = there, "it says so"
        monkeypatch.setattr("spp_det.model.backbone.bfloat16_pays", lambda _device, pays=pays: pays)
        assert equal(Detector.load(tmp_path / "exact").detect(images[0], windows), expected)


def test_a_model_is_saved_and_loaded_by_any_form_of_path(detector, tmp_path):
    detector.save(str(tmp_path / "new folder" / "a.safetensors"))
    assert Detector.load(str(tmp_path / "new folder" / "a.safetensors")).classes == detector.classes
    assert [path.name for path in Path(tmp_path / "new folder").iterdir()] == ["a.safetensors"]


def test_a_device_that_is_not_there_is_the_callers_mistake_not_the_files(detector, tmp_path):
    detector.save(tmp_path / "model.safetensors")
    for name in ("gpu", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(UserError, match=r"^device"):
            Detector.load(tmp_path / "model.safetensors", device=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_detects_what_the_cpu_detects(detector, images, tmp_path):
    detector.save(tmp_path / "model.safetensors")
    # In float32, as the one in memory.
    found = Detector.load(tmp_path / "model.safetensors", device="cuda", precision="float32")(images[0])
    expected = detector(images[0])
    check(found, 150, 110)
    np.testing.assert_allclose(found["scores"][:10], expected["scores"][:10], atol=0.05)
