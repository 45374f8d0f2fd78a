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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import spp_det
from spp_det import Detector
from spp_det.config.settings import FC, Backbone, Detection, Proposals, Pyramid
from spp_det.errors import UserError
from spp_det.model.geometry import Geometry
from spp_det.model.model_file import FORMAT, ModelFile, Settings, _checksum, read_model, write_model

SETTINGS = Settings(
    proposals=Proposals(mode="file", max_side=400, file="/home/someone/a.mat", edge_model="/someone/b.yml"),
    backbone=Backbone(name="vgg16", weights="/home/someone/vgg.pth", scales=(480, 688), max_side=1500),
    pyramid=Pyramid(levels=(4, 1), mode="average"),
    fc=FC(layer="fc7", weights="/home/someone/vgg.pth", width=32, rank=(8, 4)),
    detection=Detection(score_threshold=-0.7, nms=0.45, max_per_image=7),
)
SMALL = ModelFile(
    ("kangaroo", "Füchsin 🦊", 'a "quoted" name'),
    SETTINGS,
    Geometry(stride=16, offset=0.5, receptive_field=139, smallest_input=33),
    {
        "svm.weight": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "svm.bias": torch.tensor([0.1, -0.0, 1e-30]),
        "backbone.0.weight": torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last),
        "backbone.1.num_batches_tracked": torch.tensor(7),
        "bbox.half": torch.randn(4).half(),
    },
)


def refused(path: Path, wanted: str = "") -> str:
    """The message of the refusal: one line that names the file."""
    with pytest.raises(UserError) as caught:
        Detector.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert wanted in message
    assert len(message) < len(str(path)) + 500
    return message


@pytest.fixture(scope="module")
def model(detector, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    detector.save(path)
    return path


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def rewritten(model: Path, path: Path, change) -> Path:
    """The model with something changed, and a checksum that agrees.

    ``change`` gets the tensors and the metadata, its JSON parsed, and alters them in place; text
    stays text.
    """
    tensors, metadata = contents(model)
    parsed = {name: json.loads(metadata[name]) for name in ("classes", "geometry", "settings")}
    change(tensors, parsed)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parsed.items()}
    metadata = {"format": FORMAT} | texts
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata | {"crc32": _checksum(metadata, tensors)})
    return path


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
    assert SMALL.tensor("svm.bias", (3,)) is SMALL.tensors["svm.bias"]
    with pytest.raises(ValueError, match=r"svm.bias is torch.float32 \[3\], not float32 \[4\]"):
        SMALL.tensor("svm.bias", (4,))
    with pytest.raises(ValueError, match="float16"):
        SMALL.tensor("bbox.half", (4,))
    with pytest.raises(KeyError):
        SMALL.tensor("svm.absent", (3,))


def test_any_reader_of_safetensors_can_open_it(model, detector):
    tensors, metadata = contents(model)
    assert torch.equal(tensors["svm.weight"], detector.scorer.weight)
    assert json.loads(metadata["classes"]) == list(detector.classes)
    assert metadata["format"] == FORMAT


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

    monkeypatch.setattr(Detector, "_assemble", full)
    with pytest.raises(torch.OutOfMemoryError):
        Detector.load(model)


# ---------------------------------------------------------------- damage


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_model_is_refused(model, tmp_path, share):
    data = model.read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "cut")


def test_a_longer_model_is_refused(model, tmp_path):
    (tmp_path / "long").write_bytes(model.read_bytes() + bytes(8))
    refused(tmp_path / "long")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_bit_is_never_taken_for_a_model(tmp_path, data):
    """Small, so that most of the bits belong to the header."""
    write_model(tmp_path / "m", SMALL)
    whole = bytearray((tmp_path / "m").read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    (tmp_path / "m").write_bytes(whole)
    with pytest.raises(UserError) as caught:
        read_model(tmp_path / "m", lambda model: model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["svm.weight", "svm.bias", "bbox.weight", "bbox.bias", "backbone.0.weight"])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, name, value):
    def change(tensors, _):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[-1] = value

    assert name in refused(rewritten(model, tmp_path / "m", change), "not finite")


@pytest.mark.parametrize(
    "name", ["svm.weight", "svm.bias", "bbox.bias", "backbone.0.weight", "backbone.2.running_var"]
)
def test_a_missing_tensor_is_named(model, tmp_path, name):
    message = refused(rewritten(model, tmp_path / "m", lambda tensors, _: tensors.pop(name)))
    assert name.removeprefix("backbone.") in message


@pytest.mark.parametrize("name", ["svm.weight", "svm.bias", "bbox.weight", "bbox.bias", "backbone.0.weight"])
def test_a_tensor_of_another_shape_is_named(model, tmp_path, name):
    def change(tensors, _):
        tensors[name] = tensors[name][..., :-1]

    assert name.removeprefix("backbone.") in refused(rewritten(model, tmp_path / "m", change))


@pytest.fixture(scope="module", params=[None, (6, 4)], ids=["whole", "compressed"])
def headed(request, build_detector, tmp_path_factory) -> Path:
    """A model with fc6 and fc7."""
    path = tmp_path_factory.mktemp("headed") / "model.safetensors"
    build_detector(fc=FC(layer="fc7", weights="random", width=24, rank=request.param)).save(path)
    return path


def fc_names(path: Path) -> list[str]:
    names = [name for name in contents(path)[0] if name.startswith("fc.")]
    assert len(names) in (4, 6)
    return names


def test_a_model_with_fc_layers_rewritten_without_a_change_is_a_model(headed, tmp_path):
    loaded = Detector.load(rewritten(headed, tmp_path / "m", lambda *_: None))
    assert loaded.settings.fc.layer == "fc7"
    assert loaded.head.dimension == 24
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == headed.read_bytes()


def test_fc_tensors_that_are_missing_cut_or_of_another_type_are_refused(headed, tmp_path):
    def without(tensors, name):
        del tensors[name]

    def cut(tensors, name):
        tensors[name] = tensors[name][..., :-1]

    def long(tensors, name):
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])

    def double(tensors, name):
        tensors[name] = tensors[name].double()

    def rounded(tensors, name):
        tensors[name] = tensors[name].bfloat16()

    def infinite(tensors, name):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = float("inf")

    for name in fc_names(headed):
        for change in (without, cut, long, double, rounded, infinite):
            path = rewritten(headed, tmp_path / "m", lambda t, _, n=name, c=change: c(t, n))
            refused(path, "damaged")


@pytest.mark.parametrize("name", ["fc6.other", "fc8.weight", "fc6.2.weight", "weight"])
def test_an_fc_tensor_that_has_no_place_is_refused(headed, tmp_path, name):
    def change(tensors, _):
        tensors[f"fc.{name}"] = torch.zeros(24)

    assert name in refused(rewritten(headed, tmp_path / "m", change), "damaged")


def test_parts_of_another_fc_layers_size_are_refused(headed, tmp_path):
    """Each sound in itself."""

    def narrow(tensors, _):
        tensors["svm.weight"] = tensors["svm.weight"][:, :-1]

    def pool5s(tensors, _):
        tensors["svm.weight"] = torch.zeros(3, 960)

    def regressor_of_fc7(tensors, _):
        tensors["bbox.weight"] = torch.zeros(3, 4, 24)

    def without_fc(tensors, _):
        for name in fc_names(headed):
            del tensors[name]

    def without_fc7(tensors, _):
        for name in fc_names(headed):
            if name.startswith("fc.fc7."):
                del tensors[name]

    def other_levels(_, metadata):
        metadata["settings"]["pyramid"]["levels"] = [2, 1]

    for change, wanted in (
        (narrow, "svm.weight"),
        (pool5s, "svm.weight"),
        (regressor_of_fc7, "bbox.weight"),
        (without_fc, "fc7"),
        (without_fc7, "fc7"),
        (other_levels, "fc6"),
    ):
        assert wanted in refused(rewritten(headed, tmp_path / "m", change), "damaged")


def test_a_regressor_in_the_former_order_is_refused(model, tmp_path):
    def change(tensors, _):
        tensors["bbox.weight"] = tensors["bbox.weight"].transpose(1, 2)

    assert "bbox.weight" in refused(rewritten(model, tmp_path / "m", change), "damaged")


@pytest.mark.parametrize("name", ["svm.weight", "bbox.bias"])
def test_a_tensor_of_another_type_is_named(model, tmp_path, name):
    def change(tensors, _):
        tensors[name] = tensors[name].double()

    assert name in refused(rewritten(model, tmp_path / "m", change), "float64")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("backbone", "name", "resnet9000"),
        ("backbone", "name", "alexnet"),  # has another geometry
        ("backbone", "scales", [5]),
        ("backbone", "scales", []),
        ("backbone", "unknown", 1),
        ("pyramid", "levels", [6, 3, 2, 1]),  # the weights are for other levels
        ("pyramid", "levels", ["x"]),
        ("fc", "layer", "fc8"),
        ("fc", "rank", [1]),
        ("fc", "unknown", 1),
        ("detection", "nms", 2.0),
        ("detection", "score_threshold", "high"),
        ("proposals", "mode", "slow"),
    ],
)
def test_settings_that_make_no_detector_are_refused(model, tmp_path, section, key, value):
    def change(_, metadata):
        metadata["settings"][section][key] = value

    refused(rewritten(model, tmp_path / "m", change), "damaged")


@pytest.mark.parametrize("name", ["classes", "geometry", "settings"])
@pytest.mark.parametrize("value", [None, "", "{", "[]", "null", "3", "[" * 3000])
def test_metadata_that_is_missing_or_nonsense_is_refused(model, tmp_path, name, value):
    def change(_, metadata):
        del metadata[name]
        if value is not None:
            metadata[name] = value

    refused(rewritten(model, tmp_path / "m", change), "damaged")


def test_a_change_that_leaves_the_file_well_formed_is_noticed(model, tmp_path):
    tensors, metadata = contents(model)
    others = {
        "weights": (tensors | {"svm.bias": tensors["svm.bias"] + 1e-6}, metadata),
        "classes": (tensors, metadata | {"classes": metadata["classes"].replace("wombat", "koala")}),
        "no checksum": (tensors, {name: text for name, text in metadata.items() if name != "crc32"}),
    }
    for name, (other_tensors, other_metadata) in others.items():
        save_file(other_tensors, tmp_path / name, other_metadata)
        refused(tmp_path / name, "damaged")


def test_another_geometry_is_refused(model, tmp_path):
    def change(_, metadata):
        metadata["geometry"]["offset"] = 8.0

    refused(rewritten(model, tmp_path / "m", change), "geometry")


def test_more_classes_than_svms_are_refused(model, tmp_path):
    def change(_, metadata):
        metadata["classes"].append("koala")

    assert "svm.weight" in refused(rewritten(model, tmp_path / "m", change))


def test_a_scorer_that_its_settings_do_not_name_is_refused(model, tmp_path):
    def change(_, metadata):
        metadata["settings"]["scorer"] = "softmax"

    assert "fc8.weight" in refused(rewritten(model, tmp_path / "m", change))


def test_a_softmax_without_a_row_for_the_background_is_refused(model, tmp_path):
    def change(tensors, metadata):
        metadata["settings"]["scorer"] = "softmax"
        for name in ("weight", "bias"):
            tensors[f"fc8.{name}"] = tensors.pop(f"svm.{name}")

    assert "fc8.weight" in refused(rewritten(model, tmp_path / "m", change))
