"""Pictures of extreme shapes cost memory in proportion to their pixels, or are unreadable by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.errors import UserError, is_out_of_memory
from spp_det.images import UnreadableImageError
from spp_det.proposals.reference import search_by_opencv
from spp_det.proposals.selective import selective_search
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.runtime.opencv import cv2
from tests.stress.memory import MIB, growth, measurable


def stripes(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, ::7] = 200
    return image


@pytest.mark.skipif(not measurable(), reason="no peak of memory is told here")
@pytest.mark.parametrize("engine", ["native", "opencv"])
@pytest.mark.parametrize(("height", "width"), [(1, 60_000), (60_000, 1), (3, 30_000), (20_000, 2)])
def test_a_search_takes_memory_by_pixels_or_none(height, width, engine):
    image = stripes(height, width)
    selective_search(image[:60, :60], threads=1)

    def search() -> None:
        if engine == "native":
            windows = selective_search(image, threads=1)
            assert windows[:, 2:].max(axis=0).tolist() == [width, height]
            return
        with pytest.raises(MemoryError, match=r"proposals\.engine=native"):
            selective_search(image, threads=1, engine="opencv")

    assert growth(search) < 300 * MIB + 64 * image.size // 3


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((2**50,), np.dtype("f4")),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        cv2.error(
            "OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 500000 bytes"
        ),
    ],
)
def test_an_allocation_that_fails_makes_the_image_unreadable_by_name(tmp_path, monkeypatch, error):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("spp_det.proposals.selective.selective_search", fails)
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    source = WindowSource(proposals_of("fast"))
    assert is_out_of_memory(error)
    for call in (
        lambda: source.windows(stripes(8, 9), tmp_path / "a.png"),
        lambda: source.windows_of_file(tmp_path / "a.png", None, None),
    ):
        with pytest.raises(UnreadableImageError, match=r"a\.png: too large for the search .*9 x 8"):
            call()
    with pytest.raises(UnreadableImageError, match=r"^the image: too large"):
        source.windows(stripes(8, 9))


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), UserError("no"), cv2.error("no")])
def test_other_errors_are_what_they_are(monkeypatch, error):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("spp_det.proposals.selective.selective_search", fails)
    with pytest.raises(type(error), match="no"):
        WindowSource(proposals_of("fast")).windows(stripes(8, 9), Path("a.png"))


def test_usual_shapes_are_searched_by_opencv_too():
    from spp_det.proposals.presets import PRESETS

    assert len(search_by_opencv(stripes(40, 400), PRESETS["paper"], 1))
