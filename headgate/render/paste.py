"""The parts for an Envoy that is there already, as YAML to paste, each with where it goes and why."""

from __future__ import annotations

from typing import Any

from headgate.render.attach import Parts
from headgate.render.protos import check
from headgate.render.yaml_text import dump

_HEAD = """\
# What Headgate adds to an Envoy that is there already (headgate render attach).
# Each key below is one place. `--into ENVOY_YAML` does all of it by itself.
# Requests to other virtual hosts pass none of these filters: they are disabled until our virtual host enables them.
"""
_NODE = """
# The secrets are files: Envoy reads them only when it has a name (these, or --service-node and --service-cluster).
node: {id: headgate, cluster: headgate}
"""
_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3"
_ROUTE = "envoy.config.route.v3"

# Key, where it goes and why, the message of each value.
_SECTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "http_filters",
        """\
Into the HTTP connection manager's http_filters, in this order, just before the router.
attached marks our requests, headers takes out what a client must not say, ext_proc decides, ratelimit asks about
limits, lua reads the usage of the answer.""",
        f"{_MANAGER}.HttpFilter",
    ),
    (
        "upstream_log",
        """\
Into the typed_config of the router (the last of http_filters): failed attempts, so that cool-downs begin at once.
Only of requests that carry our mark.""",
        "envoy.config.accesslog.v3.AccessLog",
    ),
    (
        "access_log",
        """\
Into the HTTP connection manager's access_log, beside yours: metrics and settlement are made of it.
Only of requests that carry our mark.""",
        "envoy.config.accesslog.v3.AccessLog",
    ),
    (
        "mappers",
        """\
Into the HTTP connection manager's local_reply_config.mappers, before yours: errors in OpenAI's shape.
Only for requests that carry our mark.""",
        f"{_MANAGER}.ResponseMapper",
    ),
    (
        "virtual_hosts",
        """\
Into route_config.virtual_hosts: it enables the filters. Its last routes are where a request waits for its decision.""",
        f"{_ROUTE}.VirtualHost",
    ),
    (
        "clusters",
        """\
Into static_resources.clusters: our services, and one cluster per target with what makes a request that target's.""",
        "envoy.config.cluster.v3.Cluster",
    ),
    (
        "secrets",
        """\
Into static_resources.secrets.""",
        "envoy.extensions.transport_sockets.tls.v3.Secret",
    ),
    (
        "per_connection_buffer_limit_bytes",
        """\
Into the listener, unless yours is larger: what a prompt may grow to while it is decided. It holds for the whole
listener, so a slow reader of your other routes may take so much memory, too.""",
        "",
    ),
)


def sections(parts: Parts) -> dict[str, Any]:
    """The parts by the field that they go into."""
    return {
        "http_filters": parts.http_filters,
        "upstream_log": [parts.attempt_log],
        "access_log": parts.access_logs,
        "mappers": parts.replies,
        "virtual_hosts": [parts.virtual_host],
        "clusters": parts.clusters,
        "secrets": parts.secrets,
        "per_connection_buffer_limit_bytes": parts.buffer_bytes,
    }


def checked(parts: Parts) -> Parts:
    """The same parts, when Envoy's messages know every field of them. Raises `ValueError`."""
    values = sections(parts)
    for key, _, type_name in _SECTIONS:
        for one in values[key] if type_name else ():
            check(type_name, one)
    return parts


def text(parts: Parts) -> str:
    """One YAML document."""
    values = sections(parts)
    written = [_HEAD]
    for key, why, _ in _SECTIONS:
        if values[key]:
            comment = "".join(f"# {line}\n" for line in why.splitlines())
            written.append(f"\n{comment}{dump({key: values[key]})}")
    if parts.watches_files:
        written.append(_NODE)
    return "".join(written)
