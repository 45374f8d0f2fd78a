"""Other processors on this one: every test that compares bytes, as older processors and machines compute.

    python -m tests.stress.processors [arguments of pytest]

Each setting alone tells one library to leave out what this processor has, or gives torch another number of
threads. The last row is `tests/splitting.py`, a processor on which each sum depends on the number of threads.
A row says for which networks conv5 has other bits on two threads than on one there: without any, it is not
tried that nothing depends on the number of threads.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.splitting import SWITCH

ROOT = Path(__file__).parents[2]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SETTINGS: list[dict[str, str]] = [
    {},
    *({"ONEDNN_MAX_CPU_ISA": isa} for isa in ("SSE41", "AVX2", "AVX512_CORE")),
    *({"ATEN_CPU_CAPABILITY": isa} for isa in ("default", "avx2")),
    *({"MKL_CBWR": isa} for isa in ("COMPATIBLE", "AVX2")),
    {"OPENBLAS_CORETYPE": "Haswell"},
    {"NUMBA_CPU_NAME": "generic"},
    *(dict.fromkeys(THREADS, str(count)) for count in (1, 2, 3, 5)),
    {SWITCH: "1"},
]
PROBE = """
import torch
from spp_det.model.backbone import Backbone

for name, height, width in (
    ("zf5_small", 96, 128), ("alexnet", 64, 64), ("alexnet", 100, 140), ("squeezenet1_0", 96, 128)
):
    backbone, found = Backbone(name), []
    pixels = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(0))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(backbone(pixels.to(torch.uint8)))
    if not torch.equal(*found):
        print(f"{name} {height}x{width}", end=", ")
"""


def main() -> None:
    table = Table("setting", "other bits on 2 threads", "passed", "failed", "minutes")
    failures, discriminating = [], 0
    for setting in SETTINGS:
        environment = {key: value for key, value in os.environ.items() if key not in _all_names()}
        environment |= setting | {"PYTHONPATH": str(ROOT)}
        name = ", ".join(f"{key}={value}" for key, value in setting.items() if key != THREADS[1]) or "none"
        differing = "every one" if SWITCH in setting else _output([sys.executable, "-c", PROBE], environment)
        discriminating += bool(differing) and SWITCH not in setting
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-m", "bytes", "-rfE"]
        told = _output([*command, *(sys.argv[1:] or ["tests"])], environment)
        minutes = (time.monotonic() - start) / 60
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", told)}
        bad = counts.get("failed", 0) + counts.get("error", 0) + ("passed" not in counts)
        lines = [line for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))]
        failures += [f"{name}: {line}" for line in lines or ["something failed"] * bool(bad)]
        print(f"{name}: {counts}, {minutes:.1f} minutes", flush=True)
        shown = differing.rstrip(", ") or "none"
        table.add_row(name, shown, str(counts.get("passed", 0)), str(bad), f"{minutes:.1f}")
    Console(width=140).print(table)
    if not discriminating:
        print("Convolutions have the same bits on 1 and 2 threads here.")
        print("But for its last row this table discriminates nothing.")
    print("\n".join(failures) or "all green")
    sys.exit(bool(failures))


def _all_names() -> set[str]:
    return {key for setting in SETTINGS for key in setting}


def _output(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout


if __name__ == "__main__":
    main()
