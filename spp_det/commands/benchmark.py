"""``spp-det benchmark``: what each stage costs, beside what it replaces, in one run on one machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say, show
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.commands.benchmark_inputs import Row

# Seconds of each topic with AlexNet on two cores of an AMD EPYC, roughly: their proportions are what counts.
COSTS = {
    "pooling": 15,
    "selective search": 16,
    "parts of the search": 1,
    "network": 1,
    "after the proposals": 75,
    "after the proposals, bfloat16": 55,
    "windows": 2,
    "classes": 2,
    "image size": 3,
    "a folder": 45,
    "training": 40,
}


def benchmark(
    out: Annotated[Path, typer.Option(help="File for the figures as JSON.")] = Path("benchmark.json"),
    backbone: Annotated[str, typer.Option(help="The network of SPP-net and R-CNN alike.")] = "alexnet",
    device: options.Device = "auto",
    topics: Annotated[str | None, typer.Option(help=f"Only these, as a,b: {', '.join(COSTS)}.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small, to see that it works.")] = False,
) -> None:
    """Time every stage beside what it replaces: roi_pool, OpenCV's own call, R-CNN. Minutes on a CPU.

    Each topic is written when it is done, so that an interrupted run leaves what it has.
    """
    from spp_det.report.tables import benchmark_table
    from spp_det.runtime.devices import choose_device
    from spp_det.runtime.whole_files import write_json

    chosen = None if topics is None else _chosen(topics)
    figures: dict[str, Any] = {}
    for figures in run_benchmark(backbone, str(choose_device(device)), quick, chosen):
        write_json(out, figures)
    show(benchmark_table(figures))
    say(f"figures: {escape(str(out))}")


def _chosen(topics: str) -> list[str]:
    """Names of topics. A comma is also in one of the names."""
    left, names = topics, []
    while left:
        fitting = [name for name in COSTS if f"{left},".startswith(f"{name},")]
        if not fitting:
            unknown = left.partition(",")[0].strip()
            raise UserError(f"--topics: there is no {unknown!r}; the topics are {'; '.join(COSTS)}")
        names.append(max(fitting, key=len))
        left = left[len(names[-1]) + 1 :].strip()
    return names


def run_benchmark(
    backbone: str = "alexnet", device: str = "cpu", quick: bool = False, chosen: Iterable[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Measure topics, and yield all figures so far whenever one is done.

    The figures are the machine, rows by topic, the seconds that each topic took, the peak memory of a CUDA
    device by topic in MiB, and the names of the topics that are not measured yet.

    Args:
        backbone: the network of SPP-net and R-CNN alike.
        device: where the network runs.
        quick: few windows and small photos, to see that it works; the figures then mean nothing.
        chosen: names of topics, see `COSTS`; None: all.
    """
    import torch

    from spp_det.commands import benchmark_stages as stages
    from spp_det.commands import benchmark_whole as whole
    from spp_det.commands.benchmark_inputs import QUICK, WHOLE, device_memory
    from spp_det.runtime.devices import has_bfloat16

    sizes = QUICK if quick else WHOLE
    network = backbone, device, sizes
    topics: dict[str, Callable[[], list[Row]]] = {
        "pooling": lambda: stages.pooling(device, sizes),
        "selective search": lambda: stages.search_threads(sizes),
        "parts of the search": lambda: stages.search_parts(sizes),
        "network": lambda: stages.network(*network),
        "after the proposals": lambda: stages.after_proposals(*network),
        "after the proposals, bfloat16": lambda: stages.after_proposals(*network, "bfloat16"),
        "windows": lambda: stages.growth_with_windows(*network),
        "classes": lambda: stages.growth_with_classes(*network),
        "image size": lambda: whole.growth_with_size(*network),
        "a folder": lambda: whole.whole_folder(*network),
        "training": lambda: whole.growth_with_data(sizes),
    }
    if not has_bfloat16(torch.device(device)):
        del topics["after the proposals, bfloat16"]
    wanted = list(topics) if chosen is None else [name for name in topics if name in set(chosen)]
    figures: dict[str, Any] = {"machine": machine(device), "backbone": backbone}
    figures |= {"figures": {}, "seconds": {}, "device memory": {}, "not measured": wanted}
    device_memory(device)  # of what was before
    for place, name in enumerate(wanted):
        left = timedelta(seconds=round(seconds_left(figures["seconds"], wanted[place:])))
        say(f"{place + 1} of {len(wanted)}, {name}: about {left} left")
        start = time.perf_counter()
        rows = topics[name]()
        figures["figures"][name], figures["not measured"] = rows, wanted[place + 1 :]
        figures["seconds"][name] = time.perf_counter() - start
        if (peak := device_memory(device)) is not None:
            figures["device memory"][name] = peak
        yield figures


def seconds_left(took: Mapping[str, float], left: Iterable[str]) -> float:
    """How long the topics ``left`` will take: `COSTS`, by what those that are done took beside theirs."""
    done = sum(COSTS[name] for name in took)
    pace = sum(took.values()) / done if done else 1.0
    return pace * sum(COSTS[name] for name in left)


def machine(device: str) -> dict[str, Any]:
    """The processor, device and versions that the figures were measured on."""
    import torch

    from spp_det.runtime.devices import bfloat16_pays, fast_floats
    from spp_det.runtime.opencv import cv2
    from spp_det.runtime.threads import cores

    pays, why = bfloat16_pays(torch.device(device))
    return {
        "processor": processor(),
        "cores": cores(),
        "threads of torch": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "precision": f"auto is {fast_floats(torch.device(device)) if pays else 'float32'}: {why}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
    }


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
