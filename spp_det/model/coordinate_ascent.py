"""Dual coordinate ascent for one SVM, by compiled loops over half-precision vectors as they are stored.

A vector of SqueezeNet's pool5 takes 51 KB, and thousands of them do not fit a processor's caches. The loops
wait for memory: half the bytes are faster to fetch, and `_product` names the next vector early. All loops are
in this file, because numba's cache of a compiled function does not notice changes in another file.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from spp_det.kernels import numba

cgutils: Any = numba.core.cgutils

ROUNDS = 500
_SWEEPS = 10  # over the active examples, between two looks at all of them
_NEAR = 0.1  # an example at a bound of alpha stays active while it is so close to the margin
_BLOCK = 1024  # numbers between two looks ahead
_LINE = 32  # numbers that a cache fetches at once: 64 bytes


@numba.njit(nogil=True, cache=True, error_model="numpy")
def ascend(bits, rows, signs, C, bias, alpha, weight, tolerance, seed):  # type: ignore[no-untyped-def]
    """Solve one class, in place in ``alpha [m]`` and ``weight [D]``.

    A step finds the best alpha of one example. The gap is the sum, over the examples, of their violations of
    complementary slackness. Nothing is checked: `spp_det.model.svm.fit_svms` does.

    Args:
        bits: uint16 ``[n, D]``, half-precision numbers.
        rows: int64 ``[m]``, the row of each example.
        signs, C: float64 ``[m]``, +1 or -1, and the bound of each alpha.
        bias: the number behind each vector whose weight is the bias.
        alpha: float64 ``[m]``, where to start, between 0 and ``C``.
        weight: float32 ``[D]``, zeros.
        tolerance: of the gap, as a part of the primal objective; at most `ROUNDS` rounds go by.
        seed: of the order of the steps.

    Returns the weight of the bias, the primal objective and the relative gap.
    """
    np.random.seed(seed)  # noqa: NPY002  (numba's own generator, one a thread)
    m = len(rows)
    square = np.empty(m)
    bias_weight = 0.0
    for i in range(m):
        square[i] = _squared_norm_of_halves(bits[rows[i]]) + bias * bias
        if alpha[i] > 0:
            _add(weight, np.float32(alpha[i] * signs[i]), bits[rows[i]])
            bias_weight += bias * alpha[i] * signs[i]
    active = np.empty(m, np.int64)
    primal, gap = 0.0, 0.0
    for _ in range(ROUNDS):
        count, loss, gap = 0, 0.0, 0.0
        for i in range(m):
            following = bits[rows[min(i + 1, m - 1)]]
            score = _product(bits[rows[i]], weight, following) + bias * bias_weight
            slack = 1 - signs[i] * score
            loss += C[i] * max(slack, 0.0)
            gap += C[i] * max(slack, 0.0) - alpha[i] * slack
            if not ((alpha[i] == 0 and slack < -_NEAR) or (alpha[i] == C[i] and slack > _NEAR)):
                active[count] = i
                count += 1
        primal = loss + (_squared_norm(weight) + bias_weight * bias_weight) / 2
        if gap <= tolerance * primal:
            break
        for _ in range(_SWEEPS):
            np.random.shuffle(active[:count])  # noqa: NPY002
            passing_gap = 0.0
            for place in range(count):
                i, following = active[place], bits[rows[active[min(place + 1, count - 1)]]]
                score = _product(bits[rows[i]], weight, following) + bias * bias_weight
                slack = 1 - signs[i] * score
                passing_gap += C[i] * max(slack, 0.0) - alpha[i] * slack
                new = min(max(alpha[i] + slack / square[i], 0.0), C[i])
                signed = (new - alpha[i]) * signs[i]
                if signed != 0:
                    alpha[i] = new
                    _add(weight, np.float32(signed), bits[rows[i]])
                    bias_weight += bias * signed
            if passing_gap < tolerance * primal / 2:
                break
    return bias_weight, primal, gap / max(primal, 1e-300)


def converts_in_hardware() -> bool:
    """Whether the processor that numba compiles for has an instruction from half precision to single.

    Elsewhere LLVM calls a function for it, which not every system has.
    """
    if llvm.get_process_triple().startswith(("arm64", "aarch64")):
        return True
    # By NUMBA_CPU_FEATURES; empty where NUMBA_CPU_NAME is "generic".
    chosen: str | None = vars(numba.config)["CPU_FEATURES"]
    features = llvm.get_host_cpu_features().flatten() if chosen is None else chosen
    return "+f16c" in features.split(",")


def _converted(_context, _half):  # type: ignore[no-untyped-def]
    """float32 of half-precision bits, by the processor's own instruction."""

    def extend(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return numba.types.float32(numba.types.uint16), extend


def _reinterpreted(_context, _word):  # type: ignore[no-untyped-def]
    """The float32 that has the bits of a uint32."""

    def same_bits(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.types.float32(numba.types.uint32), same_bits


_float_of: Any = numba.extending.intrinsic(_reinterpreted)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _by_whole_numbers(half):  # type: ignore[no-untyped-def]
    """float32 of half-precision bits, on any processor.

    A factor instead of the sum would be moved to other places by the functions below, where it overflows.
    """
    sign, rest = np.uint32(half) & np.uint32(0x8000), np.uint32(half) & np.uint32(0x7FFF)
    value = _float_of(np.uint32((rest << np.uint32(13)) + np.uint32(112 << 23)))  # the exponents' biases
    if rest < np.uint32(0x400):  # subnormal, or zero
        value = np.float32(rest) * np.float32(2.0**-24)
    return -value if sign else value


_value: Any = numba.extending.intrinsic(_converted) if converts_in_hardware() else _by_whole_numbers


def _fetched(_context, array, _index):  # type: ignore[no-untyped-def]
    """Let the caches fetch the line of a one-dimensional array that holds the number at an index."""

    def prefetch(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, word(0), word(2), word(1)])  # to read, into the second cache, as data
        return context.get_dummy_value()

    return numba.types.void(array, numba.types.intp), prefetch


_fetch: Any = numba.extending.intrinsic(_fetched)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _product(halves, weight, following):  # type: ignore[no-untyped-def]
    """The product of the half-precision bits ``[D]`` with ``weight [D]``, as a float64.

    Meanwhile the caches fetch ``following [D]``, the bits that will be asked for next.
    """
    total = 0.0
    for start in range(0, len(weight), _BLOCK):
        end = min(start + _BLOCK, len(weight))
        for place in range(start, end, _LINE):
            _fetch(following, place)
        total += _sum_of_products(halves[start:end], weight[start:end])
    return total


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _sum_of_products(halves, weight):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(weight)):
        total += _value(halves[j]) * weight[j]
    return np.float64(total)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _squared_norm_of_halves(halves):  # type: ignore[no-untyped-def]
    """The squared length of the vector with the half-precision bits ``[D]``, as a float64."""
    total = np.float32(0)
    for j in range(len(halves)):
        total += _value(halves[j]) * _value(halves[j])
    return np.float64(total)


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _add(weight, factor, halves):  # type: ignore[no-untyped-def]
    """Add the vector with the half-precision bits ``[D]``, times a factor, to ``weight [D]``."""
    for j in range(len(weight)):
        weight[j] += factor * _value(halves[j])


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _squared_norm(weight):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(weight)):
        total += weight[j] * weight[j]
    return np.float64(total)
