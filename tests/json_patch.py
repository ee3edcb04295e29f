"""Applies an EnvoyPatchPolicy to the resources of a static bootstrap, as Envoy Gateway applies it to its own.

Only what our policy uses: `add` (RFC 6902) to a resource by type and name, behind the places that a JSONPath of the
form `..list[?(@.name=='x')].field` finds (internal/xds/translator/jsonpatch.go).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_PATH = re.compile(r"\.\.(\w+)\[\?\(@\.name=='([^']+)'\)\]\.(\w+)")


def apply(bootstrap: Json, policy: Json) -> Json:
    """The bootstrap with every patch in it. Raises `AssertionError` or `LookupError` when one finds no place."""
    made = copy.deepcopy(bootstrap)
    resources = made["static_resources"]
    for patch in policy["spec"]["jsonPatches"]:
        operation, kind = patch["operation"], patch["type"].rpartition(".")[2]
        assert operation["op"] == "add"
        value = copy.deepcopy(operation["value"])
        if operation["path"] == "":
            assert (kind, value["name"]) == ("Cluster", patch["name"])
            resources["clusters"].append(value)
            continue
        for place in _places(_resource(resources, kind, patch["name"]), operation.get("jsonPath", "")):
            add(place, operation["path"], copy.deepcopy(value))
    return made


def _resource(resources: Json, kind: str, name: str) -> Json:
    if kind == "Listener":
        return next(one for one in resources["listeners"] if one["name"] == name)
    assert kind == "RouteConfiguration"
    managers = [one["default_filter_chain"]["filters"][0]["typed_config"] for one in resources["listeners"]]
    return next(one["route_config"] for one in managers if one["route_config"]["name"] == name)


def _places(resource: Json, json_path: str) -> list[Any]:
    if not json_path:
        return [resource]
    found = _PATH.fullmatch(json_path)
    assert found, json_path
    holder, name, field = found.groups()
    places = [one[field] for each in _deep(resource, holder) for one in each if one["name"] == name]
    assert places, json_path
    return places


def _deep(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, one in value.items():
            if name == key:
                yield one
            yield from _deep(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from _deep(one, key)


def add(value: Any, pointer: str, what: Any) -> None:
    """`add` of RFC 6902. What is missing on the way is made (EnsurePathExistsOnAdd)."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for part in way:
        value = value[int(part)] if isinstance(value, list) else value.setdefault(part, {})
    if isinstance(value, list):
        value.insert(len(value) if last == "-" else int(last), what)
    else:
        value[last] = what
