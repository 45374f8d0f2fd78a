#!/usr/bin/env python3
"""Write docs/settings.md, the list of all settings, from their schema.

python scripts/settings_page.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from spp_det.config.pretrain import PretrainConfig
from spp_det.config.settings import Config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

`python scripts/settings_page.py` writes this page from the schema in `spp_det/config/`.

A recipe is a YAML file with any of the keys below. `section.key=value` on the command line overrides the
recipe; the value is YAML too, as in `backbone.scales=[480, 688]`. An absent key has the default that stands
here. An unknown key, a value out of its range and two values that contradict each other are refused in one
line.

The defaults are the paper's single-scale detector. P is the paper, R the code that its authors released.
"""
COMMANDS = (("train", Config), ("pretrain", PretrainConfig))


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for command, kind in COMMANDS:
        schema = kind.model_json_schema()
        sections = {key: _section(schema, value) for key, value in schema["properties"].items()}
        top = [_entry(key, value) for key, value in schema["properties"].items() if sections[key] is None]
        parts.append(f"## `spp-det {command}`\n\n" + "\n".join(top) + "\n")
        for name, section in sections.items():
            if section is not None:
                entries = [_entry(f"{name}.{key}", value) for key, value in section["properties"].items()]
                parts.append(f"### {name}\n\n{_prose(section)}\n\n" + "\n".join(entries) + "\n")
    return "\n".join(parts)


def _section(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a section that a key of the whole configuration stands for; None for a plain key."""
    return schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else None


def _entry(key: str, value: dict[str, Any]) -> str:
    default = json.dumps(value["default"])
    text = _prose(value)
    return f"- `{key}={default}` ({_allowed(value)})" + (f": {text}" if text else "")


def _prose(value: dict[str, Any]) -> str:
    """The docstring of a setting or a section, on one line, with Markdown's code marks and YAML's null."""
    text = re.sub(r"``(.+?)``", r"`\1`", " ".join(value.get("description", "").split()))
    return re.sub(r"\bNone\b", "`null`", text)


def _allowed(value: dict[str, Any]) -> str:
    """The values that a setting may have, in words."""
    if "anyOf" in value:
        return " or ".join(map(_allowed, value["anyOf"]))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    match value["type"]:
        case "array" if "prefixItems" in value:
            return f"list of {value['minItems']}: " + "; ".join(map(_allowed, value["prefixItems"]))
        case "array":
            return f"list, each {_allowed(value['items'])}"
        case "integer" | "number" as kind:
            return ", ".join(["whole number" if kind == "integer" else "number", *_range(value)])
        case "string":
            return "path" if value.get("format") == "path" else "text"
        case "boolean":
            return "`true`, `false`"
        case kind:
            return f"`{kind}`"


def _range(value: dict[str, Any]) -> list[str]:
    words = {
        **{"minimum": "at least", "exclusiveMinimum": "above"},
        **{"maximum": "at most", "exclusiveMaximum": "below"},
    }
    return [f"{word} {_short(value[bound])}" for bound, word in words.items() if bound in value]


def _short(number: float) -> str:
    """Versions of pydantic differ in whether a whole number is written 1 or 1.0."""
    return f"{int(number) if number == int(number) else number:,}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
