"""Two processes against a single-threaded one, on real data: time, equality, and one of them killed.

Run by hand, with the machine otherwise idle:

    python -m tests.stress.ranks RECIPE data.root=ROOT data.test=test [section.key=value ...]

Both trainings begin with nothing. Then one of two processes is killed while it mines, and one, two and three
processes go on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from spp_det.runtime.cache import Cache

STAGES = ("proposals_and_maps", "norm", "svm")  # what the processes share out by image
TIME = 0.6  # of one single-threaded process, that two may take for these stages
ENDS_WITHIN = 30.0  # seconds after the death of a peer
LATE = ("norms", "mining", "svms", "regressors")  # what a training makes after its maps


def launch(processes: int, arguments: list[str], terminal: Path) -> subprocess.Popen[bytes]:
    """The command line by so many processes of a thread each; a single one on a core of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]

    def one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    with terminal.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *torchrun, "-m", "spp_det", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=one_core if processes == 1 else None,
            stdout=file,
            stderr=file,
        )


def finished(processes: int, arguments: list[str], terminal: Path) -> float:
    """Seconds until it has ended; exits where it fails."""
    start = time.monotonic()
    if launch(processes, arguments, terminal).wait():
        sys.exit(terminal.read_text()[-3000:])
    return time.monotonic() - start


def ranks_of(launcher: int) -> list[int]:
    """The process ids of the ranks, which are the launcher's children, by whichever of its threads."""
    threads = Path(f"/proc/{launcher}/task").glob("*/children")
    return sorted(int(child) for children in threads for child in children.read_text().split())


def killed_while_mining(arguments: list[str], folder: Path, terminal: Path) -> float:
    """Seconds that two processes live on after the second was killed in the middle of its mining."""
    process = launch(2, arguments, terminal)
    while not list((folder / "cache").glob("mining/**/*.safetensors")):  # the first checkpoint
        if process.poll() is not None:
            sys.exit(f"it ended before it could be killed: {terminal.read_text()[-2000:]}")
        time.sleep(0.05)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    start = time.monotonic()
    if not process.wait():
        sys.exit("two processes ended well although one was killed")
    return time.monotonic() - start


def differences(first: Path, second: Path) -> tuple[float, float, int]:
    """Largest differences of boxes in pixels and of scores, and how many detections only one has.

    Detections are matched in each image and class, in the order of their scores.
    """

    def read(path: Path) -> dict[tuple[int, int], list[Any]]:
        found: dict[tuple[int, int], list[Any]] = {}
        for one in json.loads(path.read_text()):
            found.setdefault((one["image_id"], one["category_id"]), []).append((*one["bbox"], one["score"]))
        return found

    ours, theirs = read(first), read(second)
    boxes = scores = 0.0
    alone = 0
    for key in ours.keys() | theirs.keys():
        a, b = np.array(ours.get(key, [])), np.array(theirs.get(key, []))
        if len(a) != len(b):
            alone += abs(len(a) - len(b))
            continue
        apart = np.abs(a - b)
        boxes, scores = max(boxes, float(apart[:, :4].max())), max(scores, float(apart[:, 4].max()))
    return boxes, scores, alone


def check(name: str, good: bool, faults: list[str]) -> None:
    """Note and print what is wrong."""
    print(f"{name}: {'yes' if good else 'NO'}", flush=True)
    if not good:
        faults.append(name)


def main() -> None:
    """Print what was seen; exit with 1 where it is not what it should be."""
    folder, given, faults = Path(mkdtemp(prefix="ranks-")), sys.argv[1:], list[str]()
    terminal = folder / "terminal.txt"

    def training(name: str) -> list[str]:
        return ["train", *given, f"output={folder / name}"]

    def model(name: str) -> bytes:
        return (folder / name / "model.safetensors").read_bytes()

    laps: dict[str, float] = {}
    for name, processes in (("one", 1), ("two", 2)):
        whole = finished(processes, training(name), terminal)
        seconds = json.loads((folder / name / "metrics.json").read_text())["seconds"]
        laps[name] = sum(seconds[stage] for stage in STAGES)
        print(f"{name}: {whole:.0f} s in all, {laps[name]:.0f} s of {seconds}", flush=True)
    print(f"two take {laps['two'] / laps['one']:.2f} of the time of one", flush=True)
    check(f"at most {TIME} of it", laps["two"] <= TIME * laps["one"], faults)
    check("the same model to the byte", model("one") == model("two"), faults)
    boxes, scores, alone = differences(*(folder / n / "test" / "detections.json" for n in ("one", "two")))
    print(f"detections: {boxes:.1e} pixels and {scores:.1e} in score apart, {alone} found by one alone")
    check("the same detections", boxes <= 1e-4 and scores <= 1e-3 and not alone, faults)

    wanted = model("two")
    for processes in (1, 2, 3):
        _unmake(folder / "two")
        seconds = killed_while_mining(training("two"), folder / "two", terminal)
        print(f"one of two killed: the other ends after {seconds:.1f} s", flush=True)
        check(f"it ends within {ENDS_WITHIN:.0f} s", seconds <= ENDS_WITHIN, faults)
        took = finished(processes, training("two"), terminal)
        print(f"{processes} processes went on in {took:.0f} s", flush=True)
        check("the same model to the byte", model("two") == wanted, faults)
    if faults:
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


def _unmake(run: Path) -> None:
    """Leave the run as it was before mining."""
    (run / "model.safetensors").unlink()
    for stage in LATE:
        Cache(run / "cache").prune(stage)


if __name__ == "__main__":
    main()
