"""Classes that are chosen, and classes without objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.data.classes import choose_classes, leave_out_empty, objects_by_class
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError


def record(name: str, *labels: int) -> Record:
    """Object i lies at x = 10 i, and is difficult where i is odd."""
    boxes = as_boxes([(10 * i, 0, 10 * i + 5, 5) for i in range(len(labels))])
    odd = np.arange(len(labels)) % 2 == 1
    return Record(name, Path(f"{name}.jpg"), boxes, np.array(labels, np.int64), odd, ~odd, (100, 100))


DATA = Dataset(
    ("root", "cat", "dog", "cow"),
    [record("a", 1, 2, 1), record("b"), record("c", 2, 3)],
    (0, 5, 7, 9),
    (3, 1, 2),
)


def test_objects_are_counted_by_class():
    assert objects_by_class(DATA) == {"root": 0, "cat": 2, "dog": 2, "cow": 1}


def test_chosen_classes_keep_their_objects_in_their_order(caplog):
    chosen = choose_classes(DATA, ["dog", "cat"], "photos")
    first, second, third = chosen.records
    assert (chosen.classes, chosen.category_ids, chosen.coco_ids) == (("dog", "cat"), (7, 5), (3, 1, 2))
    assert first.labels.tolist() == [1, 0, 1]
    assert len(second) == 0
    assert third.labels.tolist() == [0]
    assert third.boxes.tolist() == [[0, 0, 5, 5]]
    assert caplog.messages == ["photos: objects of classes that were not chosen are left out: cow (1)"]


def test_flags_go_with_their_objects():
    (first, _, third) = choose_classes(DATA, ["dog"], "photos").records
    assert first.difficult.tolist() == [True]
    assert first.crowd.tolist() == [False]
    assert third.crowd.tolist() == [True]


def test_a_class_that_no_object_has_is_an_error_which_names_the_nearest():
    with pytest.raises(UserError, match=r"photos: no object is of the class 'cats'; did you mean 'cat'\?"):
        choose_classes(DATA, ["cats"], "photos")
    with pytest.raises(UserError, match="no object is of the class 'root'"):
        choose_classes(DATA, ["root", "cat"], "photos")
    with pytest.raises(UserError, match="classes must differ"):
        choose_classes(DATA, ["cat", "cat"], "photos")


def test_a_test_split_may_lack_a_class():
    chosen = choose_classes(DATA, ["cat", "bird", "root"], "photos test", needed=False)
    assert chosen.classes == ("cat", "bird", "root")
    assert chosen.category_ids == (5, 10, 0)


def test_classes_without_an_object_are_left_out_in_one_warning(caplog):
    left = leave_out_empty(DATA, "photos")
    assert (left.classes, left.category_ids) == (("cat", "dog", "cow"), (5, 7, 9))
    assert [each.labels.tolist() for each in left.records] == [[0, 1, 0], [], [1, 2]]
    assert caplog.messages == ["photos: classes without an object are left out: root"]


def test_a_data_set_without_any_object_is_left_as_it_is(caplog):
    empty = Dataset(("cat",), [record("a")])
    assert leave_out_empty(empty, "photos") is empty
    assert not caplog.messages


def test_a_class_of_difficult_objects_alone_stays():
    flagged = Record("a", Path("a.jpg"), as_boxes([(0, 0, 1, 1)]), *(np.array([x]) for x in (0, True, False)))
    assert leave_out_empty(Dataset(("cat",), [flagged]), "photos").classes == ("cat",)


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=6), st.permutations(DATA.classes))
def test_choosing_all_classes_in_another_order_renames_labels_only(rows, order):
    dataset = Dataset(DATA.classes, [record(str(i), *labels) for i, labels in enumerate(rows)])
    chosen = choose_classes(dataset, order, "photos", needed=False)
    for before, after in zip(dataset.records, chosen.records, strict=True):
        assert [dataset.classes[x] for x in before.labels] == [chosen.classes[x] for x in after.labels]
        assert after.boxes.tolist() == before.boxes.tolist()
