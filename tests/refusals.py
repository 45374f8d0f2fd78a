"""How a configuration is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from spp_det.config.file import load_config
from spp_det.config.settings import Config
from spp_det.config.values import Section
from spp_det.errors import UserError


def refusal(path: str | Path, *overrides: str, kind: type[Section] = Config) -> str:
    """The message, one line, with which a file or the overrides of it are refused."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides, kind)
    message = str(caught.value)
    assert "\n" not in message
    return message
