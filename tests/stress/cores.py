"""Trainings on several numbers of threads and processes, of which each loses two maps: the same bytes.

    python -m tests.stress.cores

What tests/end_to_end/test_cores.py shows of a simulated processor, this shows of the one at hand: each
training in processes of its own, and several of them under torchrun. It says whether that processor splits
sums by threads at all; where it does not, equal bytes prove little.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from tempfile import mkdtemp

import torch

from spp_det.data.synthetic import generate_voc
from spp_det.model.backbone import Backbone
from tests.end_to_end.test_cores import PHOTOS, maps

NETWORKS = {"squeezenet1_0": [96, 160], "alexnet": [96, 128], "zf5_small": [64, 96]}
RUNS = ((1, 1, False), (1, 1, True), (1, 2, True), (1, 4, True), (2, None, True), (3, None, True))
RANK = """
import os, sys
from contextlib import nullcontext
from pathlib import Path
import torch
from spp_det.runtime import distributed
from spp_det.config.file import parse_config
from spp_det.training.stages import train
from tests.end_to_end.test_cores import configure, maps_lost_half_way

folder, output, network, scales, threads, disturbed = sys.argv[1:]
config = configure(Path(folder), Path(output))
settings = config.model_dump(mode="json")
settings["backbone"] |= {"name": network, "scales": [int(s) for s in scales.split(",")]}
if threads != "None":
    torch.set_num_threads(int(threads))
losing = maps_lost_half_way() if disturbed == "True" and distributed.is_first() else nullcontext([0, 0])
with distributed.process_group(torch.device("cpu")), losing as lost:
    trained = train(parse_config(settings, "cores"))
    assert len(lost) == 2
    if distributed.is_first():
        trained.detector.save(Path(output) / "model.safetensors")
"""


def splits(network: str, scale: int) -> bool:
    """Whether conv5 has other bits on two threads than on one here."""
    backbone, found = Backbone(network), []
    image = torch.randint(0, 256, (1, 3, scale, scale), generator=torch.Generator().manual_seed(0))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(backbone(image.to(torch.uint8)))
    return not torch.equal(*found)


def main() -> None:
    folder = Path(mkdtemp(prefix="cores"))
    generate_voc(folder / "voc", {"trainval": PHOTOS}, seed=4, sizes=((112, 96), (96, 120)))
    (folder / "rank.py").write_text(RANK)
    bad = 0
    for network, scales in NETWORKS.items():
        known = "splits" if any(splits(network, scale) for scale in scales) else "does not split"
        print(f"{network}: this processor {known} its sums by threads", flush=True)
        whole: tuple[dict[str, bytes], bytes] | None = None
        for processes, threads, disturbed in RUNS:
            output = folder / f"{network}-{processes}-{threads}-{disturbed}"
            if (folder / "proposals").exists():
                copytree(folder / "proposals", output / "cache" / "proposals")
            several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            command = [sys.executable, *(several if processes > 1 else []), str(folder / "rank.py")]
            command += [str(folder), str(output), network, ",".join(map(str, scales)), str(threads)]
            root = Path(__file__).parents[2]
            ended = subprocess.run(
                [*command, str(disturbed)],
                env=os.environ | {"PYTHONPATH": str(root)},
                capture_output=True,
                text=True,
                check=False,
            )
            if ended.returncode:
                sys.exit(ended.stderr[-3000:])
            if not (folder / "proposals").exists():
                copytree(output / "cache" / "proposals", folder / "proposals")
            made = maps(output / "cache"), (output / "model.safetensors").read_bytes()
            whole = whole or made
            same = [one == other for one, other in zip(made, whole, strict=True)]
            bad += not all(same)
            told = zip(("maps", "model"), same, strict=True)
            words = ", ".join(f"{what} {'equal' if ok else 'DIFFER'}" for what, ok in told)
            kind = "two maps lost" if disturbed else "undisturbed"
            print(f"  {processes} processes, {threads} threads, {kind}: {words}", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
