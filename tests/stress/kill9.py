"""A small training that SIGKILL ends at a random instant must come to the same model when started again.

Run by hand: ``python -m tests.stress.kill9 --times 50``. Two recipes take turns, of frozen features and of
fine-tuned ones. "Repeated" are the CPU seconds that the killed and the resumed run took together, beyond one
whole run and one start on a full cache: more than seconds on the clock, where two threads are at work.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import yaml

from spp_det.data.synthetic import generate_voc
from spp_det.runtime.cache import Cache

REPEATED = 15.0  # CPU seconds of work that one kill may cost
SMALL = {
    "backbone": {"name": "zf5_small", "weights": "random", "scales": [240]},
    "svm": {"retrain_after": 300},
    "runtime": {"device": "cpu"},
}
RECIPES: dict[str, dict[str, object]] = {
    "frozen": {},
    "fine-tuned": {
        "fc": {"layer": "fc7", "weights": "random", "width": 256},
        "finetune": {"enabled": True, "learning_rate": 3e-3, "steps": 60, "last_steps": 20, "log_every": 40},
    },
}


@dataclass(frozen=True)
class Run:
    """What a process took, in seconds on the clock and of the CPU, and the exit code it ended with."""

    wall: float
    cpu: float
    code: int


def train(recipe: Path, output: Path, kill_after: float | None = None) -> Run:
    """The command line in a process of its own, killed after so many seconds if it still runs."""
    command = [sys.executable, "-m", "spp_det", "train", str(recipe), f"output={output}"]
    output.mkdir(parents=True, exist_ok=True)
    start, before = time.monotonic(), _cpu_of_children()
    with (output / "terminal.txt").open("ab") as terminal:
        process = subprocess.Popen(command, stdout=terminal, stderr=terminal)
    try:
        process.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return Run(time.monotonic() - start, _cpu_of_children() - before, process.returncode)


def _cpu_of_children() -> float:
    """Seconds of all that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Reference:
    """An uninterrupted training: its recipe and model, what it took, and what a second start takes."""

    recipe: Path
    model: bytes
    whole: Run
    start: Run

    @classmethod
    def of(cls, folder: Path, name: str, sections: dict[str, object]) -> Reference:
        recipe, output = folder / f"{name}.yaml", folder / name
        recipe.write_text(yaml.safe_dump({"data": {"root": str(folder / "voc")}, **SMALL, **sections}))
        whole = train(recipe, output)
        if whole.code:
            sys.exit((output / "terminal.txt").read_text())
        model = (output / "model.safetensors").read_bytes()
        start = train(recipe, output)
        print(
            f"{name}: {whole.wall:.1f} s ({whole.cpu:.1f} of CPU), a start {start.cpu:.1f} of CPU", flush=True
        )
        return cls(recipe, model, whole, start)


def killed_and_resumed(
    reference: Reference, output: Path, generator: random.Random
) -> tuple[float, str, float]:
    """The instant of the kill, what is wrong with the model then, or nothing, and the CPU seconds of work
    that were done twice. A run that ended before its instant is no kill: another one is drawn."""
    while True:
        instant = generator.uniform(0, reference.whole.wall)
        killed = train(reference.recipe, output, instant)
        if killed.code == -signal.SIGKILL:
            break
        if killed.code:
            return instant, f"ended by itself with {killed.code}", 0.0
        print(f"(it had ended before it could be killed at {instant:.1f} s)", flush=True)
        shutil.rmtree(output)
    return instant, *_resumed(reference, output, killed)


def _resumed(reference: Reference, output: Path, killed: Run) -> tuple[str, float]:
    resumed = train(reference.recipe, output)
    repeated = killed.cpu + resumed.cpu - reference.whole.cpu - reference.start.cpu
    if resumed.code:
        return f"ended with {resumed.code}: {(output / 'terminal.txt').read_text()[-500:]}", repeated
    if (output / "model.safetensors").read_bytes() != reference.model:
        return "another model", repeated
    if "mining" in Cache(output / "cache").stages():
        return "a checkpoint is left", repeated
    if repeated > REPEATED:
        return f"more than {REPEATED:g} s repeated", repeated
    return "", repeated


def main() -> None:
    """Print a line for each kill; exit with 1 where a model differs or too much was repeated."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    arguments = parser.parse_args()
    folder = Path(mkdtemp(prefix="kill9-"))
    generate_voc(folder / "voc", {"trainval": arguments.images}, seed=0, sizes=((240, 200), (200, 240)))
    references = [Reference.of(folder, name, sections) for name, sections in RECIPES.items()]
    generator, wrong, worst = random.Random(arguments.seed), 0, 0.0
    for number in range(arguments.times):
        reference = references[number % len(references)]
        output = folder / f"killed{number}"
        instant, fault, repeated = killed_and_resumed(reference, output, generator)
        worst, wrong = max(worst, repeated), wrong + bool(fault)
        name = reference.recipe.stem
        print(f"{number}: {name}, killed at {instant:.1f} s, repeated {repeated:.1f}. {fault}", flush=True)
        if not fault:
            shutil.rmtree(output)
    print(f"{arguments.times} kills, {wrong} wrong; at most {worst:.1f} CPU seconds repeated")
    if wrong:
        sys.exit(f"see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
