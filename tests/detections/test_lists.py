"""The lists of a run, written from its journal."""

from __future__ import annotations

import json
from itertools import repeat

import pytest

from spp_det.detections.lists import OPEN_AT_ONCE, list_names, write_lists


def entry(name, *found):
    return {"file_name": name, "width": 9, "height": 8, "found": list(found)}


def test_of_many_classes_each_has_its_file_and_few_are_open_at_once(tmp_path):
    classes = [f"class {i}" for i in range(2 * OPEN_AT_ONCE + 1)]
    found = [[label, label / 2, 0, 0, 5, 5] for label in (0, OPEN_AT_ONCE, 2 * OPEN_AT_ONCE)]
    formats = frozenset({"devkit"})
    write_lists(
        tmp_path, lambda: iter([entry("a/1.jpg", *found), entry("a/1.png", found[1])]), classes, formats
    )
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == set(list_names(classes, formats))
    texts = [(tmp_path / "devkit" / f"comp4_det_test_{name}.txt").read_text() for name in classes]
    assert texts[OPEN_AT_ONCE] == "a/1 100.0 1 1 5 5\na/1.png 100.0 1 1 5 5\n"
    assert [i for i, text in enumerate(texts) if text] == [0, OPEN_AT_ONCE, 2 * OPEN_AT_ONCE]


def test_a_failure_leaves_neither_a_scrap_nor_a_list_that_belongs_to_others(tmp_path):
    (tmp_path / "detections.json").write_text("of another run")

    def broken():
        yield entry("a.jpg", [0, 1, 0, 0, 5, 5])
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_lists(tmp_path, broken, ["a"], frozenset())
    assert list(tmp_path.iterdir()) == []


def test_no_images(tmp_path):
    write_lists(tmp_path, lambda: repeat(None, 0), ["a"], frozenset())
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert json.loads((tmp_path / "images.json").read_text())["images"] == []
