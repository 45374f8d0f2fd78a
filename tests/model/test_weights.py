"""Weights from strangers: plain tensors of numbers, or one line that names the file and the tensor."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.weights import is_plain
from tests.model_files import refused, rewritten
from tests.stress.memory import MIB, growth, measurable

ODD = {
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "sparse": lambda t: t.to_sparse(),
    "csr": lambda t: t.flatten(1).to_sparse_csr(),
    "meta": lambda t: t.to("meta"),
    "stride 0": lambda t: t.new_zeros(1).expand(2**40, 4),
    "one number for all": lambda t: torch.zeros(1).expand(t.shape),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t.new_zeros(2), t.new_zeros(3)]),
}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Backbone("zf5_small").load_weights(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def state() -> dict[str, torch.Tensor]:
    return {f"features.{k}": v.contiguous() for k, v in Backbone("zf5_small").layers.state_dict().items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_no_network_has_is_refused_by_name(tmp_path, kind):
    name = "features.0.weight"
    odd = ODD[kind](state()[name])
    assert not is_plain(odd)
    torch.save({**state(), name: odd}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth")
    assert name in said or "refused" in said  # by torch's reader itself


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64", "uint16"])
def test_a_safetensors_of_an_odd_type_is_refused(tmp_path, model, dtype):
    name = "features.0.weight"
    odd = state()[name].to(getattr(torch, dtype))
    save_file({**state(), name: odd}, tmp_path / "a.safetensors")
    assert name in refusal(tmp_path / "a.safetensors")

    def change(tensors, _):
        tensors["svm.weight"] = tensors["svm.weight"].to(getattr(torch, dtype)).contiguous()

    assert "svm.weight" in refused(rewritten(model, tmp_path / "m", change))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "bool"])
def test_what_networks_have_is_plain(tmp_path, dtype):
    save_file({"a": torch.ones(3, 4).to(getattr(torch, dtype))}, tmp_path / "a.safetensors")
    assert is_plain(load_file(tmp_path / "a.safetensors")["a"])
    assert is_plain(torch.zeros(0))
    assert is_plain(torch.zeros(6)[::2])


@pytest.mark.skipif(not measurable(), reason="no peak of memory is told here")
@pytest.mark.parametrize("record", ["data.pkl", "data/0"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, record):
    torch.save(state(), tmp_path / "sound.pth")
    with zipfile.ZipFile(tmp_path / "sound.pth") as sound, zipfile.ZipFile(tmp_path / "a.pth", "w") as bomb:
        for name in sound.namelist():
            data = bytes(2**28) if name.endswith(record) else sound.read(name)
            bomb.writestr(name, data, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.pth").stat().st_size < 2 * MIB
    assert growth(lambda: refusal(tmp_path / "a.pth")) < 100 * MIB
    assert "more than" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("member", [None, "storages", "../outside"])
def test_a_tar_is_refused_before_it_is_unpacked(tmp_path, member, monkeypatch):
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        if member is not None:
            archive.addfile(tarfile.TarInfo(member))
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_, **__: pytest.fail("it was unpacked"))
    assert "oldest format" in refusal(tmp_path / "a.pth")
