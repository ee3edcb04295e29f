"""Checks objects by the schemas of their custom resources, as an API server that prunes nothing would.

Structural schemas only (types, fields, enums, patterns, bounds, combinations): CEL rules are not evaluated.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "headgate" / "render" / "crds"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_ANYTHING: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}


@cache
def _schema(api_version: str, kind: str) -> dict[str, Any]:
    group, _, version = api_version.partition("/")
    found = json.loads((FOLDER / f"{group}_{kind.lower()}.json").read_text())
    assert found["version"] == version, f"{kind} has the version {found['version']}"
    return dict(found["schema"])


def problems(one: dict[str, Any]) -> list[str]:
    """What is wrong with an object. Empty: nothing."""
    return list(_check(one, _schema(one["apiVersion"], one["kind"]), one["kind"], root=True))


def _check(value: Any, schema: dict[str, Any], path: str, *, root: bool = False) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield f"{path}: is neither a number nor a text"
    elif "type" in schema:
        wanted = _TYPES[schema["type"]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            yield f"{path}: {value!r} is no {schema['type']}"
            return
    yield from _check_value(value, schema, path)
    yield from _check_combinations(value, schema, path)
    if isinstance(value, dict):
        yield from _check_fields(value, schema, path, root)
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _check(one, schema.get("items", _ANYTHING), f"{path}[{index}]")


def _check_value(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} does not match {schema['pattern']}"
    sizes = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
    if isinstance(value, (str, list, dict)):
        for least, most in sizes:
            if len(value) < schema.get(least, 0) or len(value) > schema.get(most, len(value)):
                yield f"{path}: has {len(value)} of {schema.get(least, 0)} to {schema.get(most)}"
    if isinstance(value, (int, float)) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: {value} is out of bounds"


def _check_combinations(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    for one in schema.get("allOf", ()):
        yield from _check(value, _loose(one), path)
    if "anyOf" in schema and not any(_fits(value, one) for one in schema["anyOf"]):
        yield f"{path}: fits none of anyOf"
    if "oneOf" in schema and sum(_fits(value, one) for one in schema["oneOf"]) != 1:
        yield f"{path}: does not fit exactly one of oneOf"
    if "not" in schema and _fits(value, schema["not"]):
        yield f"{path}: fits what it must not"


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    return not list(_check(value, _loose(schema), ""))


def _loose(schema: dict[str, Any]) -> dict[str, Any]:
    """A part of a combination: it may leave out fields that the whole has."""
    return {**schema, "x-kubernetes-preserve-unknown-fields": True}


def _check_fields(value: dict[str, Any], schema: dict[str, Any], path: str, root: bool) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}: '{name}' is missing"
    others = schema.get("additionalProperties")
    for name, one in value.items():
        if name in known and not (root and name == "metadata"):
            yield from _check(one, known[name], f"{path}.{name}")
        elif isinstance(others, dict):
            yield from _check(one, others, f"{path}.{name}")
        elif root and name in ("apiVersion", "kind", "metadata"):
            continue
        elif name not in known and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}: there is no field '{name}'"


def main(arguments: list[str]) -> int:
    """`kubectl apply -f FILE…` for tests: says of each object whether it is valid."""
    assert arguments[0] == "apply", arguments
    wrong = 0
    for name in arguments[1:]:
        for one in yaml.safe_load_all(Path(name).read_text()) if name != "-f" else ():
            group = one["apiVersion"].rpartition("/")[0]
            known = (FOLDER / f"{group}_{one['kind'].lower()}.json").exists()
            found = problems(one) if known else []
            wrong += len(found)
            print(f"{one['kind']} {one['metadata']['name']}", found or ("is valid" if known else "has no schema here"))
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
