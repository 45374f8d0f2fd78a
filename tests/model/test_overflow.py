"""Finite weights whose sums overflow: one error that names the model, never a detection that is no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spp_det import Detector, Ensemble
from spp_det.errors import UserError
from tests.model_files import contents, rewritten

HUGE = torch.finfo(torch.float32).max


@pytest.fixture(scope="module")
def looks_twice(build_detector, tmp_path_factory):
    """A model with two regressors."""
    path = tmp_path_factory.mktemp("twice") / "model.safetensors"
    build_detector(passes=2).save(path)
    return path


def overflowing(path, to, names):
    def change(tensors, _):
        for name in names:
            tensors[name] = torch.full_like(tensors[name], HUGE)

    return rewritten(path, to, change)


@pytest.mark.filterwarnings("default::RuntimeWarning")
@pytest.mark.parametrize("kind", ["once", "twice"])
@pytest.mark.parametrize("part", ["backbone", "svm", "bbox", "bbox2", "running_var", "signs"])
def test_a_model_whose_sums_overflow_is_named(model, looks_twice, images, tmp_path, kind, part):
    path = model if kind == "once" else looks_twice
    names = [name for name in contents(path)[0] if "num_batches" not in name and part in name]
    if part == "signs":  # infinity less infinity
        names = ["svm.weight", "backbone.0.weight"]
    if part == "bbox" and kind == "twice":
        names = [name for name in names if "bbox2" not in name]
    if not names:
        pytest.skip("this model has no such part")
    found = overflowing(path, tmp_path / "huge", names)
    detector, refused = Detector.load(found), 0
    for one in (detector, Ensemble([detector, Detector.load(path)])):
        for image in images:
            said, answer = "", None
            try:
                answer = one.detect(np.asarray(image))
            except UserError as error:
                said = str(error)
            if answer is None:
                assert said.startswith(f"{found}: its ")
                assert "not finite" in said
                refused += 1
            else:
                assert all(np.isfinite(answer[key]).all() for key in ("boxes", "scores"))
    assert refused or part == "running_var"  # by which the map becomes zero


def test_a_detector_that_was_built_calls_itself_the_model(detector):
    detector._check_finite("scores", np.zeros(2, np.float32))
    with pytest.raises(UserError, match=r"the model: its scores are not finite"):
        detector._check_finite("scores", np.array([0, np.nan], np.float32))
