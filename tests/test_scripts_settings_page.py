"""docs/settings.md, and scripts/settings_page.py, which writes it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from spp_det.config.file import dotted, load_config
from spp_det.config.pretrain import PretrainConfig
from spp_det.config.settings import Config

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def listed(command: str) -> list[str]:
    """The settings of one command's part of the page, each as ``key=default``."""
    (part,) = re.findall(rf"^## `spp-det {command}`$(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    return re.findall(r"^- `([^`]+=[^`]*)` \(", part, re.M)


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("settings_page", ROOT / "scripts" / "settings_page.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == TEXT, "the settings have changed: run python scripts/settings_page.py"


@pytest.mark.parametrize(("command", "kind"), [("train", Config), ("pretrain", PretrainConfig)])
def test_every_setting_is_listed_with_its_default(command, kind, tmp_path):
    settings = listed(command)
    assert [setting.partition("=")[0] for setting in settings] == sorted(
        dotted(kind()), key=lambda key: "." in key
    )
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert load_config(empty, settings, kind) == kind()


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("bbox.passes", "`1`, `2`"),
        ("data.classes", "list, each text or `null`"),
        ("data.train", "text or list, each text"),
        ("fc.rank", "list of 2: whole number, at least 1; whole number, at least 1 or `null`"),
        ("finetune.held_out", "number, at least 0, at most 0.5"),
        ("output", "path"),
        ("seed", "whole number, at least 0, below 4,294,967,296"),
        ("strict", "`true`, `false`"),
        ("svm.norm", "number, above 0"),
    ],
)
def test_ranges_are_in_words(key, allowed):
    found = re.search(rf"^- `{re.escape(key)}=[^`]*` \((.*?)\)(?::|$)", TEXT, re.M)
    assert found is not None
    assert found[1] == allowed
