"""``spp-det benchmark``: what each stage costs, beside what it replaces, in one run on one machine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say, show

PHOTO = (640, 480)  # width, height in pixels


def benchmark(
    out: Annotated[Path, typer.Option(help="File for the figures as JSON.")] = Path("benchmark.json"),
    backbone: Annotated[str, typer.Option(help="The network of SPP-net and R-CNN alike.")] = "alexnet",
    device: options.Device = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Small, to see that it works.")] = False,
) -> None:
    """Time every stage beside what it replaces: roi_pool, OpenCV's own call, R-CNN. Minutes on a CPU."""
    from spp_det.report.tables import benchmark_table
    from spp_det.runtime.cache import write_json
    from spp_det.runtime.devices import choose_device

    figures = run_benchmark(backbone, str(choose_device(device)), quick)
    write_json(out, figures)
    show(benchmark_table(figures))
    say(f"figures: {escape(str(out))}")


def run_benchmark(backbone: str = "alexnet", device: str = "cpu", quick: bool = False) -> dict[str, Any]:
    """Measure every topic of `spp_det.commands.benchmark_topics`. Returns the machine, and rows by topic.

    Args:
        backbone: the network of SPP-net and R-CNN alike.
        device: where the network runs.
        quick: few windows and small photos, to see that it works; the figures then mean nothing.
    """
    import torch

    from spp_det.commands import benchmark_topics as measure
    from spp_det.runtime.devices import has_bfloat16
    from spp_det.runtime.progress import track

    size = (200, 192) if quick else PHOTO
    windows = 100 if quick else 2000
    topics: dict[str, Callable[[], list[measure.Row]]] = {
        "pooling": lambda: measure.pooling(device, windows),
        "selective search": lambda: measure.search_threads(size),
        "after the proposals": lambda: measure.after_proposals(backbone, device, size, windows),
        "after the proposals, bfloat16": lambda: measure.after_proposals(
            backbone, device, size, windows, "bfloat16"
        ),
        "windows": lambda: measure.growth_with_windows(backbone, device, size, windows),
        "image size": lambda: measure.growth_with_size(backbone, device, size, windows),
        "a folder": lambda: measure.whole_folder(backbone, device, size, count=4 if quick else 100),
        "training": lambda: measure.growth_with_data(
            count=3 if quick else 25, size=size if quick else (320, 240)
        ),
    }
    if not has_bfloat16(torch.device(device)):
        del topics["after the proposals, bfloat16"]
    figures = {name: topic() for name, topic in track(list(topics.items()), "benchmark", unit="topics")}
    return {"machine": machine(device), "backbone": backbone, "figures": figures}


def machine(device: str) -> dict[str, Any]:
    """The processor, device and versions that the figures were measured on."""
    import torch

    from spp_det.runtime.devices import bfloat16_pays
    from spp_det.runtime.opencv import cv2
    from spp_det.runtime.threads import cores

    pays, why = bfloat16_pays(torch.device(device))
    return {
        "processor": processor(),
        "cores": cores(),
        "threads of torch": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "precision": f"auto is {'bfloat16' if pays else 'float32'}: {why}",
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
