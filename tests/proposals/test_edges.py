"""Edge Boxes: OpenCV's windows in our convention, and model files that are none."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from spp_det.boxes import Boxes, as_boxes, clip, iou
from spp_det.errors import UserError
from spp_det.images import RGB
from spp_det.proposals.edges import MOST, EdgeBoxes
from spp_det.runtime.opencv import cv2


@pytest.fixture(scope="module")
def edge_boxes(edge_model) -> EdgeBoxes:
    return EdgeBoxes(edge_model)


@pytest.fixture(scope="module")
def china() -> RGB:
    return np.asarray(cv2.resize(load_sample_image("china.jpg"), (160, 120), interpolation=cv2.INTER_AREA))


def check(boxes: Boxes, image: RGB) -> None:
    """What every result obeys."""
    assert boxes.dtype == np.float32
    assert boxes.ndim == 2
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert np.array_equal(clip(boxes, image.shape[1], image.shape[0]), boxes)
    rows = list(map(tuple, boxes.tolist()))
    assert rows == sorted(set(rows))


def test_the_windows_are_those_of_opencvs_own_example(edge_boxes, edge_model, china):
    forest = cv2.ximgproc.createStructuredEdgeDetection(str(edge_model))
    edges = forest.detectEdges(np.float32(china) / 255)  # RGB
    orientation = forest.computeOrientation(edges)
    search = cv2.ximgproc.createEdgeBoxes()
    search.setMaxBoxes(MOST)
    found, _ = search.getBoundingBoxes(forest.edgesNms(edges, orientation), orientation)
    boxes = edge_boxes(china)
    assert {tuple(row) for row in boxes.tolist()} == {(x, y, x + w, y + h) for x, y, w, h in found.tolist()}
    assert 100 < len(boxes) <= MOST
    check(boxes, china)


def test_a_square_is_found(edge_boxes):
    image = np.full((120, 160, 3), 30, np.uint8)
    image[30:90, 40:100] = 200
    assert iou(edge_boxes(image), as_boxes([[40, 30, 100, 90]])).max() > 0.8


def test_windows_of_a_smaller_copy_come_back_in_the_images_coordinates(edge_boxes, china):
    large = cv2.resize(china, (480, 360), interpolation=cv2.INTER_NEAREST)  # whose means are the small one
    boxes = edge_boxes(large, max_side=160)
    assert np.array_equal(boxes, 3 * edge_boxes(china))
    check(boxes, large)


def test_several_threads_and_objects_find_the_same(edge_boxes, edge_model, china):
    expected = edge_boxes(china)
    with ThreadPoolExecutor(4) as pool:
        for boxes in pool.map(lambda _: edge_boxes(china), range(8)):
            assert np.array_equal(boxes, expected)
    assert np.array_equal(EdgeBoxes(str(edge_model))(china), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (3, 200), (31, 31), (31, 200), (200, 31)])
def test_an_image_smaller_than_a_patch_is_one_window(edge_boxes, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert edge_boxes(noise).tolist() == [[0, 0, shape[1], shape[0]]]


@pytest.mark.parametrize("shape", [(32, 32), (32, 200), (33, 47), (2000, 40)])
def test_thin_images_give_a_result(edge_boxes, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    check(edge_boxes(noise), noise)


@pytest.mark.parametrize("value", [0, 255])
def test_where_there_are_no_edges_there_are_no_windows(edge_boxes, value):
    assert edge_boxes(np.full((60, 70, 3), value, np.uint8)).shape == (0, 4)


def test_what_is_no_image_is_refused(edge_boxes):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        edge_boxes(np.zeros((60, 70), np.uint8))


def test_the_digest_is_of_the_content(edge_model, tmp_path):
    (tmp_path / "other.yml.gz").write_bytes(edge_model.read_bytes())
    (tmp_path / "unzipped.yml").write_bytes(gzip.decompress(edge_model.read_bytes()))
    digest = EdgeBoxes(edge_model).digest
    assert EdgeBoxes(tmp_path / "other.yml.gz").digest == digest
    assert EdgeBoxes(tmp_path / "unzipped.yml").digest != digest


def broken(model: bytes) -> dict[str, bytes]:
    """Some of which OpenCV would divide by, or read beyond."""
    text = gzip.decompress(model)
    return {
        "empty": b"",
        "text": b"hello",
        "other": b"%YAML:1.0\n---\nfoo: 1\n",
        "scalar": b"%YAML:1.0\n---\noptions: 3\n",
        "list": b"%YAML:1.0\n---\n- 3\n",
        "no-trees": text.replace(b"numberOfTrees: 1", b"numberOfTrees: 0"),
        "no-stride": text.replace(b"stride: 2", b"strike: 2"),
        "no-bins": text.replace(b"edgeBins", b"edgeBits"),
        "half": model[: len(model) // 2],
    }


@pytest.mark.parametrize("name", sorted(broken(gzip.compress(b""))))
@pytest.mark.parametrize("suffix", [".yml", ".yml.gz"])
def test_a_file_that_is_no_model_is_named_in_one_line(edge_model, tmp_path, name, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(broken(edge_model.read_bytes())[name])
    with pytest.raises(UserError, match="is not a model of OpenCV's structured edges") as caught:
        EdgeBoxes(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "none.yml.gz", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            EdgeBoxes(Path(path))


@pytest.mark.parametrize("name", ["cv2.py", "numpy.py", "numpy/__init__.py"])
def test_the_trial_of_a_model_runs_nothing_of_the_current_folder(edge_model, tmp_path, monkeypatch, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("import pathlib; pathlib.Path('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    EdgeBoxes(edge_model)
    assert not (tmp_path / "ran").exists()
