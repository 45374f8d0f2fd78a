"""What a training starts from: refused by name before anything is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spp_det.config.file import parse_config
from spp_det.data.synthetic import generate_voc
from spp_det.errors import UserError
from spp_det.training.inputs import check_positives, read_inputs
from tests.training.scenes import record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"train": "trian"}}, "no such split; those of .* are: trainval"),
        ({"data": {"root": "nowhere"}}, "nowhere: no such folder"),
        ({"data": {"classes": ["emu"]}}, "no object is of the class 'emu'"),
        ({"backbone": {"weights": "none.pth"}}, "none.pth"),
        ({"fc": {"layer": "fc6", "width": 8, "weights": "none.safetensors"}}, "none.safetensors"),
    ],
)
def test_a_slip_in_data_weights_or_classes_is_named(tmp_path, change, said):
    generate_voc(tmp_path, {"trainval": 2}, seed=1, sizes=((120, 100),))
    tree = {"data": {"root": str(tmp_path)}, "backbone": {"name": "zf5_small", "weights": "random"}}
    for section, values in change.items():
        tree[section] = {**tree.get(section, {}), **values}
    with pytest.raises(UserError, match=said):
        read_inputs(parse_config(tree, "test"))


def test_a_class_without_a_positive_is_named():
    usual = record([[0, 0, 9, 9], [5, 5, 20, 20]], [0, 1])
    check_positives(("cat", "dog"), [usual])
    for classes, records, said in (
        (("cat", "dog", "emu"), [usual, usual], "class 'emu' has no positive example"),
        (("cat", "dog"), [replace(usual, difficult=np.array([True, False]))], "class 'cat' has no positive"),
        (("cat", "dog"), [replace(usual, crowd=np.array([False, True]))], "class 'dog' has no positive"),
        (("cat",), [], "class 'cat' has no positive"),
        ((), [record([], [])], "the training annotations hold no object"),
    ):
        with pytest.raises(UserError, match=said):
            check_positives(classes, records)
