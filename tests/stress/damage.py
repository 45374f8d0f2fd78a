"""Files with damage of every kind: bytes, or one thing wrong in what is otherwise well-formed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save
from scipy.io import savemat

from spp_det.model.model_file import _checksum
from spp_det.runtime.cache import _crc32
from tests.stress.corrupt import VALUES, Rng, corrupted, corrupted_tree

ARTEFACTS = {"mining", "finetune", "svms", "regressors", "norms"}  # the stages whose checksums are mended


def damage(rng: Rng, folder: Path, patterns: Sequence[str]) -> None:
    """Damage one of the files that match, or two: by bytes, or well-formed with one thing wrong."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    for _ in range(int(rng.choice([1, 1, 1, 2]))):
        path, other = (files[i] for i in rng.integers(len(files), size=2))
        rewrite = _REWRITERS.get(path.suffix)
        if rewrite is not None and rng.random() < 0.5:
            try:
                rewrite(rng, path)
                continue
            except Exception:  # it is damaged already, or its format cannot hold that value
                pass
        path.write_bytes(corrupted(rng, path.read_bytes(), other.read_bytes()))


def _rewrite_json(rng: Rng, path: Path) -> None:
    path.write_text(json.dumps(corrupted_tree(rng, json.loads(path.read_bytes()))))


def _rewrite_lines(rng: Rng, path: Path) -> None:
    lines = path.read_bytes().splitlines()
    chosen = rng.integers(len(lines))
    lines[chosen] = json.dumps(corrupted_tree(rng, json.loads(lines[chosen]))).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def _rewrite_xml(rng: Rng, path: Path) -> None:
    """Another text in one of the elements, or the element once more."""
    tree = ElementTree.parse(path)
    elements = [element for element in tree.iter() if len(element) == 0]
    element = elements[rng.integers(len(elements))]
    element.text = str(VALUES[rng.integers(len(VALUES))])
    tree.write(path)


def _rewrite_words(rng: Rng, path: Path) -> None:
    """Another word in one of the lines, as commas or blanks separate them."""
    lines = path.read_text().splitlines()
    chosen = rng.integers(len(lines))
    words = re.split("([, ])", lines[chosen])
    words[rng.integers(len(words))] = str(VALUES[rng.integers(len(VALUES))])
    lines[chosen] = "".join(words)
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass")


def _rewrite_yaml(rng: Rng, path: Path) -> None:
    path.write_text(yaml.safe_dump(corrupted_tree(rng, yaml.safe_load(path.read_bytes()))))


def _rewrite_arrays(rng: Rng, path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    name = sorted(arrays)[rng.integers(len(arrays))]
    wrong = (
        *(np.zeros(3), np.zeros((2, 5)), np.array("x"), np.full((1, 4), np.nan), np.zeros((0, 4), np.int8)),
        *(
            np.array([{}], object),
            np.full((1, 4), 1e300),
            np.zeros((1, 4), complex),
            np.zeros((2, 4), "M8[s]"),
        ),
    )
    np.savez(path, **{**arrays, name: wrong[rng.integers(len(wrong))]})


def _rewrite_mat(rng: Rng, path: Path) -> None:
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = np.ones((1, 4)), np.array(["x"])
    wrong: tuple[Any, ...] = (cell, np.zeros((1, 2)), {"a": 1}, "text", np.array([[np.nan]]), cell[:, :1])
    images = np.array([["a", "b"]], object)
    boxes = np.empty((1, 2), object)
    boxes[0, 0] = boxes[0, 1] = np.ones((1, 4))
    tree = {"images": images, "boxes": boxes}
    tree[["images", "boxes"][rng.integers(2)]] = wrong[rng.integers(len(wrong))]
    savemat(path, tree)


def _rewrite_safetensors(rng: Rng, path: Path) -> None:
    """A wrong tensor or wrong metadata; the checksum of a model or of an artefact of `ARTEFACTS` is right."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = sorted(tensors)[rng.integers(len(tensors))]
    wrong: tuple[torch.Tensor, ...] = (
        *(torch.zeros(0), torch.zeros(3), torch.zeros((1, 4, 2, 2)), tensors[name].double(), torch.tensor(1)),
        *(tensors[name] * float("nan"), tensors[name].bool(), torch.zeros(2, dtype=torch.bfloat16)),
    )
    if rng.random() < 0.6 or not metadata:
        tensors[name] = wrong[rng.integers(len(wrong))]
    else:
        key = sorted(metadata)[rng.integers(len(metadata))]
        metadata[key] = json.dumps(corrupted_tree(rng, json.loads(metadata[key])))
    if set(path.parts) & ARTEFACTS:
        metadata["crc32"] = _crc32({name: tensor.numpy() for name, tensor in tensors.items()})
    elif "crc32" in metadata:
        metadata["crc32"] = _checksum(metadata, tensors)
    path.write_bytes(save(tensors, metadata))


_REWRITERS = {
    ".json": _rewrite_json,
    ".jsonl": _rewrite_lines,
    ".xml": _rewrite_xml,
    ".txt": _rewrite_words,
    ".data": _rewrite_words,
    ".names": _rewrite_words,
    ".csv": _rewrite_words,
    ".yaml": _rewrite_yaml,
    ".npz": _rewrite_arrays,
    ".mat": _rewrite_mat,
    ".safetensors": _rewrite_safetensors,
}
