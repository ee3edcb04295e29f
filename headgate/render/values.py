"""Small Envoy values that several parts of the configuration are made of."""

from __future__ import annotations

from typing import Any, TypeAlias

from headgate.settings import split_address

Json: TypeAlias = dict[str, Any]


def typed(name: str, type_name: str, /, **fields: Any) -> Json:
    """A named extension: `{name, typed_config: {"@type": …}}`."""
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{type_name}", **fields}}


def seconds(value: float) -> str:
    """A protobuf Duration in JSON."""
    return f"{value:.3f}s" if value % 1 else f"{int(value)}s"


def address(value: str) -> Json:
    """An Envoy Address from `unix:///path` or `host:port`."""
    if value.startswith("unix://"):
        return {"pipe": {"path": value.removeprefix("unix://")}}
    host, port = split_address(value)
    return {"socket_address": {"address": host, "port_value": port}}


def grpc(cluster: str, timeout: float) -> Json:
    """A gRPC service behind one of our clusters."""
    return {"envoy_grpc": {"cluster_name": cluster}, "timeout": seconds(timeout)}


def discovery(path: str) -> Json:
    """A dynamic resource file that takes effect when it is moved into place."""
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}
