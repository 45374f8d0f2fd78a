"""Selective search: the same sets of windows as OpenCV's own presets, on photographs, in one order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from spp_det.boxes import Boxes, clip
from spp_det.images import RGB
from spp_det.proposals.presets import MODES, SIGMA
from spp_det.proposals.selective import selective_search
from spp_det.runtime.opencv import cv2
from tests.stress.memory import measurable

ROOT = Path(__file__).parents[2]


def photo(name: str, height: int, width: int) -> RGB:
    """A photograph cropped about its middle to the shape asked for, then shrunk: all its contrasts stay."""
    image = load_sample_image(name)
    factor = min(image.shape[0] // height, image.shape[1] // width)
    top, left = (image.shape[0] - factor * height) // 2, (image.shape[1] - factor * width) // 2
    crop = image[top : top + factor * height, left : left + factor * width]
    return np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def image(request) -> RGB:
    return photo(request.param, 120, 160)


@pytest.fixture(scope="module")
def china() -> RGB:
    return photo("china.jpg", 96, 128)


def to_set(boxes: Boxes) -> set[tuple[float, ...]]:
    return {tuple(row) for row in boxes.tolist()}


def check(boxes: Boxes, image: RGB) -> None:
    """What every result obeys."""
    height, width = image.shape[:2]
    assert boxes.dtype == np.float32
    assert boxes.ndim == 2
    assert boxes.shape[1] == 4
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert np.array_equal(clip(boxes, width, height), boxes)
    rows = boxes.tolist()
    assert rows == sorted(rows)
    assert len(to_set(boxes)) == len(rows)


# ---------------------------------------------------------------- against OpenCV in one piece


@pytest.mark.parametrize("engine", ["native", "opencv"])
@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_the_windows_are_those_of_opencvs_preset(image, mode, engine):
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))  # BGR
    search.switchToSelectiveSearchFast() if mode == "fast" else search.switchToSelectiveSearchQuality()
    expected = {(x, y, x + width, y + height) for x, y, width, height in search.process().tolist()}
    boxes = selective_search(image, mode, engine=engine)
    if (engine, mode) == ("native", "fast") or engine == "opencv":
        assert to_set(boxes) == expected
    else:  # sizes alone leave many pairs equally similar, and OpenCV's order of these is not followed
        assert len(to_set(boxes) & expected) >= 0.98 * len(to_set(boxes) | expected)
    assert len(boxes) > 100
    check(boxes, image)


@pytest.mark.parametrize("shape", [(60, 300), (300, 60), (30, 250), (40, 40), (19, 70)])
def test_narrow_photos_have_opencvs_windows_too(shape):
    image = np.ascontiguousarray(load_sample_image("china.jpg")[100 : 100 + shape[0], 50 : 50 + shape[1]])
    assert np.array_equal(selective_search(image), selective_search(image, engine="opencv"))


@pytest.mark.parametrize("engine", ["native", "opencv"])
def test_paper_is_the_authors_fast_mode(image, engine):
    """k and the smallest segment are 50 and 100; windows with a side below 20 pixels are dropped."""
    module = cv2.ximgproc.segmentation
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    expected = set()
    for code in (cv2.COLOR_BGR2HSV, cv2.COLOR_BGR2Lab):
        for k in (50, 100):
            search = module.createSelectiveSearchSegmentation()
            search.setBaseImage(bgr)
            search.addImage(cv2.cvtColor(bgr, code))
            search.addGraphSegmentation(module.createGraphSegmentation(SIGMA, k, k))
            size = module.createSelectiveSearchSegmentationStrategySize
            fill = module.createSelectiveSearchSegmentationStrategyFill
            texture = module.createSelectiveSearchSegmentationStrategyTexture
            colour = module.createSelectiveSearchSegmentationStrategyColor
            several = module.createSelectiveSearchSegmentationStrategyMultiple
            search.addStrategy(several(colour(), fill(), texture(), size()))
            search.addStrategy(several(fill(), texture(), size()))
            expected |= {(x, y, x + w, y + h) for x, y, w, h in search.process().tolist() if min(w, h) >= 20}
    boxes = selective_search(image, "paper", engine=engine)
    assert to_set(boxes) == expected
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 20
    assert len(boxes) > 100
    check(boxes, image)


# ---------------------------------------------------------------- a pure function of the pixels


@pytest.mark.parametrize("threads", [1, 2, 5, 100])
def test_any_number_of_threads_gives_the_same_windows(china, threads):
    assert np.array_equal(selective_search(china, threads=threads), selective_search(china))


def test_an_image_searched_in_between_leaves_no_trace(china):
    before = selective_search(china)
    other = selective_search(255 - china[::-1])
    assert not np.array_equal(before, other)
    assert np.array_equal(selective_search(china), before)


def test_neither_memory_layout_nor_a_lock_on_the_image_matters(china):
    expected = selective_search(china)
    padded = np.zeros((200, 200, 3), np.uint8)
    padded[7 : 7 + 96, 9 : 9 + 128] = china
    view = padded[7 : 7 + 96, 9 : 9 + 128]
    locked = china.copy()
    locked.setflags(write=False)
    for same in (view, np.asfortranarray(china), locked, china[:, :, ::-1].copy()[:, :, ::-1]):
        assert np.array_equal(selective_search(same), expected)


@pytest.mark.parametrize("mode", MODES)
def test_the_image_is_left_as_it_was(china, mode):
    copy = china.copy()
    selective_search(china[:48, :64], mode, max_side=40)
    selective_search(china[:48, :64], mode)
    assert np.array_equal(china, copy)


# ---------------------------------------------------------------- searching in a smaller copy


def test_windows_of_a_smaller_copy_come_back_in_the_images_coordinates(china):
    large = cv2.resize(china, (384, 192), interpolation=cv2.INTER_LINEAR)  # 3 and 2 times as large
    shrunk = cv2.resize(large, (128, 64), interpolation=cv2.INTER_AREA)
    boxes = selective_search(large, max_side=128)
    assert np.array_equal(boxes, selective_search(shrunk) * np.float32(3))
    check(boxes, large)
    assert boxes[:, 2].max() == 384
    assert boxes[:, 3].max() == 192


def test_sides_that_do_not_divide_end_at_the_edge_all_the_same(china):
    cut = china[:91, :127]
    boxes = selective_search(cut, max_side=50)
    check(boxes, cut)
    assert boxes[:, 2].max() == 127
    assert boxes[:, 3].max() == 91


@pytest.mark.parametrize("max_side", [128, 129, 10_000, None])
def test_an_image_that_is_small_enough_is_searched_as_it_is(china, max_side):
    assert np.array_equal(selective_search(china, max_side=max_side), selective_search(china))


# ---------------------------------------------------------------- odd images


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 60), (60, 1), (2, 2), (3, 200), (200, 3), (19, 70)])
def test_tiny_and_thin_images_give_a_result(mode, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        boxes = selective_search(image, mode)
        check(boxes, image)
        if mode == "paper":
            assert len(boxes) == 0  # no window has two sides of 20 pixels


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_uniform_image_is_one_window(mode, value):
    boxes = selective_search(np.full((40, 50, 3), value, np.uint8), mode)
    assert boxes.tolist() == [[0, 0, 50, 40]]


def test_an_image_shrunk_to_almost_nothing_gives_a_result():
    image = np.random.default_rng(0).integers(0, 256, (3, 2000, 3), dtype=np.uint8)
    check(selective_search(image, max_side=16), image)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((40, 50), np.uint8),
        np.zeros((40, 50, 1), np.uint8),
        np.zeros((40, 50, 4), np.uint8),
        np.zeros((3, 40, 50), np.uint8),
        np.zeros((2, 40, 50, 3), np.uint8),
        np.zeros((40, 50, 3), np.float32),
        np.zeros((40, 50, 3), np.int64),
        np.zeros((40, 50, 3), bool),
        np.zeros((0, 50, 3), np.uint8),
        np.zeros((40, 0, 3), np.uint8),
        np.zeros(0, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_what_is_no_image_is_refused(array):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        selective_search(array)


def test_an_unknown_engine_lists_the_engines(china):
    with pytest.raises(ValueError, match="native or opencv"):
        selective_search(china, engine="fast")  # type: ignore[arg-type]


def test_an_unknown_mode_lists_the_modes(china):
    with pytest.raises(ValueError, match="fast, paper, quality"):
        selective_search(china, "slow")  # type: ignore[arg-type]


# ---------------------------------------------------------------- any image


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    cell=st.integers(1, 9),
    levels=st.integers(1, 256),
    mode=st.sampled_from(["fast", "quality"]),
    threads=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_are_a_pure_function_of_the_pixels(shape, cell, levels, mode, threads, seed):
    coarse = np.random.default_rng(seed).integers(0, levels, (shape[0] // cell + 1, shape[1] // cell + 1, 3))
    image = coarse.repeat(cell, 0).repeat(cell, 1)[: shape[0], : shape[1]].astype(np.uint8)
    boxes = selective_search(image, mode)
    check(boxes, image)
    assert [0, 0, shape[1], shape[0]] in boxes.tolist()
    for same in (np.asfortranarray(image), image[::-1].copy()[::-1]):
        assert np.array_equal(selective_search(same, mode, threads=threads), boxes)


MEMORY = """
import numpy as np
from spp_det.proposals.selective import selective_search
from tests.stress.memory import growth

def search(image):
    assert [0, 0, *image.shape[1::-1]] in selective_search(image, threads=1).tolist()

search(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
for height, width in ((1, 100_000), (100_000, 1), (10, 30_000), (700, 700)):
    image = np.random.default_rng(0).integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), np.uint8)
    image = image.repeat(7, 0).repeat(7, 1)[:height, :width].copy()
    print(height, width, growth(lambda: search(image)))
"""


@pytest.mark.skipif(not measurable(), reason="no peak of memory is told here")
def test_memory_grows_with_the_pixels_whatever_the_shape():
    """In a process of its own, which has no memory left over from other work."""
    run = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    grown = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert len(grown) == 4
    for height, width, size in grown:
        assert size < 32e6 + 400 * height * width, (height, width)


COMPILED = """
import numpy as np
from spp_det.proposals import grouping, regions, segmentation, selective
for channels in ("fast", "quality"):
    selective.selective_search(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), channels)
kernels = [kernel for module in (grouping, regions, segmentation) for kernel in vars(module).values()
           if hasattr(kernel, "stats") and kernel.signatures]
"""


def test_what_one_process_has_compiled_no_other_compiles_again():
    exec(COMPILED, {})  # the first one after the installation
    said = "print(len(kernels), sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels))"
    command = [sys.executable, "-c", COMPILED + said]
    kernels, misses = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(kernels) >= 8
    assert misses == "0"
