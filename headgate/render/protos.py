"""Envoy values are checked by Envoy's own messages before they are printed.

The messages of the xds-protos package may be older than our Envoy: what it has and they do not have yet is left out of
the check (`NEWER`), and the tests have the real Envoy look at all of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf import json_format, message

from headgate.render.values import Json

_PREFIX = "type.googleapis.com/"
NEWER_EXTENSIONS = ("body_size_limit", "priority_group")  # ends of names
NEWER_FIELDS = ("refresh_cluster_on_retry", "inline_cluster_specifier_plugin")


def check(type_name: str, value: Json) -> None:
    """Raise `ValueError` when `value` is not a message of this type (`envoy.config.cluster.v3.Cluster`).

    Fields that nobody knows, values of another type, and extensions that do not exist are found, at any depth.
    """
    known = _known(value)
    for name in {type_name, *_types(known)}:
        _load(name.rpartition(".")[0])
    try:
        json_format.ParseDict(known, _class(type_name)())
    except json_format.ParseError as error:
        raise ValueError(f"{type_name}: {error}") from error


def opaque(value: Any) -> Any:
    """`value` with extensions as structures where a control plane between us and Envoy may not know their messages.

    Envoy reads both alike (xds.type.v3.TypedStruct).
    """
    if isinstance(value, list):
        return [opaque(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: opaque(one) for key, one in value.items()}
    config = made.get("typed_config")
    if _is_newer(value) and isinstance(config, dict):
        fields = {key: one for key, one in config.items() if key != "@type"}
        made["typed_config"] = {
            "@type": f"{_PREFIX}xds.type.v3.TypedStruct",
            "type_url": config["@type"],
            "value": fields,
        }
    return made


def _class(type_name: str) -> type[message.Message]:
    package, _, name = type_name.rpartition(".")
    for module in _load(package):
        if hasattr(module, name):
            found: type[message.Message] = getattr(module, name)
            return found
    raise ValueError(f"there is no message {type_name}")


def _types(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("@type"), str):
            yield value["@type"].removeprefix(_PREFIX)
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _types(one)


@cache
def _load(package: str) -> tuple[Any, ...]:
    """The generated modules of a proto package: importing them makes its messages known."""
    try:
        folder = importlib.import_module(package)
    except ImportError:
        return ()
    names = [one.name for one in pkgutil.iter_modules(folder.__path__) if one.name.endswith("_pb2")]
    return tuple(importlib.import_module(f"{package}.{name}") for name in names)


def _known(value: Any) -> Any:
    """`value` without what the generated messages do not have yet."""
    if isinstance(value, list):
        return [_known(one) for one in value if not _is_newer(one)]
    if isinstance(value, dict):
        if "inline_cluster_specifier_plugin" in value:
            value = {**value, "cluster": "x"}
        return {
            key: _known(one)
            for key, one in value.items()
            if key not in NEWER_FIELDS and not (key == "extension_config" and _is_newer(one))
        }
    return value


def _is_newer(one: Any) -> bool:
    return isinstance(one, dict) and str(one.get("name", "")).endswith(NEWER_EXTENSIONS)
