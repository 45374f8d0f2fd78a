"""A figure that is not defined: NaN in memory, null in JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spp_det.evaluation.undefined import as_json


@pytest.mark.parametrize("value", [math.nan, np.float64("nan")])
def test_what_is_not_defined_is_null_at_any_depth(value):
    assert json.dumps(as_json({"AP": value, "cat": {"AP": value}})) == '{"AP": null, "cat": {"AP": null}}'
    assert as_json(value) is None


@pytest.mark.parametrize("value", [0.0, -1.0, 0.25, 3, "nan", None, math.inf])
def test_everything_else_stays(value):
    assert as_json(value) == value
    assert as_json({"a": value}) == {"a": value}
