"""The tests on a GPU machine in at most six minutes, those that a GPU decides first.

    PYTHONPATH=$PWD python -m tests.stress.gpu_suite OUT [--minutes 5.5] [--workers 16]

Needs no network and no installation: tests whose packages are not there count as missing. OUT gets
``suite.json``, ``suite.txt`` and pytest's output of each part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("pytest", "hypothesis", "xdist")
PARTS: dict[str, list[str]] = {  # in the order of what a GPU tells
    "kernels": ["tests/model", "-k", "triton or device or pooling or pyramid or suppression or second_look"],
    "whole journeys": ["tests/end_to_end/test_device.py"],
    "model": [
        "tests/model",
        "-k",
        "not (triton or device or pooling or pyramid or suppression or second_look)",
    ],
    "training": ["tests/training", "tests/pretraining", "tests/test_inference.py"],
    "the rest": [
        "tests",
        *(f"--ignore=tests/{name}" for name in ("model", "training", "pretraining", "test_inference.py")),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    shared = [] if "xdist" in missing else ["-n", str(given.workers), "--dist", "loadfile"]
    threads = str(max(1, given.workers // 8))  # each worker's, or all would wait for one another
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",
    }
    rows: dict[str, object] = {"missing packages": missing}
    end = time.monotonic() + 60 * given.minutes
    for name in given.parts:
        left = end - time.monotonic()
        if "pytest" in missing or left < 10:
            rows[name] = "not run: " + ("no pytest" if "pytest" in missing else "no time was left")
        else:
            rows[name] = run([*PARTS[name], *shared], environment, left, given.out / f"{name}.txt")
        (given.out / "suite.json").write_text(json.dumps(rows, indent=1))
        (given.out / "suite.txt").write_text("".join(f"{part}: {row}\n" for part, row in rows.items()))
        print(f"{name}: {rows[name]}", flush=True)


def run(arguments: list[str], environment: dict[str, str], limit: float, log: Path) -> dict[str, object]:
    """Counts, seconds and the tests that failed; what pytest says goes to ``log``."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *arguments]
    with log.open("w") as file:
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
    told = log.read_text(errors="replace")
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", told)}
    failed = [line for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {**counts, "ended": ended, "seconds": round(time.monotonic() - start), "failures": failed}


if __name__ == "__main__":
    main()
