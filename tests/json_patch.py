"""Applies an EnvoyPatchPolicy to the resources of a static bootstrap, as Envoy Gateway applies it to its own.

Only what our policy uses: `add` (RFC 6902) to a resource by type and name, behind the places that a JSONPath of the
form `..list[?(@.name=='x')]` finds (internal/xds/translator/jsonpatch.go).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_PATH = re.compile(r"\.\.(\w+)\[\?\(@\.name=='([^']+)'\)\]")


def apply(bootstrap: Json, policy: Json) -> Json:
    """The bootstrap with every patch in it. Raises `AssertionError` or `LookupError` when one finds no place."""
    made = copy.deepcopy(bootstrap)
    resources = made["static_resources"]
    for patch in policy["spec"]["jsonPatches"]:
        operation, kind = patch["operation"], patch["type"].rpartition(".")[2]
        assert operation["op"] == "add"
        value = copy.deepcopy(operation["value"])
        if operation["path"] == "" and "jsonPath" not in operation:
            assert (kind, value["name"]) == ("Cluster", patch["name"])
            resources["clusters"].append(value)
            continue
        resource = _resource(resources, kind, patch["name"])
        pointers = _pointers(resource, operation["jsonPath"]) if "jsonPath" in operation else [""]
        assert pointers, operation["jsonPath"]
        for pointer in pointers:
            add(resource, pointer + operation["path"], copy.deepcopy(value))
    return made


def _resource(resources: Json, kind: str, name: str) -> Json:
    if kind == "Listener":
        return next(one for one in resources["listeners"] if one["name"] == name)
    assert kind == "RouteConfiguration"
    managers = [one["default_filter_chain"]["filters"][0]["typed_config"] for one in resources["listeners"]]
    return next(one["route_config"] for one in managers if one["route_config"]["name"] == name)


def _pointers(resource: Json, json_path: str) -> list[str]:
    """Where a JSONPath leads, as JSON pointers."""
    found = _PATH.fullmatch(json_path)
    assert found, json_path
    return [
        f"{pointer}/{index}"
        for pointer, value in _deep(resource, found.group(1), "")
        for index, one in enumerate(value)
        if one["name"] == found.group(2)
    ]


def _deep(value: Any, key: str, pointer: str) -> Iterator[tuple[str, Any]]:
    named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in named:
        if name == key:
            yield f"{pointer}/{name}", one
        yield from _deep(one, key, f"{pointer}/{name}")


def add(value: Any, pointer: str, what: Any) -> None:
    """`add` of RFC 6902. What is missing on the way is made (EnsurePathExistsOnAdd)."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for part in way:
        value = value[int(part)] if isinstance(value, list) else value.setdefault(part, {})
    if isinstance(value, list):
        value.insert(len(value) if last == "-" else int(last), what)
    else:
        value[last] = what
