"""YAML with comments: a configuration as somebody would have written it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from sidecar.configfile import KeyPath

_WIDTH = 120
_FLOWING = 1  # from this depth on, what fits is written in one line


@dataclass(slots=True)
class Document:
    """Values, and a comment above any of them. `header` stands on top."""

    values: dict[str, Any] = field(default_factory=dict)
    comments: dict[KeyPath, list[str]] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)

    def note(self, path: KeyPath, text: str) -> None:
        """Add a comment above `path`, once."""
        lines = self.comments.setdefault(path, [])
        if text not in lines:
            lines.append(text)

    def text(self) -> str:
        """The file."""
        lines = [*_comment(self.header, 0), *self._mapping(self.values, (), 0)]
        return "\n".join(line.rstrip(" ") for line in lines) + "\n"

    def _mapping(self, values: dict[str, Any], path: KeyPath, indent: int) -> Iterator[str]:
        for key, value in values.items():
            here = (*path, key)
            yield from _comment(self.comments.get(here, []), indent)
            yield from self._entry(f"{' ' * indent}{flow(key)}:", value, here, indent)

    def _entry(self, start: str, value: Any, path: KeyPath, indent: int) -> Iterator[str]:
        line = f"{start} {flow(value)}"
        plain = not isinstance(value, dict | list) or not value
        fits = len(path) > _FLOWING and len(line) <= _WIDTH and not self._inside(path)
        if plain or fits:
            yield line
            return
        yield start
        if isinstance(value, dict):
            yield from self._mapping(value, path, indent + 2)
        else:
            yield from self._list(value, path, indent + 2)

    def _list(self, values: list[Any], path: KeyPath, indent: int) -> Iterator[str]:
        for index, value in enumerate(values):
            here = (*path, index)
            yield from _comment(self.comments.get(here, []), indent)
            line = f"{' ' * indent}- {flow(value)}"
            if not isinstance(value, dict) or (len(line) <= _WIDTH and not self._inside(here)):
                yield line
                continue
            inner = list(self._mapping(value, here, indent + 2))
            first = next(number for number, one in enumerate(inner) if not one.lstrip().startswith("#"))
            yield from (one[2:] for one in inner[:first])
            yield f"{' ' * indent}- {inner[first].lstrip(' ')}"
            yield from inner[first + 1 :]

    def _inside(self, path: KeyPath) -> bool:
        return any(len(one) > len(path) and one[: len(path)] == path for one in self.comments)


def _comment(lines: list[str], indent: int) -> Iterator[str]:
    start = f"{' ' * indent}# "
    for line in lines:
        yield from textwrap.wrap(line, _WIDTH, initial_indent=start, subsequent_indent=start) or [start]


class _Dumper(yaml.SafeDumper):
    """Writes "…" where quotes are needed."""

    def choose_scalar_style(self) -> Any:
        """What the emitter would take, but for single quotes."""
        style = super().choose_scalar_style()
        return '"' if style == "'" else style


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
