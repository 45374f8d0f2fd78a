"""Devices by name, what they can do, and the memory that was used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import spp_det
from spp_det.errors import UserError
from spp_det.runtime import devices
from spp_det.runtime.devices import (
    bfloat16_pays,
    choose_device,
    fast_floats,
    has_bfloat16,
    peak_memory,
    uploaded,
)


def test_names_are_torchs_own_and_auto_takes_what_there_is():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_each_of_several_processes_gets_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cuda:3") == torch.device("cuda:3")  # unless it is named
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "", "cuda:99", "mps", "xpu", "xpu:0", "meta", "vulkan"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match=f"^device '{name}': .*say auto, cpu, cuda or cuda:N$"):
        choose_device(name)


def test_how_many_gpus_there_are_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"^device 'cuda:2': this machine has 2 CUDA devices; say"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"^device 'cuda': this machine has none; say"):
        choose_device("cuda")


PROCESSORS = {  # maker and features, has bfloat16, is faster in it
    "an EPYC of the fourth generation": ("AuthenticAMD", "avx512f avx512_bf16", True, True),
    "an EPYC of the third": ("AuthenticAMD", "avx2", False, False),
    "a Xeon with AMX": ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", True, True),
    "a Xeon without": ("GenuineIntel", "avx512f avx512_bf16 avx512_fp16", True, False),
    "a Xeon of before": ("GenuineIntel", "avx512f", False, False),
    "one that nobody has seen": ("Other", "avx512f avx512_bf16", True, False),
}


@pytest.fixture
def cpuinfo(monkeypatch):
    """Lets Linux tell of another processor; None: there is no such file."""

    def tell(text: str | None) -> None:
        def read(self, **_kwargs):
            if text is None:
                raise FileNotFoundError(self)
            return text

        monkeypatch.setattr(Path, "read_text", read)
        devices._processor.cache_clear()

    yield tell
    monkeypatch.undo()
    devices._processor.cache_clear()


@pytest.mark.parametrize("name", PROCESSORS)
def test_bfloat16_pays_by_what_the_processor_is(cpuinfo, name):
    maker, features, there, faster = PROCESSORS[name]
    one = f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: amx_bf16\nflags\t\t: fpu {features} sse\n"
    cpuinfo(one + "\n" + one.replace(features, "other") + "\n")
    assert has_bfloat16(torch.device("cpu")) is there
    pays, why = bfloat16_pays(torch.device("cpu"))
    assert pays is faster
    assert why


@pytest.mark.parametrize("text", [None, "", "Features\t: fp asimd bf16\n"])  # the last is of an ARM
def test_a_processor_of_which_nobody_tells_computes_in_float32(cpuinfo, text):
    cpuinfo(text)
    assert bfloat16_pays(torch.device("cpu")) == (False, "the processor has no bfloat16 that we know of")


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_asked_for_its_own_and_emulation_is_none(monkeypatch, there):
    def supported(including_emulation=True):
        return including_emulation or there

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_bfloat16(torch.device("cuda")) is there
    assert bfloat16_pays(torch.device("cuda"))[0] is there


def test_a_gpu_is_given_float16_and_a_processor_bfloat16():
    assert fast_floats(torch.device("cuda:1")) == "float16"
    assert fast_floats(torch.device("cpu")) == "bfloat16"


def test_an_upload_keeps_the_numbers():
    assert uploaded(np.arange(6.0).reshape(2, 3).T, torch.device("cpu")).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_this_machine_has_an_answer_that_stays():
    assert bfloat16_pays(torch.device("cpu")) == bfloat16_pays(torch.device("cpu"))


def test_of_other_devices_nothing_is_known():
    assert has_bfloat16(torch.device("mps")) is False
    assert bfloat16_pays(torch.device("mps"))[0] is False


def test_peak_memory_grows_with_what_is_touched_and_never_shrinks():
    """In a process of its own: this one may have touched more before."""
    if peak_memory() is None:
        pytest.skip("the system does not tell")
    script = (
        "import numpy as np; from spp_det.runtime.devices import peak_memory; a = peak_memory(); "
        "x = np.ones(200 * 2**20, np.uint8); b = peak_memory(); del x; print(a, b, peak_memory())"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(spp_det.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=environment)
    before, after, later = map(int, ended.stdout.split())
    assert 20 < before < 2000
    assert 190 <= after - before < 300
    assert later >= after - 1  # the system counts by the batch of pages


def test_without_proc_the_other_interface_says_about_the_same(monkeypatch):
    pytest.importorskip("resource")
    if not Path("/proc/self/status").exists():
        pytest.skip("there is but one interface")
    known = peak_memory()

    def absent(*_args, **_kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert peak_memory() >= known - 1  # it may count what this process was forked from
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory() is None
