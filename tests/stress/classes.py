"""What detection costs after the proposals, by the number of classes, beside the network alone.

``python -m tests.stress.classes MODEL FOLDER [--photos N] [--classes 20 80] [--precision float32]``

A model of fewer classes gets more by repetition: the weights of its classes again, with a little noise. Each
photo passes the network alone and then the whole detection, in turn. Times are CPU times of one thread, so
that other work on the machine weighs on both alike; with ``--threads N`` they are the clock's.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spp_det.data.folder import find_images
from spp_det.images import read_image
from spp_det.model import detector as module
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector, own_windows
from spp_det.model.svm import LinearSVMs

NOISE = 0.02  # of the standard deviation of the weights


def repeated(detector: Detector, classes: int) -> Detector:
    """The detector with so many classes: each class's weights again and again, with noise after the first."""
    generator = torch.Generator().manual_seed(0)
    known = len(detector.classes)
    assert isinstance(detector.scorer, LinearSVMs)

    def more(weights: torch.Tensor) -> torch.Tensor:
        rows = weights[torch.arange(classes) % known]
        noise = torch.randn(rows.shape, generator=generator) * (NOISE * weights.std())
        noise[:known] = 0
        return rows + noise

    names = [f"{detector.classes[k % known]} {k}" for k in range(classes)]
    scorer = LinearSVMs(more(detector.scorer.weight), more(detector.scorer.bias))
    regressors = [BoxRegressor(more(each.weight), more(each.bias)) for each in detector.regressors]
    return Detector(names, detector.features, detector.head, scorer, regressors, detector.settings)


Seconds = dict[str, float]


@contextmanager
def timed_parts(seconds: Seconds, clock: Callable[[], float]) -> Iterator[None]:
    """Add up the seconds of the first look, of the second look and of the suppression after it."""
    parts = {"second look": (module, "look_again"), "suppression": (module, "suppress")}
    parts["first look"] = (Detector, "score")  # type: ignore[assignment]
    before: dict[str, Any] = {name: getattr(*place) for name, place in parts.items()}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start, seen = clock(), sum(seconds.values())
            result = function(*arguments)
            # What one part calls of another counts as the outer one's.
            inner = sum(seconds.values()) - seen
            seconds[name] += clock() - start - inner
            return result

        return run

    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, timed(name, before[name]))
    try:
        yield
    finally:
        for name, (owner, attribute) in parts.items():
            setattr(owner, attribute, before[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 80])
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    detector = Detector.load(given.model, "cpu", given.precision)
    paths = find_images([given.folder])
    chosen = np.random.default_rng(0).permutation(len(paths))[: given.photos]
    photos = [read_image(paths[index]) for index in chosen]
    windows = [own_windows(detector, photo) for photo in photos]
    for classes in given.classes:
        model, parts = repeated(detector, classes), defaultdict[str, float](float)
        network, whole, found = 0.0, 0.0, 0
        model.detect(photos[0], windows[0])  # compiles and warms up
        for photo, own in zip(photos, windows, strict=True):
            start = clock()
            with torch.inference_mode():
                model.features.maps(photo)
            middle = clock()
            with timed_parts(parts, clock):
                found += len(model.detect(photo, own)["scores"])
            network, whole = network + middle - start, whole + clock() - middle
        each = 1000 / len(photos)
        shown = ", ".join(f"{name} {each * seconds:.1f}" for name, seconds in parts.items())
        print(
            f"{classes} classes, {given.precision}, {given.threads} threads: whole / network "
            f"{whole / network:.2f}; ms a photo: network {each * network:.1f}, whole {each * whole:.1f}, "
            f"{shown}; {found / len(photos):.0f} detections a photo"
        )


if __name__ == "__main__":
    main()
