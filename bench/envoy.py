"""Small Envoys of the benchmark's own: one listener, the HTTP filters that a suite asks for, one upstream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.processes import Placement, Processes
from headgate.render.clusters import service
from headgate.render.values import Json, address, typed
from headgate.up.envoy import envoy_binary

UPSTREAM = "upstream"


def spawn(processes: Processes, bootstrap: Json, placement: Placement, *, name: str = "envoy") -> psutil.Process:
    """Start an Envoy with one worker."""
    path = processes.folder / f"{name}.json"
    path.write_text(json.dumps(bootstrap))
    return processes.spawn(command(path), placement.gateway)


def command(bootstrap: Path) -> list[str]:
    """The command line of an Envoy with one worker, as `headgate up` starts it."""
    quiet = ["--disable-hot-restart", "--log-level", "error"]
    return [str(envoy_binary()), "-c", str(bootstrap), "--concurrency", "1", *quiet]


def bare(port: int, upstream_port: int) -> Json:
    """A router and nothing else."""
    return minimal(port, upstream_port, filters=(), services={})


def minimal(
    port: int, upstream_port: int, *, filters: Sequence[Json], services: dict[str, str], route: Json | None = None
) -> Json:
    """One listener with `filters` and the router. `services` are gRPC clusters by name, each `unix://…` or host:port.

    `route` is laid over the one route that everything takes.
    """
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": UPSTREAM, "timeout": "0s"}, **(route or {})}
                    ],
                }
            ]
        },
        http_filters=[*filters, typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
    )
    listener = {
        "name": "bench",
        "address": address(f"127.0.0.1:{port}"),
        "filter_chains": [{"filters": [manager]}],
    }
    upstream = {
        "name": UPSTREAM,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": UPSTREAM,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(f"127.0.0.1:{upstream_port}")}}]}],
        },
    }
    clusters = [upstream, *(service(name, [listen]) for name, listen in services.items())]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}
