"""Proposals in files: R-CNN's convention by hand, round trips, and files that are something else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import savemat

from spp_det.boxes import as_boxes
from spp_det.errors import UserError
from spp_det.proposals.files import ByImage, read_proposals, write_proposals

SOME = {
    "000005": as_boxes([[0, 0, 10, 20], [1.5, 2, 3, 4]]),
    "a/b": as_boxes([]),
    "ä (1)": as_boxes([[9] * 4]),
}


def cell(*values: object) -> np.ndarray:
    """A MATLAB cell, 1 x n."""
    array = np.empty((1, len(values)), object)
    for index, value in enumerate(values):
        array[0, index] = value
    return array


def refusal(path: Path) -> str:
    """The message, one line that begins with the file, with which it is refused."""
    with pytest.raises(UserError) as caught:
        read_proposals(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def equal(a: ByImage, b: ByImage) -> bool:
    """To the bit, in the same order."""
    return list(a) == list(b) and all(
        np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype == np.float32 for name in a
    )


# ---------------------------------------------------------------- R-CNN's .mat


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("upright", [True, False])
def test_rcnns_boxes_lose_their_one_and_swap_their_axes(tmp_path, dtype, upright):
    # A window of the pixels in columns 3..7 and rows 11..20, counted from 1 and with both ends.
    images, boxes = (
        cell("000005", "2008_000007", "empty"),
        cell(
            np.array([[11, 3, 20, 7], [1, 1, 1, 1]], dtype),
            np.array([[1, 1, 375, 500]], dtype),
            np.zeros((0, 4), dtype),
        ),
    )
    path = tmp_path / "voc_2007_test.mat"
    savemat(path, {"images": images.T if upright else images, "boxes": boxes, "other": 3})
    read = read_proposals(path)
    assert list(read) == ["000005", "2008_000007", "empty"]
    assert all(boxes.dtype == np.float32 for boxes in read.values())
    assert read["000005"].tolist() == [[2, 10, 7, 20], [0, 0, 1, 1]]
    assert read["2008_000007"].tolist() == [[0, 0, 500, 375]]
    assert read["empty"].shape == (0, 4)


def test_a_mat_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    one = np.ones((1, 4))
    cases = [
        ({"boxes": cell(one)}, "has no variables boxes and images"),
        ({"boxes": cell(one, one), "images": cell("a")}, "boxes of 2 images, but 1 images"),
        ({"boxes": cell(np.ones((3, 5))), "images": cell("a")}, "the boxes of a are not rows of four"),
        ({"boxes": cell("text"), "images": cell("a")}, "the boxes of a are not rows of four"),
        ({"boxes": cell(np.full((1, 4), np.nan)), "images": cell("a")}, "a box of a is not finite"),
        ({"boxes": cell(one), "images": cell(np.array([1, 2]))}, "or is damaged"),
    ]
    for variables, said in cases:
        savemat(path, variables)
        assert said in refusal(path)


def test_matlabs_newer_format_is_named(tmp_path):
    path = tmp_path / "new.mat"
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(text + b"\x89HDF\r\n\x1a\n" + bytes(600))
    assert "v7.3" in refusal(path)


# ---------------------------------------------------------------- .npz and .json


@pytest.mark.parametrize("suffix", [".npz", ".json", ".NPZ", ".Json"])
def test_what_is_written_reads_back(tmp_path, suffix):
    path = tmp_path / f"windows{suffix}"
    write_proposals(path, SOME)
    assert equal(read_proposals(path), SOME)
    write_proposals(path, {})
    assert read_proposals(path) == {}


ids = st.text(st.characters(codec="utf-8", exclude_characters="\0\\/"), min_size=1, max_size=8)
boxes = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.just(4)),
    elements=st.floats(0, 1e6, width=32, allow_subnormal=False),
)


@given(st.dictionaries(ids | st.sampled_from(["file", "allow_pickle", "args", "x.npy"]), boxes, max_size=4))
def test_any_ids_and_boxes_read_back_to_the_bit(tmp_path_factory, proposals):
    folder = tmp_path_factory.mktemp("round")
    for suffix in (".npz", ".json"):
        write_proposals(folder / f"p{suffix}", proposals)
        assert equal(read_proposals(folder / f"p{suffix}"), proposals)


def test_equal_proposals_give_equal_bytes(tmp_path):
    for suffix in (".npz", ".json"):
        for name in ("a", "b"):
            write_proposals(tmp_path / f"{name}{suffix}", SOME)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_numpys_and_anybodys_json_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.array([[1, 2, 3, 4]]), two=np.zeros((0, 4)))
    read = read_proposals(tmp_path / "a.npz")
    assert {name: boxes.tolist() for name, boxes in read.items()} == {"one": [[1, 2, 3, 4]], "two": []}
    (tmp_path / "a.json").write_text('{"one": [[1, 2, 3.5, 4]], "two": []}')
    read = read_proposals(tmp_path / "a.json")
    assert {name: boxes.tolist() for name, boxes in read.items()} == {"one": [[1, 2, 3.5, 4]], "two": []}


@pytest.mark.parametrize(
    "value", [[1, 2, 3, 4], [[1, 2, 3]], "text", 3, [[1, 2, 3, "x"]], [[1, 2], [1]], {"a": 1}, None]
)
def test_json_boxes_that_are_no_rows_of_four_are_named_with_their_image(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps({"good": [[1, 2, 3, 4]], "bad": value}))
    assert "the boxes of bad" in refusal(tmp_path / "a.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "null", "1e39"])
def test_a_coordinate_that_is_not_finite_is_named_with_its_image(tmp_path, number):
    (tmp_path / "a.json").write_text(f'{{"bad": [[0, 0, 1, {number}]]}}')
    assert "a box of bad is not finite" in refusal(tmp_path / "a.json")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "a.npz", one=np.array([Trap()], object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "c.mat").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npz", "c.mat"):
        refusal(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".json"])
def test_what_is_damaged_absent_or_something_else_is_named(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".mat":
        savemat(whole, {"images": cell("a"), "boxes": cell(np.ones((50, 4)))}, do_compression=True)
    else:
        write_proposals(whole, {"a": np.ones((50, 4), np.float32)})
    path = tmp_path / f"broken{suffix}"
    for data in (
        whole.read_bytes()[: len(whole.read_bytes()) // 2],
        b"",
        b"hello there",
        b"[1, 2]",
        bytes(300),
    ):
        path.write_bytes(data)
        refusal(path)
    refusal(tmp_path / f"none{suffix}")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    refusal(folder)


def test_another_suffix_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert ".mat, .npz, .json" in refusal(tmp_path / "a.txt")
    for name in ("a.mat", "a.txt", "a"):
        with pytest.raises(UserError, match=r"written to \.npz or \.json"):
            write_proposals(tmp_path / name, {})
