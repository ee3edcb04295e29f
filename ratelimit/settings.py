"""Rule files in envoyproxy/ratelimit's YAML: a domain and its tree of descriptors.

    domain: mesh
    descriptors:
      - key: tenant
        value: team-a
        rate_limit: {unit: minute, requests_per_unit: 60}
        descriptors: []

All files are read together, all or nothing. `key` and `value` keep the text of the file: `404`, `no` and
`0x10` stay those words. Keys that envoyproxy/ratelimit knows and we do not serve yet are refused by name,
never passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ratelimit.rules import MAX_AMOUNT, SETTLE, Mode, Node, Rate, Rule, RuleSet, Unit
from sidecar.errors import ConfigError, Problem

KNOWN = frozenset(
    {"domain", "key", "value", "descriptors", "rate_limit", "unit", "requests_per_unit", "unlimited", "name"}
)
NOT_YET = frozenset(
    {"shadow_mode", "quota_mode", "replaces", "detailed_metric", "value_to_metric", "share_threshold", "metadata"}
)

# YAML 1.1's words, which envoyproxy/ratelimit's reader takes; absent is false.
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off", ""})
_MOST_DIGITS = 20


class _TextLoader(yaml.SafeLoader):
    """Every scalar stays text."""


_TextLoader.yaml_implicit_resolvers = {}


class _FileError(Exception):
    """What is wrong with the file at hand, in envoyproxy/ratelimit's words."""


def load(path: Path) -> RuleSet:
    """The rules of one file, or of every `*.yaml` and `*.yml` in a folder (names that begin with a dot aside).

    Raises `ConfigError`, also for a folder without any: a mistaken path must not mean that nothing is limited.
    """
    files = sorted(_files(path)) if path.is_dir() else [path]
    if not files:
        raise ConfigError([Problem(str(path), "", "holds no rule file", "put a *.yaml or *.yml file there")])
    domains: dict[str, tuple[Node, ...]] = {}
    for file in files:
        try:
            domain, nodes = _read(file)
            if domain in domains:
                raise _FileError(f"duplicate domain '{domain}' in config file")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Problem(file.name, "", f"error loading config file: {error}")]) from error
        except RecursionError as error:
            raise ConfigError([Problem(file.name, "", "error loading config file: nested too deeply")]) from error
        except _FileError as error:
            raise ConfigError([Problem(file.name, "", str(error))]) from error
        domains[domain] = nodes
    return RuleSet(domains)


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix in (".yaml", ".yml") and not file.name.startswith(".") and file.is_file():
            yield file


def _read(file: Path) -> tuple[str, tuple[Node, ...]]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_TextLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an explicit tag on what is none, `!!int x`
        raise _FileError(f"error loading config file: {error}") from error
    if not isinstance(content, dict):
        raise _FileError("error loading config file: it must hold a domain and its descriptors")
    _check_keys(content)
    domain = _text(content, "domain")
    if not domain:
        raise _FileError("config file cannot have empty domain")
    return domain, _nodes(content, domain)


def _text(mapping: dict[str, Any], key: str) -> str:
    value = mapping.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _FileError(f"error loading config file: {key} must be a string")
    return value


def _check_keys(mapping: dict[Any, Any]) -> None:
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise _FileError(f"config error, key is not of type string: {key}")
        if key in NOT_YET:
            raise _FileError(f"config error, '{key}' is not supported yet")
        if key not in KNOWN:
            raise _FileError(f"config error, unknown key '{key}'")
        if isinstance(value, dict):
            _check_keys(value)


def _nodes(parent: dict[str, Any], path: str) -> tuple[Node, ...]:
    listed = parent.get("descriptors") or []
    if not isinstance(listed, list):
        raise _FileError("error loading config file: descriptors must be a list")
    nodes: list[Node] = []
    seen: set[str] = set()
    for entry in listed:
        if not isinstance(entry, dict):
            raise _FileError(f"config error, yaml file contains list of type other than map: {entry}")
        _check_keys(entry)
        key, value = _text(entry, "key"), _text(entry, "value")
        if not key:
            raise _FileError("descriptor has empty key")
        if key == SETTLE:
            raise _FileError(f"descriptor key '{SETTLE}' is reserved")
        own = f"{path}.{key}" if not value else f"{path}.{key}_{value}"
        if own in seen:
            raise _FileError(f"duplicate descriptor composite key '{own}'")
        seen.add(own)
        nodes.append(Node(key, value or None, _rule(entry, own), _nodes(entry, own)))
    return tuple(nodes)


def _rule(entry: dict[str, Any], path: str) -> Rule | None:
    limit = entry.get("rate_limit")
    if limit is None or limit == "":
        return None
    if not isinstance(limit, dict):
        raise _FileError(f"error loading config file: rate_limit of '{path}' must be a mapping")
    name, unit = _text(limit, "name"), _text(limit, "unit")
    unlimited = _text(limit, "unlimited").lower()
    if unlimited not in _TRUE | _FALSE:
        raise _FileError(f"error loading config file: unlimited of '{path}' is neither true nor false: {unlimited}")
    if unlimited in _TRUE:
        if unit:
            raise _FileError("should not specify rate limit unit when unlimited")
        return Rule(Rate(MAX_AMOUNT, Unit.SECOND), name=name, label=path, unlimited=True)
    if unit.upper() not in Unit.__members__:
        raise _FileError(f"invalid rate limit unit '{unit}'")
    amount = _text(limit, "requests_per_unit") or "0"
    if not (amount.isascii() and amount.isdigit() and len(amount) <= _MOST_DIGITS) or int(amount) > MAX_AMOUNT:
        raise _FileError(f"error loading config file: requests_per_unit of '{path}' is not a uint32: {amount}")
    return Rule(Rate(int(amount), Unit[unit.upper()]), Mode.CONSUME, name, path)
