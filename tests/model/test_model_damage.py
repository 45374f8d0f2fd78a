"""Damaged model files, and files of parts that do not fit each other: each is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from spp_det import Detector
from spp_det.config.network import FC
from spp_det.errors import UserError
from spp_det.model.model_file import read_model, write_model
from tests.model_files import SMALL, contents, refused, rewritten


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
