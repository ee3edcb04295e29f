"""Headgate in an Envoy that Envoy Gateway runs: a Gateway of its own, so no other route can be touched.

What has an API has an object: ext_proc (EnvoyExtensionPolicy, Backend), the size of prompts (ClientTrafficPolicy), the
keys (EnvoyProxy mounts them). The rest is patches (EnvoyPatchPolicy): targets with a key, a path and a body of their
own per attempt, the meter, errors in OpenAI's shape, logs. Retries are in the routes that we patch in, so a
BackendTrafficPolicy would have nothing to apply to; its rate limits always ask Envoy Gateway's own service.

Fields: https://gateway.envoyproxy.io/docs/api/extension_types/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headgate.render.attach import PREFIX, Parts
from headgate.render.gateway_api import GROUP, LISTENER, Entrance, gateway, route_with
from headgate.render.kubernetes import Object
from headgate.render.protos import check, opaque
from headgate.render.values import Json, seconds
from headgate.settings import Settings, split_address

_GROUP = "gateway.envoyproxy.io"
_API = f"{_GROUP}/v1alpha1"
_EXT_PROC = f"{PREFIX}ext_proc"
CA_SECRET = "headgate-services-ca"  # noqa: S105 - names of Secrets
CLIENT_SECRET = "headgate-services-client"  # noqa: S105
_LISTENER_TYPE = "envoy.config.listener.v3.Listener"
_ROUTES_TYPE = "envoy.config.route.v3.RouteConfiguration"
_CLUSTER_TYPE = "envoy.config.cluster.v3.Cluster"
_MANAGER_TYPE = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "..http_filters[?(@.name=='envoy.filters.http.router')]"
_FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The Envoys that Envoy Gateway runs for Headgate."""

    entrance: Entrance
    keys: str  # the Secret that holds the SDS files
    folder: str  # where it is mounted
    extproc: tuple[str, ...]  # addresses
    xds_listener: str = ""  # what Envoy Gateway calls the Envoy listener; empty: as it did before 1.10
    xds_routes: str = ""  # and its route configuration

    @property
    def filter_chain(self) -> str:
        """Where the connection manager is: TLS listeners have chains by name, others the default one."""
        return "/filter_chains/0" if self.entrance.certificate else "/default_filter_chain"

    @property
    def section(self) -> str:
        """What Envoy Gateway calls the listener and its routes, where it is not told otherwise (`XDSNameSchemeV2`)."""
        return f"{self.entrance.namespace}/{self.entrance.name}/{LISTENER}"

    @property
    def ext_proc(self) -> str:
        """What Envoy Gateway calls the filter that it makes of our EnvoyExtensionPolicy."""
        policy = f"{self.entrance.namespace}/{self.entrance.name}"
        return f"envoy.filters.http.ext_proc/envoyextensionpolicy/{policy}/extproc/0"


def objects(settings: Settings, parts: Parts, fleet: Fleet) -> list[Object]:
    """Every object. Raises `ValueError` where an Envoy part is none that Envoy's messages know."""
    parameters = {"group": _GROUP, "kind": "EnvoyProxy", "name": fleet.entrance.name}
    return [
        _envoy_proxy(fleet),
        gateway(fleet.entrance, parameters=parameters),
        route_with(fleet.entrance, {}),  # no backend: without the patches every request ends in a 500
        _client_traffic_policy(settings, parts, fleet),
        _backend(settings, fleet),
        _extension_policy(settings, parts, fleet),
        _patch_policy(parts, fleet),
    ]


def _object(kind: str, fleet: Fleet, spec: Json) -> Object:
    return Object(_API, kind, fleet.entrance.name, fleet.entrance.namespace, {"spec": spec})


def _target(fleet: Fleet, kind: str = "Gateway") -> Json:
    return {"group": GROUP, "kind": kind, "name": fleet.entrance.name}


def _envoy_proxy(fleet: Fleet) -> Object:
    deployment = {
        "pod": {"volumes": [{"name": "keys", "secret": {"secretName": fleet.keys}}]},
        "container": {"volumeMounts": [{"name": "keys", "mountPath": fleet.folder, "readOnly": True}]},
    }
    provider = {"type": "Kubernetes", "kubernetes": {"envoyDeployment": deployment}}
    return _object("EnvoyProxy", fleet, {"provider": provider})


def _client_traffic_policy(settings: Settings, parts: Parts, fleet: Fleet) -> Object:
    """Prompts must fit (the default of 32 KiB breaks them), and a stream may be silent as long as its target may."""
    spec = {
        "targetRefs": [_target(fleet)],
        "connection": {"bufferLimit": str(parts.buffer_bytes)},
        "path": {"escapedSlashesAction": "KeepUnchanged"},  # a model's name in a path may hold one
        "timeout": {
            "http": {"requestReceivedTimeout": _duration(settings.request_timeout), "streamIdleTimeout": "0s"},
        },
    }
    return _object("ClientTrafficPolicy", fleet, spec)


def _backend(settings: Settings, fleet: Fleet) -> Object:
    endpoints = []
    for address in fleet.extproc:
        host, port = split_address(address)
        numeric = ":" in host or host.replace(".", "").isdigit()
        endpoints.append(
            {"ip": {"address": host, "port": port}} if numeric else {"fqdn": {"hostname": host, "port": port}}
        )
    spec: Json = {"endpoints": endpoints}
    service = settings.services.tls
    if service is not None:
        spec["tls"] = {
            "caCertificateRefs": [{"group": "", "kind": "Secret", "name": CA_SECRET}],
            "sni": service.name,
            **({"clientCertificateRef": {"kind": "Secret", "name": CLIENT_SECRET}} if service.client_cert else {}),
        }
    return _object("Backend", fleet, spec)


def _extension_policy(settings: Settings, parts: Parts, fleet: Fleet) -> Object:
    """ext_proc: the headers first, the body only when it is asked for; without an answer nothing goes through."""
    config = _ext_proc(parts)
    processor = {
        "backendRefs": [{"group": _GROUP, "kind": "Backend", "name": fleet.entrance.name}],
        "failOpen": False,
        "messageTimeout": _duration(settings.decision_timeout),
        "metadata": {"writableNamespaces": config["metadata_options"]["receiving_namespaces"]["untyped"]},
        "processingMode": {"allowModeOverride": True, "request": {}},
        "statusOnError": 503,
    }
    return _object("EnvoyExtensionPolicy", fleet, {"targetRefs": [_target(fleet, "HTTPRoute")], "extProc": [processor]})


def _ext_proc(parts: Parts) -> Json:
    found: Json = next(one for one in parts.http_filters if one["name"] == _EXT_PROC)["typed_config"]
    return found


def _patch_policy(parts: Parts, fleet: Fleet) -> Object:
    patches = [*_clusters(parts), *_listener(parts, fleet), *_routes(parts, fleet)]
    return _object(
        "EnvoyPatchPolicy", fleet, {"targetRef": _target(fleet), "type": "JSONPatch", "jsonPatches": patches}
    )


def _patch(type_name: str, name: str, **operation: object) -> Json:
    return {"type": f"type.googleapis.com/{type_name}", "name": name, "operation": operation}


def _clusters(parts: Parts) -> Iterator[Json]:
    for cluster in parts.clusters:
        check(_CLUSTER_TYPE, cluster)
        yield _patch(_CLUSTER_TYPE, cluster["name"], op="add", path="", value=opaque(cluster))


def _listener(parts: Parts, fleet: Fleet) -> Iterator[Json]:
    """Our filters around ext_proc, and what ours need of the connection manager, of ext_proc and of the router."""
    manager = f"{fleet.filter_chain}/filters/0/typed_config"

    def add(path: str, value: object, json_path: str = "") -> Json:
        where = {"jsonPath": json_path} if json_path else {}
        return _patch(
            _LISTENER_TYPE, fleet.xds_listener or fleet.section, op="add", **where, path=path, value=opaque(value)
        )

    check(_MANAGER_TYPE, {"http_filters": parts.http_filters, "local_reply_config": {"mappers": parts.replies}})
    place = [one["name"] for one in parts.http_filters].index(_EXT_PROC)
    for index, one in enumerate(parts.http_filters[:place]):
        yield add(f"{manager}/http_filters/{index}", one)
    for one in parts.http_filters[place + 1 :]:
        yield add("", one, _ROUTER)  # an element of a list: what is added comes before it
    config = _ext_proc(parts)
    for field in ("forward_rules", "max_message_timeout", "mutation_rules"):
        if field in config:
            yield add(f"/typed_config/{field}", config[field], f"..http_filters[?(@.name=='{fleet.ext_proc}')]")
    yield add("/typed_config/upstream_log", [parts.attempt_log], _ROUTER)
    for one in parts.access_logs:
        yield add(f"{manager}/access_log/-", one)
    yield add(f"{manager}/local_reply_config", {"mappers": parts.replies})


def _routes(parts: Parts, fleet: Fleet) -> Iterator[Json]:
    """The one virtual host of the one listener gets our routes, and wakes the filters."""
    host = parts.virtual_host
    awake = {name: one for name, one in host["typed_per_filter_config"].items() if name != _EXT_PROC}
    awake[fleet.ext_proc] = {"@type": _FILTER_CONFIG, "config": {}}
    check("envoy.config.route.v3.VirtualHost", {**host, "typed_per_filter_config": awake})
    values = (
        ("typed_per_filter_config", awake),
        ("include_request_attempt_count", host["include_request_attempt_count"]),
        ("routes", host["routes"]),
    )
    name = fleet.xds_routes or fleet.section
    for field, value in values:
        yield _patch(_ROUTES_TYPE, name, op="add", path=f"/virtual_hosts/0/{field}", value=opaque(value))


def _duration(value: float) -> str:
    """A Gateway API duration, which knows no fractions (GEP-2257)."""
    return seconds(value) if not value % 1 else f"{round(value * 1000)}ms"
