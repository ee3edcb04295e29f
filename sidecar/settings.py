"""Layered settings: flags over `HEADGATE_…` variables over one YAML file, parsed and validated once.

`load` gives one frozen pydantic model or raises `ConfigError`, where every problem names the place
(`file:line` or the variable), the key path, what is wrong and how to mend it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.configfile import ConfigFile, KeyPath, dotted
from sidecar.errors import ConfigError, Problem

ENV_PREFIX = "HEADGATE_"
NESTING = "__"
# Kubernetes injects these for a Service named "headgate…"; they are not settings.
_SERVICE_LINK = re.compile(r"^(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT(?:_\d+_(?:TCP|UDP)(?:_.*)?)?)$")

_SIZE = re.compile(r"([0-9]+)\s*(B|KB|KIB|MB|MIB|GB|GIB)?", re.IGNORECASE)
_UNITS = {
    "b": 1,
    "kb": 1_000,
    "kib": 1 << 10,
    "mb": 1_000_000,
    "mib": 1 << 20,
    "gb": 1_000_000_000,
    "gib": 1 << 30,
}

ModelT = TypeVar("ModelT", bound="Section")


def read_size(value: Any) -> Any:
    """A size in bytes, which may be written with a unit (`20MiB`). Raises `ValueError`; a number stays one."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"'{value}' is not a size | write for example 20MiB")
    return int(match.group(1)) * _UNITS[(match.group(2) or "B").lower()]


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong at one key path of settings whose single fields are all right."""

    path: KeyPath
    message: str
    mend: str = ""


class Section(BaseModel):
    """Base of every settings section: immutable, unknown keys are errors, secrets stay out of repr."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=False)

    def complaints(self) -> Iterable[Complaint]:
        """What only the settings as a whole can see. Asked of the outermost section, after validation."""
        return ()


def environment_values(model: type[BaseModel], environment: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """The `HEADGATE_…` variables as nested values for `model`, and what is wrong with their names."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, raw in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        rest = name.removeprefix(ENV_PREFIX)
        if _SERVICE_LINK.match(rest):
            continue
        parts = [part.lower() for part in rest.split(NESTING)]
        if parts[0] not in model.model_fields:
            problems.append(Problem(name, parts[0], "no such setting", _suggest(parts[0], list(model.model_fields))))
            continue
        target = values
        for part in parts[:-1]:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                inner = target[part] = {}
            target = inner
        target[parts[-1]] = _environment_value(raw)
    return values, problems


def _environment_value(raw: str) -> Any:
    """JSON where the text is a JSON object, array, true or false; otherwise the text itself."""
    if raw[:1] in "{[" or raw in ("true", "false", "null"):
        try:
            return json.loads(raw)
        except ValueError:
            return raw
    return raw


def merge(lower: Any, upper: Any) -> Any:
    """`upper` laid over `lower`: mappings key by key, everything else replaced."""
    if isinstance(lower, dict) and isinstance(upper, dict):
        return {**lower, **{key: merge(lower.get(key), value) for key, value in upper.items()}}
    return upper


def load(
    model: type[ModelT],
    file: ConfigFile,
    environment: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
) -> ModelT:
    """The settings `model` from all layers. Raises `ConfigError` with every problem found."""
    from_environment, problems = environment_values(model, environment)
    overrides = merge(from_environment, dict(flags or {}))
    values = merge(file.values, overrides)
    settings: ModelT | None = None
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        problems += [_problem(detail, model, file, overrides) for detail in error.errors(include_url=False)]
    if settings is not None:
        problems += [
            Problem(
                _override_place(c.path, overrides) or file.place(c.path),
                dotted(file.written(c.path)),
                c.message,
                c.mend,
            )
            for c in settings.complaints()
        ]
    if problems or settings is None:
        raise ConfigError(problems)
    return settings


def _problem(detail: Any, model: type[BaseModel], file: ConfigFile, overrides: Mapping[str, Any]) -> Problem:
    path = tuple(part for part in detail["loc"] if not _is_branch(part))
    place = _override_place(path, overrides) or file.place(path)
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        return Problem(place, dotted(file.written(path)), "no such key", _suggest(str(path[-1]), known))
    if kind == "missing":
        return Problem(place, dotted((*file.holder(path), path[-1])), "is missing", f"add `{path[-1]}:` here")
    message = _PLAIN_WORDS.get(kind) or str(detail["msg"])
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text, _, mend = message.partition(" | ")
    return Problem(place, dotted(file.written(path)), text, mend)


_PLAIN_WORDS = {
    "dict_type": "must hold keys and values | write `name: {…}` entries below it, or leave it out",
    "model_type": "must hold keys and values | write {key: value}",
    "list_type": "must be a list | write [a, b] or lines that begin with `-`",
    "string_type": "must be text | put it in quotes",
    "float_parsing": "must be a number | without a unit",
    "float_type": "must be a number | without a unit",
    "int_parsing": "must be a whole number | without a unit",
    "int_type": "must be a whole number | without a unit",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "too_short": "must not be empty | write at least one",
}


def _is_branch(part: str | int) -> bool:
    """Pydantic puts the names of validators and union members into a location: they are no keys."""
    return isinstance(part, str) and ("[" in part or part.startswith("function-"))


def _override_place(path: KeyPath, overrides: Mapping[str, Any]) -> str:
    node: Any = overrides
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return ""
        node = node[part]
    return ENV_PREFIX + NESTING.join(str(part).upper() for part in path)


def _known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that may stand at `path`, found by walking the model's annotations."""
    candidates: list[Any] = [model]
    for part in path:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and part in candidate.model_fields:
                following += _members(candidate.model_fields[str(part)].annotation)
            elif not isinstance(candidate, type):
                following += _members(candidate)
        candidates = following or candidates
    models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return sorted({key for found in models for key in found.model_fields})


def _members(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", None)
    if isinstance(annotation, type) and not arguments:
        return [annotation]
    return [member for argument in arguments or () for member in _members(argument)]


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(known)}" if known else "remove it"
