"""Our selective search beside OpenCV's on the photos of ``../shared/data/{zoo6,bccd}``: speed and windows.

``python -m tests.stress.search [--photos N] [--only speed|windows|recall|pixels]``

Times are CPU times, both engines on each photo one after the other, so that other work on the machine weighs
on both alike; OpenCV has one thread. Ratios are OpenCV's time by ours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spp_det.boxes import Boxes, iou
from spp_det.commands.process import tune_process
from spp_det.data.voc import read_voc
from spp_det.images import RGB, read_image
from spp_det.proposals.selective import selective_search
from spp_det.runtime.opencv import cv2

DATA = Path("../shared/data")
SETS = ("zoo6", "bccd")
SEED = 0


def photos(count: int) -> Iterator[tuple[str, RGB]]:
    """So many photos of all sets, drawn at random, the same ones every time; fewer where there are fewer."""
    paths = sorted(path for name in SETS for path in (DATA / name / "JPEGImages").glob("*"))
    order = np.random.default_rng(SEED).permutation(len(paths))[:count]
    for index in order:
        yield paths[index].name, read_image(paths[index])


def resized(image: RGB, side: int) -> RGB:
    factor = side / max(image.shape[:2])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)


def preset_of_opencv(image: RGB, mode: str) -> Boxes:
    """OpenCV's own call; ``paper``, for which there is none, from its parts."""
    if mode == "paper":
        return selective_search(image, "paper", threads=1, engine="opencv")
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    search.switchToSelectiveSearchFast() if mode == "fast" else search.switchToSelectiveSearchQuality()
    found = search.process()
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1).astype(np.float32)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    work()
    return clock() - start


def speed(mode: str, side: int, count: int) -> None:
    ratios = []
    for _, photo in photos(count):
        image = resized(photo, side)
        selective_search(image, mode, threads=1)  # memory and caches as for the next photo of a folder
        theirs = seconds(lambda image=image: preset_of_opencv(image, mode))
        ours = min(seconds(lambda image=image: selective_search(image, mode, threads=1)) for _ in range(3))
        ratios.append(theirs / ours)
    mean = np.exp(np.log(ratios).mean())
    print(f"{mode} {side} px, {len(ratios)} photos: {mean:.2f}x, worst {min(ratios):.2f}x", flush=True)


def two_threads(side: int, count: int) -> None:
    ratios = []
    for _, photo in photos(count):
        image = resized(photo, side)
        theirs = seconds(lambda image=image: preset_of_opencv(image, "fast"), time.perf_counter)
        ours = min(
            seconds(lambda image=image: selective_search(image, threads=2), time.perf_counter)
            for _ in range(3)
        )
        ratios.append(theirs / ours)
    mean = np.exp(np.log(ratios).mean())
    print(f"fast {side} px, {len(ratios)} photos: {mean:.2f}x two threads, by the clock", flush=True)


def pixels(count: int) -> None:
    """What four times the pixels cost."""
    ratios = []
    for _, photo in photos(count):
        large = np.asarray(cv2.resize(photo, (1280, 960)), dtype=np.uint8)
        small = np.asarray(cv2.resize(photo, (640, 480), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        times = [
            min(seconds(lambda image=image: selective_search(image, threads=1)) for _ in range(3))
            for image in (small, large)
        ]
        ratios.append(times[1] / times[0])
    print(f"1280x960 by 640x480: {np.mean(ratios):.2f} times as long", flush=True)


def variants(count: int) -> Iterator[tuple[str, RGB]]:
    """Photos, their flips and rescalings."""
    for index, (name, photo) in enumerate(photos(-(-count // 5))):
        image = resized(photo, 500)
        yield name, image
        yield f"{name} mirrored", np.ascontiguousarray(image[:, ::-1])
        yield f"{name} upside down", np.ascontiguousarray(image[::-1])
        yield f"{name} smaller", resized(photo, 200 + 7 * (index % 20))
        yield f"{name} other", resized(photo, 400 + 11 * (index % 20))


def windows(count: int) -> None:
    jaccards = []
    for name, image in variants(count):
        ours = {tuple(row) for row in selective_search(image).tolist()}
        theirs = {tuple(row) for row in preset_of_opencv(image, "fast").tolist()}
        jaccards.append(len(ours & theirs) / len(ours | theirs))
        if ours != theirs:
            print(f"  {name} {image.shape[1]}x{image.shape[0]}: Jaccard {jaccards[-1]:.4f}", flush=True)
    same = np.mean([value == 1 for value in jaccards])
    print(
        f"fast, {len(jaccards)} photos, flips and rescalings: {same:.1%} the same set, worst Jaccard "
        f"{min(jaccards):.4f}, mean {np.mean(jaccards):.5f}",
        flush=True,
    )


def recall(name: str, count: int) -> None:
    dataset = read_voc(DATA / name, "test")
    found: dict[str, list[float]] = {"native": [], "opencv": []}
    for record in dataset.records[:count]:
        for engine, overlaps in found.items():
            boxes = selective_search(read_image(record.path), max_side=500, engine=engine)
            overlaps += iou(record.boxes, boxes).max(axis=1).tolist()
    for threshold in (0.5, 0.7):
        shares = {e: 100 * np.mean(np.array(values) >= threshold) for e, values in found.items()}
        print(
            f"{name} recall at IoU {threshold}: " + ", ".join(f"{e} {v:.2f}" for e, v in shares.items()),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=500, help="images whose windows are compared")
    parser.add_argument("--only", choices=("speed", "windows", "recall", "pixels"))
    arguments = parser.parse_args()
    missing = [name for name in SETS if not (DATA / name).is_dir()]
    if missing:
        raise SystemExit(f"absent: {', '.join(str(DATA / name) for name in missing)}")
    tune_process()  # as every command does
    cv2.setNumThreads(1)
    if arguments.only in (None, "speed"):
        speed("fast", 500, 40)
        speed("fast", 1000, 20)
        speed("paper", 500, 10)
        speed("quality", 500, 6)
        two_threads(500, 20)
    if arguments.only in (None, "pixels"):
        pixels(10)
    if arguments.only in (None, "windows"):
        windows(arguments.photos)
    if arguments.only in (None, "recall"):
        for name in SETS:
            recall(name, 10**6)


if __name__ == "__main__":
    main()
