"""Headgate in an Istio egress gateway.

Apps call `http://HOST`. Their sidecars take that to the egress gateway by mutual TLS (VirtualService, DestinationRule);
there it is plaintext again, in a filter chain of its own (Gateway, by SNI), into which the EnvoyFilter puts what an
attached Envoy has: filters, clusters, a virtual host (`headgate.render.attach`).

Fields: https://istio.io/latest/docs/reference/config/networking/
"""

from __future__ import annotations

from dataclasses import dataclass

from headgate.render.attach import Parts
from headgate.render.kubernetes import Object
from headgate.render.protos import check, opaque
from headgate.render.values import Json, typed

_NETWORKING = "networking.istio.io/v1"
_MANAGER = "envoy.filters.network.http_connection_manager"
_ROUTER = "envoy.filters.http.router"
_TYPES = {
    "CLUSTER": "envoy.config.cluster.v3.Cluster",
    "HTTP_FILTER": "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    "LISTENER": "envoy.config.listener.v3.Listener",
    "NETWORK_FILTER": "envoy.config.listener.v3.Filter",
    "VIRTUAL_HOST": "envoy.config.route.v3.VirtualHost",
}


@dataclass(frozen=True, slots=True)
class Egress:
    """The egress gateway, and the names by which apps call Headgate."""

    hosts: tuple[str, ...]
    namespace: str  # the gateway's own: there all objects go
    selector: tuple[str, str]  # a label of the gateway's pods and its value
    service: str  # the gateway's, fully qualified
    name: str = "headgate"
    port: int = 443  # of the service
    listen_port: int = 8443  # where the pods listen for it

    @property
    def labels(self) -> Json:
        return {self.selector[0]: self.selector[1]}


def objects(parts: Parts, egress: Egress) -> list[Object]:
    """Every object. Raises `ValueError` where an Envoy part is none that Envoy's messages know."""
    return [
        _service_entry(egress),
        _gateway(egress),
        _destination_rule(egress),
        _virtual_service(egress),
        _envoy_filter(parts, egress),
    ]


def _object(kind: str, egress: Egress, spec: Json, api: str = _NETWORKING) -> Object:
    return Object(api, kind, egress.name, egress.namespace, {"spec": spec})


def _service_entry(egress: Egress) -> Object:
    """Makes the hosts known to sidecars, with an address: the egress gateway's."""
    return _object(
        "ServiceEntry",
        egress,
        {
            "hosts": list(egress.hosts),
            "location": "MESH_INTERNAL",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "resolution": "DNS",
            "endpoints": [{"address": egress.service}],
        },
    )


def _gateway(egress: Egress) -> Object:
    server = {
        "port": {"number": egress.port, "name": f"https-{egress.name}", "protocol": "HTTPS"},
        "hosts": list(egress.hosts),
        "tls": {"mode": "ISTIO_MUTUAL"},
    }
    return _object("Gateway", egress, {"selector": egress.labels, "servers": [server]})


def _destination_rule(egress: Egress) -> Object:
    """Mutual TLS from sidecars to the gateway, with the name by which it finds our filter chain."""
    tls = {"mode": "ISTIO_MUTUAL", "sni": egress.hosts[0]}
    policy = {"portLevelSettings": [{"port": {"number": egress.port}, "tls": tls}]}
    return _object(
        "DestinationRule",
        egress,
        {"host": egress.service, "subsets": [{"name": egress.name, "trafficPolicy": policy}]},
    )


def _virtual_service(egress: Egress) -> Object:
    """From apps to the gateway. Sidecars try nothing again: Headgate does, and a request may cost money."""
    destination = {"host": egress.service, "subset": egress.name, "port": {"number": egress.port}}
    rule = {
        "match": [{"port": 80}],
        "route": [{"destination": destination}],
        "retries": {"attempts": 0},
    }
    return _object("VirtualService", egress, {"hosts": list(egress.hosts), "gateways": ["mesh"], "http": [rule]})


def _envoy_filter(parts: Parts, egress: Egress) -> Object:
    """The parts of an attached Envoy, as patches of the egress gateway."""
    chain = {"sni": egress.hosts[0], "filter": {"name": _MANAGER}}
    router = {"sni": egress.hosts[0], "filter": {"name": _MANAGER, "subFilter": {"name": _ROUTER}}}
    manager = typed(
        _MANAGER,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        local_reply_config={"mappers": parts.replies},
        access_log=parts.access_logs,
    )
    logs = typed(_ROUTER, "envoy.extensions.filters.http.router.v3.Router", upstream_log=[parts.attempt_log])
    buffer = {"per_connection_buffer_limit_bytes": parts.buffer_bytes}
    of_gateway = {"gateway": f"{egress.namespace}/{egress.name}"}
    patches = [
        *(_patch("CLUSTER", "ADD", {}, cluster) for cluster in parts.clusters),
        *(
            _patch("HTTP_FILTER", "INSERT_BEFORE", {"listener": {"filterChain": router}}, one)
            for one in parts.http_filters
        ),
        _patch("HTTP_FILTER", "MERGE", {"listener": {"filterChain": router}}, logs),
        _patch("NETWORK_FILTER", "MERGE", {"listener": {"filterChain": chain}}, manager),
        _patch("LISTENER", "MERGE", {"listener": {"portNumber": egress.listen_port}}, buffer),
        _patch("VIRTUAL_HOST", "ADD", {"routeConfiguration": of_gateway}, parts.virtual_host),
    ]
    spec = {"workloadSelector": {"labels": egress.labels}, "configPatches": patches}
    return _object("EnvoyFilter", egress, spec, "networking.istio.io/v1alpha3")


def _patch(apply_to: str, operation: str, match: Json, value: Json) -> Json:
    check(_TYPES[apply_to], value)
    return {
        "applyTo": apply_to,
        "match": {"context": "GATEWAY", **match},
        "patch": {"operation": operation, "value": opaque(value)},
    }
