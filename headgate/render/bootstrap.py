"""Whole Envoy configurations: the dynamic files for `headgate up`, or one static bootstrap for elsewhere."""

from __future__ import annotations

from extproc.policy import Policy
from extproc.policy import build as build_policy
from headgate.render.clusters import all_clusters
from headgate.render.embeddings import embeddings_listener
from headgate.render.layout import ROUTES, Layout, provider_secret
from headgate.render.listener import listener
from headgate.render.routes import routes
from headgate.render.secrets import SECRET_TYPE, secret, service_secrets, tls_secret
from headgate.render.stats import envoy_admin_cluster, stats_listener
from headgate.render.values import Json, address, discovery
from headgate.settings import Settings

_LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
_CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_ROUTES_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_MAX_CONNECTIONS = 50_000


def _resources(version: str, type_url: str, values: list[Json]) -> Json:
    return {"version_info": version, "resources": [{"@type": type_url, **value} for value in values]}


def policy_of(settings: Settings) -> Policy:
    """What Envoy and ext_proc must agree on: models, targets and their names."""
    return build_policy(settings, max_body_bytes=settings.max_body, created=0)


def _common(admin: Json) -> Json:
    return {
        "node": {"id": "headgate", "cluster": "headgate"},
        "admin": {"address": admin},
        # What large bodies have taken goes back to the system.
        "memory_allocator_manager": {
            "bytes_to_release": str(256 << 20),
            "memory_release_interval": "1s",
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": str(_MAX_CONNECTIONS),
                    },
                }
            ]
        },
    }


def dynamic_bootstrap(layout: Layout) -> Json:
    """A bootstrap that takes listeners and clusters from the files of `layout`. Never changes."""
    return {
        **_common({"pipe": {"path": str(layout.envoy_admin)}}),
        "dynamic_resources": {
            "lds_config": discovery(str(layout.listeners)),
            "cds_config": discovery(str(layout.clusters)),
        },
    }


def secret_files(settings: Settings, layout: Layout, credentials: dict[str, str], version: str) -> dict[str, Json]:
    """The SDS files by path."""
    files = {
        str(layout.secret(provider_secret(name))): _resources(version, SECRET_TYPE, [secret(name, value)])
        for name, value in credentials.items()
    }
    certificate = tls_secret(settings)
    if certificate is not None:
        files[str(layout.secret("listener"))] = _resources(version, SECRET_TYPE, [certificate])
    for one in service_secrets(settings):
        files[str(layout.secret(one["name"]))] = _resources(version, SECRET_TYPE, [one])
    return files


def cluster_file(settings: Settings, layout: Layout, credentials: dict[str, str], version: str) -> Json:
    """The CDS file."""
    clusters = all_clusters(
        settings,
        extproc=layout.extprocs(settings),
        ratelimit=layout.ratelimits(settings),
        policy=policy_of(settings),
        with_secrets=credentials,
        secret_source=lambda name: {"sds_config": discovery(str(layout.secret(name)))},
    )
    if settings.envoy.stats:
        clusters.append(envoy_admin_cluster({"pipe": {"path": str(layout.envoy_admin)}}))
    return _resources(version, _CLUSTER_TYPE, clusters)


def route_file(settings: Settings, version: str) -> Json:
    """The RDS file."""
    return _resources(version, _ROUTES_TYPE, [routes(settings, policy_of(settings))])


def listener_file(settings: Settings, layout: Layout, version: str) -> Json:
    """The LDS file."""
    rds = {"rds": {"route_config_name": ROUTES, "config_source": discovery(str(layout.routes))}}
    certificate = {"sds_config": discovery(str(layout.secret("listener")))} if settings.tls else None
    listeners = [listener(settings, route_source=rds, certificate_source=certificate)]
    if settings.envoy.stats:
        listeners.append(stats_listener(settings.envoy.stats))
    return _resources(version, _LISTENER_TYPE, listeners + _embeddings(settings, layout, rds))


def _embeddings(settings: Settings, layout: Layout, route_source: Json) -> list[Json]:
    """The internal listener, where a semantic cache needs it."""
    return [embeddings_listener(layout, route_source)] if settings.semantic_models else []


def static_bootstrap(settings: Settings, layout: Layout, credentials: dict[str, str], *, admin: str) -> Json:
    """One bootstrap that holds everything, for an Envoy that somebody else starts."""
    certificate = tls_secret(settings)
    policy = policy_of(settings)
    source = {"route_config": routes(settings, policy)}
    return {
        **_common(address(admin)),
        "static_resources": {
            "listeners": [
                listener(
                    settings,
                    route_source=source,
                    certificate_source={} if certificate is not None else None,
                ),
                *([stats_listener(settings.envoy.stats)] if settings.envoy.stats else []),
                *_embeddings(settings, layout, source),
            ],
            "clusters": [
                *all_clusters(
                    settings,
                    extproc=layout.extprocs(settings),
                    ratelimit=layout.ratelimits(settings),
                    policy=policy,
                    with_secrets=credentials,
                    secret_source=lambda _name: {},
                ),
                *([envoy_admin_cluster(address(admin))] if settings.envoy.stats else []),
            ],
            "secrets": [
                *(secret(name, value) for name, value in credentials.items()),
                *([certificate] if certificate is not None else []),
                *service_secrets(settings),
            ],
        },
    }
