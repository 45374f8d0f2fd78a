"""Detection over a long list of small images: memory, order, and stopping in the middle.

Run by hand: ``python -m tests.stress.folder --count 20000``. The images are generated; a model with random
weights will do, for it is the run that is looked at. Memory is the resident size of the process when so many
images are in the journal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import PIL.Image

from spp_det import parse_config, train
from spp_det.data.synthetic import generate_voc
from spp_det.detections.journal import NAME

EARLY = 1000  # images after which memory should have settled
WRITTEN = ("detections.json", "images.json", NAME)
SETTINGS = {
    "proposals": {"max_side": 64},
    "backbone": {"name": "zf5_small", "weights": "random", "scales": [64]},
    "bbox": {"enabled": False},
    "runtime": {"device": "cpu"},
}


def write_images(folder: Path, count: int) -> list[Path]:
    """So many images of 64 x 48 pixels with a few rectangles each, no two alike."""
    folder.mkdir(parents=True)
    generator, paths = np.random.default_rng(0), []
    for number in range(count):
        pixels = np.full((48, 64, 3), generator.integers(256, size=3), np.uint8)
        for _ in range(4):
            x, y = generator.integers(48), generator.integers(36)
            width, height = generator.integers(8, 24, size=2)
            pixels[y : y + height, x : x + width] = generator.integers(256, size=3)
        paths.append(folder / f"{number:06}.png")
        PIL.Image.fromarray(pixels).save(paths[-1])
    return paths


def model_of(folder: Path) -> Path:
    """A model trained on a few generated photos."""
    generate_voc(folder / "voc", {"trainval": 8}, seed=0, sizes=((240, 200),))
    places = {"output": str(folder / "run"), "data": {"root": str(folder / "voc")}}
    path = folder / "model.safetensors"
    train(parse_config({**SETTINGS, **places})).detector.save(path)
    return path


class Run:
    """``spp-det detect`` in a process of its own."""

    def __init__(self, model: Path, names: Path, out: Path, *options: str) -> None:
        command = [sys.executable, "-m", "spp_det", "detect", str(model), str(names), "--out", str(out)]
        self._journal = out / NAME
        self._terminal = out.with_suffix(".txt")
        with self._terminal.open("ab") as terminal:
            self.process = subprocess.Popen([*command, *options], stdout=terminal, stderr=terminal)

    def memory(self, every: float = 0.2) -> Iterator[tuple[int, int]]:
        """How many images are done and MiB resident, until the process ends; exits where it fails."""
        done, position = -1, 0  # the journal's first line is of no image
        while self.process.poll() is None:
            if self._journal.exists():
                with self._journal.open("rb") as file:
                    file.seek(position)
                    new = file.read()
                done, position = done + new.count(b"\n"), position + len(new)
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            if "VmRSS:" in status:
                yield done, int(status.split("VmRSS:")[1].split()[0]) // 1024
            time.sleep(every)
        if self.process.returncode not in (0, -signal.SIGKILL):
            sys.exit(self._terminal.read_text())


def main() -> None:
    """Print what was seen; exit with 1 where it is not what it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20000)
    count = parser.parse_args().count
    folder = Path(mkdtemp(prefix="folder-"))
    model, paths = model_of(folder), write_images(folder / "images", count)
    names = folder / "names.txt"
    names.write_text("".join(f"{path}\n" for path in paths))

    start = time.monotonic()
    seen = list(Run(model, names, folder / "whole").memory())
    seconds = time.monotonic() - start
    early = next(memory for done, memory in seen if done >= min(EARLY, count // 2))
    late = next(memory for done, memory in seen if done >= count)
    for part in range(1, 11):
        done, memory = next(one for one in seen if one[0] >= part * count // 10)
        print(f"after {done} images: {memory} MiB")
    print(f"{count} images in {seconds:.0f} s; {early} MiB early, {late} after the last", flush=True)
    print(f"at most {max(memory for _, memory in seen)}, some of it as the interpreter takes itself apart")

    found = json.loads((folder / "whole" / "images.json").read_text())["images"]
    in_order = [Path(image["file_name"]).name for image in found] == [path.name for path in paths]
    print(f"in order: {in_order}")

    halved = Run(model, names, folder / "halved")
    for done, _ in halved.memory():
        if done >= count // 2:
            halved.process.kill()
            print(f"killed after {done} images")
    for _ in Run(model, names, folder / "halved", "--resume").memory():
        pass
    same = all(
        (folder / "whole" / name).read_bytes() == (folder / "halved" / name).read_bytes() for name in WRITTEN
    )
    print(f"the same files after going on: {same}")
    if not (in_order and same and late <= 1.05 * early):
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
