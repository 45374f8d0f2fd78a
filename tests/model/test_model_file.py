"""The model file: equal models give equal bytes, and whatever is not one of ours is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import spp_det
from spp_det import Detector
from spp_det.config.settings import Detection, Proposals
from spp_det.model.backbone import Backbone
from spp_det.model.model_file import FORMAT, read_model, write_model
from spp_det.model.probability import Probabilities
from tests.model_files import SETTINGS, SMALL, contents, refused, rewritten

# ---------------------------------------------------------------- round trips


def test_a_model_rewritten_without_a_change_is_a_model(model, tmp_path):
    """So that the refusals below are those of the changes."""
    loaded = Detector.load(rewritten(model, tmp_path / "m", lambda *_: None))
    assert loaded.classes == Detector.load(model).classes


def test_everything_comes_back(tmp_path):
    write_model(tmp_path / "m", SMALL)
    back = read_model(tmp_path / "m", lambda model: model)
    assert back.classes == SMALL.classes
    assert back.geometry == SMALL.geometry
    assert back.tensors.keys() == SMALL.tensors.keys()
    for name, tensor in SMALL.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)


def test_settings_come_back_but_not_the_paths_of_weights_and_proposals(tmp_path):
    write_model(tmp_path / "m", SMALL)
    back = read_model(tmp_path / "m", lambda model: model.settings)
    sections = ("backbone", "fc")
    update = {name: getattr(SETTINGS, name).model_copy(update={"weights": "random"}) for name in sections}
    update["proposals"] = Proposals(mode="file", max_side=400)
    assert back == SETTINGS.model_copy(update=update)
    assert b"someone" not in (tmp_path / "m").read_bytes()


def test_parts_are_found_by_their_prefix():
    assert SMALL.part("svm.").keys() == {"weight", "bias"}
    assert SMALL.part("nothing.") == {}
    assert SMALL.tensor("svm.bias", 3) is SMALL.tensors["svm.bias"]
    with pytest.raises(ValueError, match=r"svm.bias is torch.float32 \[3\], not float32 \[4\]"):
        SMALL.tensor("svm.bias", 4)
    with pytest.raises(ValueError, match="float16"):
        SMALL.tensor("bbox.half", 4)
    with pytest.raises(KeyError):
        SMALL.tensor("svm.absent", 3)


def test_any_reader_of_safetensors_can_open_it(model, detector):
    tensors, metadata = contents(model)
    assert torch.equal(tensors["svm.weight"], detector.scorer.weight)
    assert json.loads(metadata["classes"]) == list(detector.classes)
    assert metadata["format"] == FORMAT


def test_probabilities_come_back_and_a_file_without_them_is_a_model(build_detector, tmp_path):
    plain = build_detector()
    plain.save(tmp_path / "plain.safetensors")
    assert not any(name.startswith("probability") for name in contents(tmp_path / "plain.safetensors")[0])
    assert Detector.load(tmp_path / "plain.safetensors").probability is None
    slope, intercept = np.float32([1, 2, 3]), np.float32([-1, 0, 0.5])
    plain.probability = Probabilities(slope, intercept)
    plain.save(tmp_path / "curves.safetensors")
    back = Detector.load(tmp_path / "curves.safetensors").probability
    assert np.array_equal(back.slope, slope)
    assert np.array_equal(back.intercept, intercept)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"probability.slope": [1.0, 0.0, 1.0]}, "probability.slope holds a number that is not above 0"),
        ({"probability.slope": [1.0, 1.0]}, "probability.slope is torch.float32 [2]"),
        ({"probability.intercept": None}, "probability.intercept"),
    ],
)
def test_odd_curves_are_damage(build_detector, tmp_path, change, reason):
    detector = build_detector()
    detector.probability = Probabilities(np.ones(3, np.float32), np.zeros(3, np.float32))
    detector.save(tmp_path / "m.safetensors")

    def damage(tensors, _):
        for name, values in change.items():
            del tensors[name]
            if values is not None:
                tensors[name] = torch.tensor(values)

    refused(rewritten(tmp_path / "m.safetensors", tmp_path / "odd.safetensors", damage), reason)


# ---------------------------------------------------------------- equal models, equal bytes


def test_two_saves_give_the_same_bytes(detector, model, tmp_path):
    detector.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()


def test_a_loaded_model_saves_to_the_same_bytes(model, tmp_path):
    Detector.load(model).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()


def test_another_process_saves_the_same_bytes(model, tmp_path):
    """Hash tables are laid out differently there."""
    copy = tmp_path / "copy.safetensors"
    script = "import sys; from spp_det import Detector; Detector.load(sys.argv[1]).save(sys.argv[2])"
    package = str(Path(spp_det.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", script, str(model), str(copy)], check=True, env=environment)
    assert copy.read_bytes() == model.read_bytes()


def test_the_order_of_the_tensors_does_not_matter(tmp_path):
    write_model(tmp_path / "a", SMALL)
    write_model(tmp_path / "b", replace(SMALL, tensors=dict(reversed(SMALL.tensors.items()))))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_weights_classes_or_settings_give_other_bytes(tmp_path):
    others = [
        replace(SMALL, tensors=SMALL.tensors | {"svm.bias": torch.tensor([0.2, 0.0, 0.0])}),
        replace(SMALL, classes=("kangaroo", "fox", "cat")),
        replace(SMALL, settings=SETTINGS.model_copy(update={"detection": Detection()})),
    ]
    for index, model in enumerate([SMALL, *others]):
        write_model(tmp_path / str(index), model)
    assert len({(tmp_path / str(index)).read_bytes() for index in range(4)}) == 4


def test_a_save_that_fails_leaves_the_former_file(detector, model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.read_bytes())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        detector.save(path)
    assert path.read_bytes() == model.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


# ---------------------------------------------------------------- files that are not models


def test_an_absent_file_is_named(tmp_path):
    assert "no such model" in refused(tmp_path / "absent.safetensors")


def test_a_file_that_may_not_be_read_is_not_said_to_be_absent(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.touch()

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("No such file or directory")  # says safetensors, whatever hinders it

    def denied(self, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("safetensors.safe_open", absent)
    monkeypatch.setattr("pathlib.Path.open", denied)
    assert refused(path).endswith("model.safetensors cannot be read: Permission denied")


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_of_other_kinds_are_refused(tmp_path):
    for name, data in {
        "empty": b"",
        "short": b"\x10",
        "text": b"backbone: alexnet\n" * 40,
        "zeros": bytes(4096),
        "huge header": (2**62).to_bytes(8, "little") + b"{}",
        "header that is no JSON": (8).to_bytes(8, "little") + b"not json",
    }.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photo.jpg")
    refused(tmp_path / "photo.jpg")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder")


def test_pickles_are_refused_and_nothing_in_them_runs(tmp_path):
    trap = tmp_path / "the code ran"
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Bomb(trap)))
    torch.save({"svm.weight": torch.zeros(2), "bomb": Bomb(trap)}, tmp_path / "model.safetensors")
    refused(tmp_path / "model.pkl")
    refused(tmp_path / "model.safetensors")
    assert not trap.exists()


def test_other_safetensors_files_and_other_versions_are_told_from_damage(model, tmp_path):
    tensors, metadata = contents(model)
    save_file(tensors, tmp_path / "foreign")
    assert "not stated" in refused(tmp_path / "foreign", "not a model that this version reads")
    for other in ("spp_det 1", "spp_det 99"):  # earlier and later
        save_file(tensors, tmp_path / "other", metadata | {"format": other})
        assert repr(other) in refused(tmp_path / "other", "not a model that this version reads")


def test_a_full_memory_is_not_taken_for_damage(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("spp_det.model.model_file._put_together", full)
    with pytest.raises(torch.OutOfMemoryError):
        Detector.load(model)


def test_an_error_of_the_device_is_not_taken_for_damage(model, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Backbone, "to", fail)
    with pytest.raises(RuntimeError, match="device-side"):
        Detector.load(model)
