"""Devices by name, and what they can do."""

from __future__ import annotations

import pytest
import torch

from spp_det.devices import choose_device, has_bfloat16
from spp_det.errors import UserError


def test_names_are_torchs_own_and_auto_takes_what_there_is():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["abacus", "", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match=f"^device '{name}'"):
        choose_device(name)


@pytest.mark.parametrize("there", [True, False])
def test_a_cpu_is_asked_for_its_own_bfloat16(monkeypatch, there):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: not there)
    assert has_bfloat16(torch.device("cpu")) is there


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_asked_for_its_own_and_emulation_is_none(monkeypatch, there):
    def supported(including_emulation=True):
        return including_emulation or there

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_bfloat16(torch.device("cuda")) is there


def test_this_machine_says_yes_or_no():
    """torch's question is not part of its public interface: it must still be there."""
    assert has_bfloat16(torch.device("cpu")) in (True, False)


def test_of_other_devices_nothing_is_known():
    assert has_bfloat16(torch.device("mps")) is False
