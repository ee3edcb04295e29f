"""Envoy's own state for scrapers and probes: a listener that shows three paths of its admin interface, to read only."""

from __future__ import annotations

from headgate.render.layout import ENVOY_ADMIN_CLUSTER, STATS_LISTENER
from headgate.render.values import Json, address, typed

_FORWARDED = ("/stats/prometheus", "/ready")
_READING = {"name": ":method", "string_match": {"exact": "GET"}}


def stats_listener(listen: str) -> Json:
    """The listener at `host:port`. `/healthz` says that Envoy runs; `/ready` turns 503 when it drains."""
    routes: list[Json] = [
        {"match": {"path": path, "headers": [_READING]}, "route": {"cluster": ENVOY_ADMIN_CLUSTER}}
        for path in _FORWARDED
    ]
    routes.append(
        {"match": {"path": "/healthz"}, "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}}}
    )
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STATS_LISTENER,
        normalize_path=True,
        route_config={
            "name": STATS_LISTENER,
            "virtual_hosts": [{"name": STATS_LISTENER, "domains": ["*"], "routes": routes}],
        },
        http_filters=[typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
    )
    return {
        "name": STATS_LISTENER,
        "address": address(listen),
        "filter_chains": [{"filters": [manager]}],
        # What asks here is not the gateway's traffic: it never counts against the gateway's connections.
        "ignore_global_conn_limit": True,
    }


def envoy_admin_cluster(admin: Json) -> Json:
    """The cluster behind it: Envoy itself, at the address of its admin interface."""
    endpoint = {"endpoint": {"address": admin}}
    return {
        "name": ENVOY_ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": ENVOY_ADMIN_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
