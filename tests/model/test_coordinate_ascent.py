"""Half-precision numbers count for what they are, however a processor converts them. What the ascent finds is
tested with the SVMs."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.kernels import numba
from spp_det.model import coordinate_ascent

EVERY = np.arange(2**16, dtype=np.uint16)
FINITE = EVERY[np.isfinite(EVERY.view(np.float16))]


@pytest.mark.parametrize("convert", [coordinate_ascent._value, coordinate_ascent._by_whole_numbers])
def test_every_number_is_converted_exactly(convert):
    @numba.njit
    def converted(bits):
        values = np.empty(len(bits), np.float32)
        for place in range(len(bits)):
            values[place] = convert(bits[place])
        return values

    np.testing.assert_array_equal(converted(FINITE), FINITE.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("dimension", [0, 1, 31, 1024, 2500])
def test_products_sums_and_lengths_are_those_of_the_converted_vectors(dimension):
    rng = np.random.default_rng(dimension)
    halves, following = rng.standard_normal((2, dimension)).astype(np.float16)
    weight = rng.standard_normal(dimension).astype(np.float32)
    bits, other = halves.view(np.uint16), following.view(np.uint16)
    expected = float(halves.astype(np.float64) @ weight)
    assert coordinate_ascent._product(bits, weight, other) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    length = float((halves.astype(np.float64) ** 2).sum())
    assert coordinate_ascent._squared_norm_of_halves(bits) == pytest.approx(length, rel=1e-5)
    expected_sum = weight + np.float32(0.5) * halves.astype(np.float32)
    coordinate_ascent._add(weight, np.float32(0.5), bits)
    np.testing.assert_allclose(weight, expected_sum, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(halves, bits.view(np.float16))


def test_a_processor_without_the_instruction_is_known(monkeypatch):
    monkeypatch.setattr(coordinate_ascent.llvm, "get_process_triple", lambda: "x86_64-unknown-linux-gnu")
    for features, known in (("+avx,+f16c", True), ("+avx,-f16c", False), ("", False)):
        monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
        assert coordinate_ascent.converts_in_hardware() is known
    monkeypatch.setattr(coordinate_ascent.llvm, "get_process_triple", lambda: "arm64-apple-darwin24.6.0")
    assert coordinate_ascent.converts_in_hardware()
