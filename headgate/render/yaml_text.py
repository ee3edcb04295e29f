"""YAML that Envoy, Kubernetes and people read alike: stable, in the order of the values, long texts as blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

# What YAML 1.1 readers (Envoy's among them) may take for a boolean, a null or a number.
_TRAPS = re.compile(r"(?i)(?:y|n|yes|no|on|off|true|false|null|~|\.nan|[-+]?\.inf|[-+]?\.?[0-9].*)")


class _Dumper(yaml.SafeDumper):
    """No aliases: nothing is shared in what is printed."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if "\n" in value:
        style = "|"
    elif _TRAPS.fullmatch(value):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


class _Loader(yaml.SafeLoader):
    """What looks like a date is a string, as it is for Envoy."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def dump(value: Any) -> str:
    """One document."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump_all(values: Iterable[Any]) -> str:
    """Several documents, each behind a line `---`."""
    return "".join(f"---\n{dump(value)}" for value in values)


def load(text: str) -> Any:
    """One document, YAML or JSON, as Envoy reads it. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
