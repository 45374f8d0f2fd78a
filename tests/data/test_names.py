from __future__ import annotations

import pytest

from spp_det.data.names import leads_out


@pytest.mark.parametrize("name", ["000005", "a b", "train/000005.jpg", "a..b", "...", "ä/ö", "./x"])
def test_names_inside(name: str) -> None:
    assert not leads_out(name)


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../x", "/etc/passwd", "C:\\x", "C:x", "a\\..\\x", "\\\\host\\x\\y"]
)
def test_names_that_lead_out(name: str) -> None:
    assert leads_out(name)
