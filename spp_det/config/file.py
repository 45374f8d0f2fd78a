"""Recipes in YAML and their overrides, read strictly; a mistake is reported in one line.

`spp_det.config.settings` declares the keys and the values that they may have.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml
from pydantic import BaseModel, ValidationError

from spp_det.config.recipes import find_config
from spp_det.config.settings import Config
from spp_det.config.values import Section
from spp_det.errors import UserError

MOST_BYTES = 2**18  # of a recipe: its tree takes a thousand times as much
Kind = TypeVar("Kind", bound=Section)


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: str | Path, overrides: Sequence[str], kind: type[Kind]) -> Kind: ...


def load_config(path: str | Path, overrides: Sequence[str] = (), kind: type[Section] = Config) -> Section:
    """Read a YAML recipe and apply overrides ``section.key=value`` (values are YAML: ``a=[1, 2]``).

    ``path`` is a file, or the name of a recipe that comes with the package (`find_config`); ``kind`` is the
    class of the whole configuration. Raises UserError, one line with the key, the value and what is allowed,
    on an unreadable file, an unknown recipe or key (the nearest known ones are named), a wrong type or a
    value out of range.

    >>> load_config("squeezenet_svm", ["data.root=photos", "backbone.scales=[96, 128]"]).backbone.scales
    (96, 128)
    """
    path = find_config(path)
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_BYTES):
            raise UserError(f"cannot read the config {path}: it is no file of at most {MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name that no file can have
        raise UserError(
            f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        tree = read_yaml(text)
    except ValueError as error:
        raise UserError(f"{path} is not YAML that a config may hold: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a config is a mapping of sections, not a {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return _parsed(tree, str(path), kind)


def parse_config(tree: dict[str, Any], source: str = "the configuration") -> Config:
    """A configuration from nested mappings; ``source`` names them in the UserError.

    >>> config = parse_config({"data": {"root": "photos"}, "svm": {"C": 0.003}})
    >>> config.svm.C, config.pyramid.levels
    (0.003, (6, 3, 2, 1))
    >>> parse_config({"svm": {"c": 1}})
    Traceback (most recent call last):
    spp_det.errors.UserError: the configuration: unknown key svm.c; did you mean svm.C?
    """
    return _parsed(tree, source, Config)


def _parsed(tree: dict[str, Any], source: str, kind: type[Kind]) -> Kind:
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, kind)}") from error
    if isinstance(config, Config) and (message := config.proposals.mismatch()) is not None:
        raise UserError(f"{source}: {message}")
    return config


def dump_config(config: Section) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def dotted(section: Section) -> dict[str, object]:
    """Every value by its dotted key, in JSON's types: ``{"svm.C": 0.001, ...}``."""

    def walk(tree: dict[str, Any], prefix: str) -> Iterable[tuple[str, object]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(walk(section.model_dump(mode="json"), ""))


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The changed values on one line: ``svm.C: 0.001 -> 0.01; seed: 0 -> 1``."""
    keys = [*before, *(key for key in now if key not in before)]
    return "; ".join(
        f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)
    )


class _PlainLoader(yaml.SafeLoader):
    """YAML without three of its features: tags, which name Python's objects; aliases, a few nested lines of
    which expand to gigabytes; and repeated keys, of which YAML would keep the last."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*NAME): write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
                raise ValueError(f"line {line}: the key {key.value!r} is in line {lines[key.value]} already")
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The value of a YAML text, which may hold neither tags nor aliases nor a key twice.

    Raises ValueError, one line, for a text that holds one of these or is no YAML.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except Exception as error:  # the parser's errors, and Python's own at 2026-99-99 or [[[[...
        raise ValueError(" ".join(str(error).split())[:300]) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.split(".")
    if not equals or not all((*sections, name)):
        raise UserError(f"override {override!r}: write it as section.key=value")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from error
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise UserError(f"override {override!r}: {section} is not a section")
    node[name] = value


class _Short(reprlib.Repr):
    """Shortens a wrong value, which may be of any size."""

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write numbers of more than 4,300 digits."""
        return super().repr_int(value, level) if abs(value) < 10**40 else "a number of more than 40 digits"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 100


def _explain(error: ValidationError, kind: type[Section]) -> str:
    first = error.errors()[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(_known_keys(kind))
        namesakes = [name for name in known if name.split(".")[-1] == path[-1]]  # in other sections
        near = difflib.get_close_matches(key, namesakes or known, n=1, cutoff=0 if namesakes else 0.5)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    message = re.sub(r"^\w+ should ", "must ", first["msg"].removeprefix("Value error, "))
    if first["type"] == "path_type":
        message = "must be a path"
    elif first["type"] == "tuple_type":
        message = f"must be a list: [{str(first['input'])[:100]}]"
    elif first["type"] == "model_type":
        message = "must be a section, with keys of its own"
    whole_section = any(name.startswith(f"{key}.") for name in _known_keys(kind))
    if whole_section and first["type"] == "value_error":  # too long to show
        return f"{key}: {message}"
    return f"{key} = {_SHORT.repr(first['input'])}: {message}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _known_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name
