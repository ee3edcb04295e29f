"""One YAML file, read with the place of every value, so that each complaint can name file and line.

YAML is read by the 1.2 core rules for booleans: only `true` and `false` are booleans, so a model named `y`
or `no` stays a name. Duplicate keys are errors. `${NAME}`, `${NAME:-default}` and `${file:PATH}` are
replaced inside strings (`$${` writes a plain `${`); a path is taken from the file's own folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from sidecar.errors import ConfigError, Problem

KeyPath: TypeAlias = tuple[str | int, ...]
MAX_FILE_BYTES = 10 * 1024 * 1024

_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)\}")


def dotted(path: KeyPath) -> str:
    """`("keys", 0, "name")` as `keys.0.name`."""
    return ".".join(str(part) for part in path)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What one file said: `values` as plain data and the line (from 1) of every key path in it."""

    name: str
    values: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    text: str = ""

    def place(self, path: KeyPath) -> str:
        """`file:line` of `path`, or of its nearest parent that the file holds."""
        found = self.holder(path)
        return f"{self.name}:{self.lines[found] if found else 1}"

    def holder(self, path: KeyPath) -> KeyPath:
        """`path` as far as the file has it.

        A section may have a shorter form than the one it is checked in: what the file left out is passed over.
        """
        found: KeyPath = ()
        for part in path:
            if (*found, part) in self.lines:
                found = (*found, part)
        return found

    def written(self, path: KeyPath) -> KeyPath:
        """`path` as the file has it: without the steps that only a longer form of it has."""
        found: KeyPath = ()
        missing: KeyPath = ()
        for part in path:
            if (*found, part) in self.lines:
                found, missing = (*found, part), ()
            else:
                missing = (*missing, part)
        return (*found, *missing)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 booleans and without timestamps."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read(
    path: Path, environment: Mapping[str, str], *, folder: Path | None = None, deferred: tuple[str, ...] = ()
) -> ConfigFile:
    """Read and interpolate the file at `path`.

    `deferred` are dotted patterns (`providers.*.api_key`) whose strings are left as written, for secrets
    that only one part of the program may see: resolve them there with `resolve`.

    Raises `ConfigError` for a file that cannot be read, is not YAML, is not a mapping, holds a key twice,
    or refers to a variable or file that does not exist.
    """
    name = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem(name, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(name, "", f"is not UTF-8 text (byte {error.start})")]) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError([Problem(name, "", f"is larger than {MAX_FILE_BYTES} bytes")])
    return parse(text, name, environment, folder=folder or path.parent, deferred=deferred)


def parse(
    text: str, name: str, environment: Mapping[str, str], *, folder: Path, deferred: tuple[str, ...] = ()
) -> ConfigFile:
    """`read` for text that is already at hand."""
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(f"{name}:1", "", f"not YAML: {str(error).splitlines()[0]}")]) from error
    try:
        node = loader.get_single_node()
        reader = _Reader(loader, name)
        values = reader.convert(node, ()) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = _line_of(error, text)
        raise ConfigError([Problem(f"{name}:{line}", "", f"not YAML: {error.problem or error.context}")]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([Problem(f"{name}:1", "", f"not YAML: {str(error).splitlines()[0]}")]) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError([Problem(f"{name}:1", "", "must hold keys and values", "start with `listen: …`")])
    file = ConfigFile(name, values, reader.lines, text)
    problems = list(reader.problems)
    resolved = _interpolate(values, (), file, environment, folder, deferred, problems)
    if problems:
        raise ConfigError(problems)
    return ConfigFile(name, resolved, reader.lines, text)


def _line_of(error: yaml.MarkedYAMLError, text: str) -> int:
    """The line to show: where something was opened, when the trouble is that the file ends before it is closed."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return 1
    if error.context_mark is not None and mark.index >= len(text.rstrip()):
        mark = error.context_mark
    return min(int(mark.line), text.rstrip().count("\n")) + 1


class _Reader:
    """YAML nodes to plain data, keeping the line of every key."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self._loader = loader
        self._name = name
        self._open: set[int] = set()
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []

    def convert(self, node: yaml.Node, path: KeyPath) -> Any:
        if id(node) in self._open:
            raise ValueError("an alias that contains itself")
        if len(path) > 64:
            raise ValueError("nested deeper than 64 levels")
        if len(self.lines) > 1_000_000:
            raise ValueError("aliases expand to more than a million values")
        self._open.add(id(node))
        self.lines.setdefault(path, node.start_mark.line + 1)
        try:
            if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
                raise ValueError(f"the tag {node.tag} means nothing here")
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.convert(child, (*path, index)) for index, child in enumerate(node.value)]
            return self._loader.construct_object(node)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
            child = (*path, key)
            line = key_node.start_mark.line + 1
            if key in result:
                self.problems.append(
                    Problem(f"{self._name}:{line}", dotted(child), "this key stands here twice", "keep one")
                )
                continue
            self.lines[child] = line
            result[key] = self.convert(value_node, child)
        return result


def _interpolate(
    value: Any,
    path: KeyPath,
    file: ConfigFile,
    environment: Mapping[str, str],
    folder: Path,
    deferred: tuple[str, ...],
    problems: list[Problem],
) -> Any:
    if isinstance(value, dict):
        return {k: _interpolate(v, (*path, k), file, environment, folder, deferred, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_interpolate(v, (*path, i), file, environment, folder, deferred, problems) for i, v in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value
    if any(fnmatchcase(dotted(path), pattern) for pattern in deferred):
        return value
    try:
        return resolve(value, environment, folder)
    except LookupError as error:
        problems.append(Problem(file.place(path), dotted(path), str(error.args[0]), str(error.args[1])))
        return value


def resolve(text: str, environment: Mapping[str, str], folder: Path) -> str:
    """`text` with its `${…}` references replaced.

    Raises `LookupError(message, mend)` when a reference leads nowhere.
    """

    def replace(match: re.Match[str]) -> str:
        if match.group(1):
            return "${"
        reference = match.group(2)
        if reference.startswith("file:"):
            target = folder / reference.removeprefix("file:")
            try:
                return target.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                raise LookupError(
                    f"the file {target} cannot be read: {reason}", "create it or correct the path"
                ) from error
        name, separator, default = reference.partition(":-")
        found = environment.get(name)
        if found:
            return found
        if separator:
            return default
        raise LookupError(
            f"the environment variable {name} is not set"
            if found is None
            else f"the environment variable {name} is empty",
            f"set {name}, or write ${{{name}:-default}}",
        )

    return _REFERENCE.sub(replace, text)
