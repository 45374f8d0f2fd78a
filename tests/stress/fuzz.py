"""Damaged files for every reader, by the thousand: ``python -m tests.stress.fuzz --count 10000``.

Each case damages valid files and reads them. It may end in a result or in a UserError; a table counts what
else happens: tracebacks, crashes of the process, hangs, and anything that `tests.stress.guard` sees. Every
case depends on its reader, the seed and its number alone: ``--only voc --first 17 --count 1`` repeats one.
Not collected by pytest, where `tests/end_to_end/test_hostile.py` runs a few of the same cases.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.stress.memory import MIB, measurable, resident

PATIENCE = 30.0  # seconds without an answer are a hang, on a machine that has other things to do as well
MEMORY = 6 * 2**30  # bytes of data; an input that asks for more gets a MemoryError
MOST_MEMORY = 300 * MIB  # over the idle process; a picture may take 64 bytes a pixel more
ENDS = ("used", "refused", "traceback", "crash", "hang", "out of bounds", "memory")


def run_case(name: str, seed: int, number: int, valid: Path, box: Path) -> tuple[str, str]:
    """Damage a copy of the valid files and read it. How that ended, and in which words."""
    from spp_det.errors import UserError
    from tests.stress.damage import damage
    from tests.stress.guard import watched
    from tests.stress.planting import plant, plant_beside
    from tests.stress.readers import READERS

    given, out = _copied(valid, box)
    (box / "outside").mkdir(exist_ok=True)
    (box / "outside" / "secret.jpg").write_bytes(b"secret")
    reader, rng = READERS[name], np.random.default_rng([seed, number, *name.encode()])
    if reader.drawn is not None:
        reader.drawn(rng, given)
    elif reader.beside and rng.random() < 0.5:
        plant_beside(rng, given, reader.beside)
    elif rng.random() < reader.planted:
        plant(rng, given, reader.patterns, reader.links, reader.folders)
    else:
        damage(rng, given, reader.patterns)
    writable = given if reader.in_place else out
    with watched(box, writable) as found:
        try:
            reader.read(given, out)
            end, words = "used", ""
        except UserError as error:
            end, words = "refused", str(error)
            if "\n" in words:
                end, words = "traceback", f"more than one line: {words!r}"
        except OSError as error:  # of the system: the command says it in one line
            end = "refused" if error.strerror else "traceback"
            words = str(error)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)
            ours = next((f for f in reversed(place) if "spp_det" in f.filename), place[-1])
            end = "traceback"
            words = (
                f"{type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}: {str(error)[:200]!r}"
            )
    return ("out of bounds", "; ".join(found)[:300]) if found else (end, words)


def _copied(valid: Path, box: Path) -> tuple[Path, Path]:
    """Two folders: with a copy of the valid files, and empty."""
    given, out = box / "in", box / "out"
    for folder in (given, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, given)
    out.mkdir()
    return given, out


def read_undamaged(name: str, valid: Path, box: Path) -> None:
    """What must work; and what libraries do on their first call is their own affair."""
    from tests.stress.readers import READERS

    READERS[name].read(*_copied(valid, box))


def _worker(name: str, seed: int, numbers: range, valid: Path, box: Path) -> None:
    """Run cases and print each one's end, a line of JSON."""
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print
    read_undamaged(name, valid, box)
    told = measurable()
    idle = resident("VmRSS")
    for number in numbers:
        end, peak = run_case(name, seed, number, valid, box), 0
        if told:
            peak = resident("VmHWM") - idle
            if (
                end[0] in ("used", "refused")
                and peak > MOST_MEMORY
                and peak > MOST_MEMORY + 64 * _pixels(box / "in")
            ):
                end = "memory", f"{peak // MIB} MiB"
            measurable()  # the peak begins anew
        print(json.dumps([number, *end, peak // MIB]), file=answers, flush=True)


def _pixels(folder: Path) -> int:
    """Of the largest picture there."""
    from spp_det.images import UnreadableImageError, image_size

    most = 0
    for path in folder.rglob("*.*"):
        try:
            width, height = image_size(path)
        except UnreadableImageError:
            continue
        most = max(most, width * height)
    return most


def _answers(arguments: list[str]) -> Iterator[str | None]:
    """The lines that a worker prints; None at the end where it hangs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stress.fuzz", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector, process:
        selector.register(process.stdout, selectors.EVENT_READ)
        patience = 120.0  # to start
        try:
            while selector.select(patience):
                line = process.stdout.readline()
                if not line:
                    return
                patience = PATIENCE
                yield line
            yield None
        finally:
            process.kill()


def fuzz(name: str, seed: int, numbers: range, folder: Path) -> Iterator[tuple[int, str, str, int]]:
    """The cases of one reader in processes of their own: number, end, words and peak in MiB of each."""
    from tests.stress.readers import READERS

    valid = folder / "valid" / name
    valid.mkdir(parents=True)
    READERS[name].write(valid)
    box = folder / "box" / name
    box.mkdir(parents=True)
    read_undamaged(name, valid, box)
    while numbers:
        span = f"{numbers.start}:{numbers.stop}"
        arguments = ["--worker", name, "--seed", str(seed), "--span", span, "--folder", str(folder)]
        for line in _answers(arguments):
            if line is None:
                yield numbers.start, "hang", f"nothing for {PATIENCE:g} s", 0
                numbers = numbers[1:]
                break
            number, end, words, peak = json.loads(line)
            yield number, end, words, peak
            numbers = range(number + 1, numbers.stop)
        else:
            if numbers:
                yield numbers.start, "crash", "the process died", 0
                numbers = numbers[1:]


def main() -> None:
    """Parse, run, print the table; exit code 1 where anything but a result or a refusal was seen."""
    from tests.stress.readers import READERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", choices=READERS, nargs="+", help="these readers alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--span", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        valid, box = (chosen.folder / kind / chosen.worker for kind in ("valid", "box"))
        _worker(chosen.worker, chosen.seed, range(*map(int, chosen.span.split(":"))), valid, box)
        return
    logging.disable()  # the valid files are read in this process
    names = chosen.only or list(READERS)
    each = chosen.count / sum(READERS[name].share for name in names)
    sums: Counter[str] = Counter()
    print(f"{'reader':<22}" + "".join(f"{end:>14}" for end in (*ENDS, "peak MiB")))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            counts: Counter[str] = Counter()
            messages, highest = [], 0
            numbers = range(chosen.first, chosen.first + math.ceil(each * READERS[name].share))
            for number, end, words, peak in fuzz(name, chosen.seed, numbers, Path(folder)):
                counts[end] += 1
                highest = max(highest, peak)
                if end not in ("used", "refused"):
                    messages.append(f"    case {number}: {end}: {words}")
            print(
                f"{name:<22}" + "".join(f"{counts[end]:>14}" for end in ENDS) + f"{highest:>14}",
                *messages,
                sep="\n",
                flush=True,
            )
            sums += counts
    print(f"{'all':<22}" + "".join(f"{sums[end]:>14}" for end in ENDS))
    sys.exit(any(sums[end] for end in ENDS[2:]))


if __name__ == "__main__":
    main()
