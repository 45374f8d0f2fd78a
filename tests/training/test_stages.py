"""The training as a list of steps: what each takes from the cache, what it makes anew, and what stops it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spp_det.boxes import mirrored
from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import read_image
from spp_det.model.model_file import features_of
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs
from spp_det.runtime.cache import Cache
from spp_det.training import draws, stages
from spp_det.training.draws import Draws
from spp_det.training.images import TrainingImages
from spp_det.training.inputs import model_settings, read_inputs
from spp_det.training.network import ready
from spp_det.training.stages import Trained, train

TUNED = {
    "fc": {"layer": "fc6", "weights": "random", "width": 16},
    "finetune": {"enabled": True, "steps": 3, "last_steps": 0, "batch": 12, "held_out": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five photos of six classes."""
    folder = tmp_path_factory.mktemp("stages")
    generate_voc(folder / "voc", {"trainval": 5}, seed=1, sizes=((120, 100),))
    return folder


def configure(folder: Path, **sections: Any) -> Config:
    """With windows and maps in a cache of all these tests."""
    tree = {
        "data": {"root": str(folder / "voc")},
        "proposals": {"max_side": 80},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
        "pyramid": {"levels": [2, 1]},
        "runtime": {"device": "cpu", "workers": 1, "cache": str(folder / "cache")},
    }
    return parse_config(tree | sections, "test")


@pytest.fixture
def stored(monkeypatch) -> Counter[str]:
    """How many artefacts each stage has made."""
    found: Counter[str] = Counter()
    store = Cache.store

    def counted(self, stage, key, arrays) -> None:
        found[stage] += 1
        store(self, stage, key, arrays)

    monkeypatch.setattr(Cache, "store", counted)
    return found


def same(one: Trained, two: Trained, folder: Path) -> bool:
    """Whether the models are equal to the byte."""
    for name, trained in (("one", one), ("two", two)):
        trained.detector.save(folder / name)
    return (folder / "one").read_bytes() == (folder / "two").read_bytes()


# ---------------------------------------------------------------- the steps


def test_pool5_windows_are_scored_by_svms_and_moved_by_regressors(folder):
    trained = train(configure(folder))
    detector, metrics = trained.detector, trained.metrics
    assert detector.head is None
    assert isinstance(detector.scorer, LinearSVMs)
    assert detector.scorer.weight.shape == (6, detector.features.dimension)
    assert [regressor.weight.shape for regressor in detector.regressors] == [(6, 4, 5 * 96)]
    figures = ["images", "skipped", "precision", "mean_norm", "svm", "probability", "seconds"]
    assert list(metrics) == [*figures, "peak_memory_mb"]
    assert list(metrics["seconds"]) == ["proposals_and_maps", "norm", "svm", "bbox", "probability"]
    assert metrics["images"] == 5
    assert metrics["skipped"] == []


def test_fc_layers_are_tuned_first_and_regressors_see_pool5_all_the_same(folder):
    trained = train(configure(folder, **TUNED, bbox={"passes": 2}))
    detector, metrics = trained.detector, trained.metrics
    assert detector.scorer.weight.shape == (6, 16)
    assert [regressor.weight.shape[2] for regressor in detector.regressors] == [5 * 96] * 2
    assert list(metrics["seconds"]) == ["proposals_and_maps", "finetune", "norm", "svm", "bbox"]
    assert metrics["finetune"]["steps"] == 3
    assert metrics["mean_norm"] != train(configure(folder)).metrics["mean_norm"]  # of fc6, not of pool5


def test_a_training_without_folds_has_no_probabilities_and_the_same_svms(folder):
    without = train(configure(folder, probability={"folds": 0}))
    assert without.detector.probability is None
    assert "probability" not in without.metrics
    weight = train(configure(folder)).detector.scorer.weight
    assert torch.equal(without.detector.scorer.weight, weight)


def test_flips_teach_what_a_mirrored_photo_shows(folder):
    records = read_voc(folder / "voc", "trainval").records

    def worst(flips: bool) -> float:
        """The lowest score of an object in the mirrored photos."""
        svm = {"flips": flips, "C": 1.0}
        detector = train(configure(folder, svm=svm, probability={"folds": 0})).detector
        scores = []
        for record in records:
            pixels = read_image(record.path)
            boxes = mirrored(record.boxes, pixels.shape[1])
            found = detector.score(detector.features.maps(np.ascontiguousarray(pixels[:, ::-1])), boxes)[1]
            scores += found[np.arange(len(boxes)), record.labels].tolist()
        return min(scores)

    assert worst(flips=True) > 0.5
    assert worst(flips=False) < 0


def test_the_probabilities_are_read_from_the_cache(folder, stored):
    config = configure(folder, seed=3)
    first = train(config)
    assert stored["probabilities"] == 1
    again = train(config)
    assert stored["probabilities"] == 1
    assert again.metrics["probability"] == first.metrics["probability"]
    assert same(first, again, folder)


@pytest.mark.parametrize(
    "sections",
    [
        {"svm": {"flips": False}},
        {"svm": {"flips": True}},
        {"backbone": {"name": "zf5_small", "weights": "random", "scales": [64, 72]}},
        {**TUNED, "bbox": {"passes": 2}},
    ],
    ids=["svms", "flips", "scales", "fine-tuned"],
)
@pytest.mark.parametrize("bound", [1e-9, 1.2e-5])
def test_maps_beyond_their_bound_are_computed_when_needed_to_the_same_bytes(
    folder, tmp_path, bound, sections
):
    whole = train(configure(folder, **sections))
    runtime = {"device": "cpu", "workers": 2, "cache": str(tmp_path), "maps_gb": bound}
    bounded = train(configure(folder, **sections, runtime=runtime))
    kept = Cache(tmp_path).usage("maps")
    assert kept.bytes <= bound * 1e9
    assert kept.artefacts < 5
    assert (kept.artefacts == 0) == (bound == 1e-9)
    assert same(whole, bounded, tmp_path)


def test_a_photo_that_vanishes_is_left_out_although_its_map_would_not_be_kept(tmp_path):
    generate_voc(tmp_path / "voc", {"trainval": 5}, seed=1, sizes=((120, 100),))
    runtime = {"device": "cpu", "workers": 1, "cache": str(tmp_path / "cache"), "maps_gb": 1e-9}
    config = configure(tmp_path, runtime=runtime)
    inputs = read_inputs(config)
    lost = inputs.splits.train.records[1].path
    features = features_of(ready(inputs.network, config), model_settings(config))
    images = TrainingImages(inputs.splits.train, features, config.proposals, stages.cache_of(config), 1)
    lost.unlink()
    assert not images.make_maps(np.arange(5))
    assert [each["file"] for each in images.skipped] == [str(lost)]


def test_the_mean_norm_is_that_of_all_windows_where_they_are_few(folder, monkeypatch):
    """By hand, of images that have fewer windows than are sampled."""
    monkeypatch.setattr(draws, "NORM_WINDOWS", 10**6)
    config = configure(folder)
    trained = train(config)
    detector = trained.detector
    cache, records = Cache(folder / "cache"), read_voc(folder / "voc", "trainval")
    images = TrainingImages(records, detector.features, config.proposals, cache, workers=1)
    norms = [images.vectors(i).of_windows(np.arange(len(w.boxes))) for i, w in enumerate(images.windows())]
    assert trained.metrics["mean_norm"] == pytest.approx(float(torch.cat(norms).norm(dim=1).mean()), rel=1e-5)


def test_where_all_vectors_have_one_length_a_few_images_tell_it(folder):
    for normalize, images in (("hellinger", 4), ("none", 50)):
        config = configure(folder, pyramid={"levels": [2, 1], "normalize": normalize})
        trained = train(config)
        features = trained.detector.features
        assert len(Draws.of(config, 50).norm_sample(features, None)) == images
        if features.length is not None:
            assert trained.metrics["mean_norm"] == pytest.approx(features.length, rel=1e-5)


def test_softmax_is_the_fc8_of_the_tuning_and_needs_no_svms(folder, stored):
    trained = train(configure(folder, **TUNED, scorer="softmax", bbox={"enabled": False}))
    assert isinstance(trained.detector.scorer, SoftmaxScorer)
    assert trained.detector.regressors == ()
    assert not stored["svms"]
    assert not stored["mining"]
    assert "svm" not in trained.metrics


def test_layers_that_only_the_tuning_needs_are_not_in_the_detector(folder):
    finetune = TUNED["finetune"] | {"layer": "fc7"}
    trained = train(configure(folder, fc=TUNED["fc"], finetune=finetune, bbox={"enabled": False}))
    assert list(trained.detector.head.layers) == ["fc6"]


# ---------------------------------------------------------------- the cache


def test_a_second_training_makes_nothing_and_ends_in_the_same_model(folder, stored, tmp_path):
    config = configure(folder, **TUNED, seed=3)
    one = train(config)
    assert stored["svms"] == 1
    stored.clear()
    two = train(config)
    assert not stored
    assert same(one, two, tmp_path)
    figures = ("finetune", "mean_norm", "svm")
    assert [one.metrics[name] for name in figures] == [two.metrics[name] for name in figures]


def test_another_cache_gives_the_same_model(folder, tmp_path):
    config = configure(folder, **TUNED, seed=3)
    runtime = config.runtime.model_copy(update={"cache": tmp_path / "cache"})
    assert same(train(config), train(config.model_copy(update={"runtime": runtime})), tmp_path)


MAPS, NORMS, SVMS, BOXES = "maps", "norms", "svms", "regressors"
CHANGES = [
    ({"detection": {"nms": 0.5}}, set()),
    ({"svm": {"C": 0.01}}, {SVMS}),
    ({"bbox": {"ridge": 2000}}, {BOXES}),
    ({"finetune": TUNED["finetune"] | {"checkpoint_every": 2}}, set()),
    ({"finetune": TUNED["finetune"] | {"steps": 2}}, {"finetune", NORMS, SVMS}),
    ({"fc": TUNED["fc"] | {"rank": (8, 8)}}, {NORMS, SVMS}),
    ({"pyramid": {"levels": [3, 1]}}, {"finetune", NORMS, SVMS, BOXES}),
    (
        {"backbone": {"name": "zf5_small", "weights": "random", "scales": [64, 96]}},
        {MAPS, "finetune", NORMS, SVMS, BOXES},
    ),
    ({"proposals": {"max_side": 70}}, {"proposals", "finetune", NORMS, SVMS, BOXES}),
]


@pytest.mark.parametrize(("change", "made"), CHANGES, ids=[str(change)[:60] for change, _ in CHANGES])
def test_a_setting_that_changes_makes_anew_the_stages_that_depend_on_it(folder, stored, change, made):
    train(configure(folder, **TUNED))
    stored.clear()
    train(configure(folder, **(TUNED | change)))
    found = {stage for stage, count in stored.items() if count and stage != "mining"}
    assert found == made


def test_an_artefact_that_is_whole_but_no_such_thing_is_made_again(folder, stored, tmp_path, caplog):
    config = configure(folder, **TUNED, seed=4)
    one = train(config)
    cache = Cache(folder / "cache")
    for stage in ("norms", "svms", "regressors"):
        for path in (cache.folder / stage).rglob("*.safetensors"):
            arrays = cache.load(stage, path.stem)
            if arrays is not None:
                cache.store(stage, path.stem, {name: array[..., None] for name, array in arrays.items()})
    stored.clear()
    assert same(one, train(config), tmp_path)
    assert (stored["norms"], stored["svms"], stored["regressors"]) == (2, 1, 6)
    assert caplog.text.count("is not what it should be") == 9


# ---------------------------------------------------------------- what stops it


def test_a_chosen_class_without_an_object_is_named_before_any_work(folder, monkeypatch):
    def begun(*_: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(stages, "TrainingImages", begun)
    config = configure(folder)
    data = config.data.model_copy(update={"classes": (*read_voc(folder / "voc", "trainval").classes, "emu")})
    with pytest.raises(UserError, match="no object is of the class 'emu'"):
        train(config.model_copy(update={"data": data}))


def test_a_class_whose_images_cannot_be_read_is_named_before_any_learning(tmp_path, monkeypatch):
    generate_voc(tmp_path / "voc", {"trainval": 5}, seed=1, sizes=((120, 100),))
    records = read_voc(tmp_path / "voc", "trainval").records
    for each in records[1:]:
        each.path.write_text("no photo")
    monkeypatch.setattr(stages, "_Stages", lambda *_: pytest.fail("learning began"))
    with pytest.raises(UserError, match="has no positive example in the training images"):
        train(configure(tmp_path))
