"""Damage to valid files: what disks, editors, half-finished downloads and attackers do to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

# Values that parse and are wrong, or are just at the edge of right.
NUMBERS = (
    *(b"0", b"-1", b"1", b"65536", b"2147483648", b"-9223372036854775809", b"1e999", b"-1e-320", b"NaN"),
    *(b"Infinity", b"0x10", b"1_0", b"0.1.2", b"9" * 5000, b"true", b"null", b'""', b"2026-99-99"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), 0.5),
    *(
        "",
        "x",
        "../../outside/secret.jpg",
        "/etc/passwd",
        "C:\\x",
        "a\0b",
        "\ud800",
        "é" * 300,
        "x" * 100_000,
        "y" * 2_000_000,
        "\x1b]0;a\x07\u202e\x9b\r",
        "a\udfffb",
        "=1+1",
    ),
    *([], {}, [[]], [None], [1, 2, 3, 4], {"id": 1}, [[[[[[[[1]]]]]]]], "\n\x1b[31m", "-1", "1"),
)
TEXTS = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<![CDATA[", b"]]>"),
    *(b"*a", b"&a [*a]", b"!!python/object/apply:os.system ['true']", b"../", b"[" * 5000, b"{" * 5000),
    *(b'"', b"'", b"\n", b"\r", b"\t", b"\\u0000", b"%", b"<object>", b"</object>", b"- ", b": "),
)


def corrupted(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The bytes of a file after one to three kinds of damage; ``other`` is a second file to splice with."""
    for _ in range(int(rng.choice([1, 1, 1, 1, 2, 3]))):
        kind = _KINDS[rng.integers(len(_KINDS))]
        data = kind(rng, data, other)
    return data


def corrupted_tree(rng: Rng, tree: Any) -> Any:
    """A tree of dicts and lists with one node replaced, removed, doubled or renamed; the given one stays."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return VALUES[rng.integers(len(VALUES))]
    if isinstance(tree, list):
        index = int(rng.integers(len(tree)))
        kind = rng.random()
        if kind < 0.1:
            return tree[:index] + tree[index + 1 :]
        if kind < 0.2:
            return [*tree, tree[index]]
        return [*tree[:index], corrupted_tree(rng, tree[index]), *tree[index + 1 :]]
    key = list(tree)[rng.integers(len(tree))]
    kind = rng.random()
    if kind < 0.1:
        return {name: value for name, value in tree.items() if name != key}
    if kind < 0.2:
        return {(f"{name}x" if name == key else name): value for name, value in tree.items()}
    return {**tree, key: corrupted_tree(rng, tree[key])}


def _place(rng: Rng, data: bytes) -> int:
    """Half of the places lie near the beginning, where the headers are."""
    most = min(len(data), 512) if rng.random() < 0.5 else len(data)
    return int(rng.integers(most + 1))


def _flip(rng: Rng, data: bytes, _other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        place = min(_place(rng, data), len(data) - 1)
        if place >= 0:
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(rng: Rng, data: bytes, _other: bytes) -> bytes:
    place, count = _place(rng, data), int(rng.integers(1, 17))
    byte = int(rng.choice([0, 255, 127, 128]))
    return data[:place] + bytes([byte]) * count + data[place + count :]


def _cut(rng: Rng, data: bytes, _other: bytes) -> bytes:
    return data[: _place(rng, data)]


def _remove(rng: Rng, data: bytes, _other: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + int(rng.integers(1, 65)) :]


def _repeat(rng: Rng, data: bytes, _other: bytes) -> bytes:
    place, count = _place(rng, data), int(rng.integers(1, 65))
    return data[:place] + data[place : place + count] * int(rng.integers(2, 50)) + data[place + count :]


def _splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _number(rng: Rng, data: bytes, _other: bytes) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:65536]))
    if not found:
        return _flip(rng, data, b"")
    place = found[rng.integers(len(found))]
    return data[: place.start()] + NUMBERS[rng.integers(len(NUMBERS))] + data[place.end() :]


def _insert(rng: Rng, data: bytes, _other: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + TEXTS[rng.integers(len(TEXTS))] + data[place:]


_KINDS: tuple[Callable[[Rng, bytes, bytes], bytes], ...] = (
    *(_flip, _flip, _overwrite, _cut, _remove, _repeat, _splice, _number, _number, _insert),
)
