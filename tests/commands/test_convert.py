"""A data set in another format, by the command line."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spp_det.data.dataset import format_of, read_all
from tests.command_line import assert_one_line, spp_det


def boxes_of(root):
    """Boxes and class names by split and photo, in a fixed order."""
    return {
        (split, record.path.stem): sorted(
            (dataset.classes[label], *map(round, box))
            for label, box in zip(record.labels, record.boxes.tolist(), strict=True)
        )
        for split, dataset in read_all(root)[1].items()
        for record in dataset.records
    }


@pytest.mark.parametrize(("first", "second"), [*itertools.product(("voc", "coco", "yolo"), repeat=2)])
def test_all_nine_directions_keep_every_box_to_a_pixel(cli_folder, tmp_path, first, second):
    for source, out, format_ in (
        (cli_folder / "voc", tmp_path / "one", first),
        (tmp_path / "one", tmp_path / "two", second),
    ):
        ended = spp_det("convert", source, out, "--format", format_)
        assert ended.code == 0, ended.err
        assert format_of(out) == format_
    one, two = boxes_of(tmp_path / "one"), boxes_of(tmp_path / "two")
    plain = {("train" if split == "trainval" else split, stem): rows for (split, stem), rows in one.items()}
    again = {("train" if split == "trainval" else split, stem): rows for (split, stem), rows in two.items()}
    assert plain.keys() == again.keys()
    for key, rows in plain.items():
        assert [row[0] for row in rows] == [row[0] for row in again[key]]
        np.testing.assert_allclose([row[1:] for row in rows], [row[1:] for row in again[key]], atol=1)


def test_a_folder_that_holds_something_and_a_folder_without_data_are_refused(cli_folder, tmp_path):
    (tmp_path / "note").write_text("x")
    assert_one_line(spp_det("convert", cli_folder / "voc", tmp_path, "--format", "yolo"), "is there already")
    assert_one_line(spp_det("convert", tmp_path, tmp_path / "new", "--format", "coco"), "not a data set")
