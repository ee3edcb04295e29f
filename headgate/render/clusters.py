"""Envoy clusters: one per provider, and our own two services."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import certifi

from extproc.policy import route_name
from extproc.settings import ProviderSettings
from headgate.render.layout import EXTPROC_CLUSTER, RATELIMIT_CLUSTER, provider_cluster, provider_secret
from headgate.render.secrets import SERVICE_CA, SERVICE_CLIENT
from headgate.render.values import Json, address, seconds, typed
from headgate.settings import ServiceTlsSettings, Settings

SecretSource: TypeAlias = Callable[[str], Json]

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# What may hold somebody's credential, or say where a request came from. Removed on every attempt, before
# the provider's own key is put in: a header survives from one attempt to the next.
PRIVATE_HEADERS = (
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "cookie",
    "openai-organization",
    "openai-project",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-envoy-external-address",
    "x-envoy-internal",
    "forwarded",
    "x-real-ip",
    "x-headgate-route",
)
_UNLIMITED = {
    "max_connections": 100_000,
    "max_pending_requests": 100_000,
    "max_requests": 100_000,
    "max_retries": 1_000,
}


def provider(name: str, settings: ProviderSettings, *, credential_source: Json | None) -> Json:
    """The cluster of one provider: its endpoint, TLS, and the filters that every attempt passes."""
    url = urlsplit(settings.base_url)
    assert url.hostname is not None
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    numeric = _is_address(url.hostname)
    route = route_name(name, settings)
    cluster_name = provider_cluster(route)
    cluster: Json = {
        "name": cluster_name,
        "alt_stat_name": f"provider_{name}",
        "type": "STATIC" if numeric else "STRICT_DNS",
        "connect_timeout": seconds(settings.connect_timeout),
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {
            "cluster_name": cluster_name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {"socket_address": {"address": url.hostname, "port_value": port}},
                                "hostname": url.netloc,
                            }
                        }
                    ]
                }
            ],
        },
        "circuit_breakers": {"thresholds": [dict(_UNLIMITED)]},
        "typed_extension_protocol_options": {HTTP_OPTIONS: _http_options(route, secure, credential_source)},
    }
    if not numeric:
        cluster["dns_lookup_family"] = "ALL"
    if secure:
        cluster["transport_socket"] = _tls(settings, url.hostname)
    return cluster


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _http_options(route: str, secure: bool, credential_source: Json | None) -> Json:
    filters = [
        typed(
            "envoy.filters.http.header_mutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": [{"remove": header} for header in PRIVATE_HEADERS]},
        )
    ]
    if credential_source is not None:
        generic = typed(
            "envoy.http.injected_credentials.generic",
            "envoy.extensions.http.injected_credentials.generic.v3.Generic",
            credential={"name": provider_secret(route), **credential_source},
            header="authorization",
        )
        filters.append(
            typed(
                "envoy.filters.http.credential_injector",
                "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
                overwrite=True,
                credential=generic,
            )
        )
    filters.append(
        typed(
            "envoy.filters.http.upstream_codec",
            "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        )
    )
    options: Json = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "http_filters": filters}
    if secure:
        options["auto_config"] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    else:
        options["explicit_http_config"] = {"http_protocol_options": {}}
    return options


def _tls(settings: ProviderSettings, host: str) -> Json:
    name = settings.tls.sni or host
    matcher = "IP_ADDRESS" if _is_address(name) else "DNS"
    context: Json = {
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": settings.tls.ca or system_ca()},
                "match_typed_subject_alt_names": [{"san_type": matcher, "matcher": {"exact": name}}],
            },
        },
    }
    if matcher == "DNS":
        context["sni"] = name
    return typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        **context,
    )


def system_ca() -> str:
    """The system's CA bundle, or certifi's where the system has none."""
    found = ssl.get_default_verify_paths().cafile
    candidates = (found, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
    return next((path for path in candidates if path and Path(path).is_file()), certifi.where())


def service(name: str, listens: Sequence[str], transport_socket: Json | None = None) -> Json:
    """The cluster of one of our gRPC services: an endpoint per worker, in turn."""
    numeric = all(one.startswith("unix://") or _is_address(one.rpartition(":")[0].strip("[]")) for one in listens)
    return {
        "name": name,
        "type": "STATIC" if numeric else "STRICT_DNS",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(one)}} for one in listens]}],
        },
        "circuit_breakers": {"thresholds": [dict(_UNLIMITED)]},
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        **({"transport_socket": transport_socket} if transport_socket is not None else {}),
    }


def _service_tls(settings: ServiceTlsSettings, source: SecretSource) -> Json:
    matcher = "IP_ADDRESS" if _is_address(settings.name) else "DNS"
    names = {"match_typed_subject_alt_names": [{"san_type": matcher, "matcher": {"exact": settings.name}}]}
    context: Json = {
        "alpn_protocols": ["h2"],
        "combined_validation_context": {
            "default_validation_context": names,
            "validation_context_sds_secret_config": {"name": SERVICE_CA, **source(SERVICE_CA)},
        },
    }
    if settings.client_cert:
        shown = {"name": SERVICE_CLIENT, **source(SERVICE_CLIENT)}
        context["tls_certificate_sds_secret_configs"] = [shown]
    return typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context=context,
        **({"sni": settings.name} if matcher == "DNS" else {}),
    )


def all_clusters(
    settings: Settings,
    *,
    extproc: Sequence[str],
    ratelimit: Sequence[str],
    credential_sources: dict[str, Json],
    secret_source: SecretSource,
) -> list[Json]:
    """Every cluster, providers last. `secret_source` says where Envoy finds a secret that is named."""
    tls = _service_tls(settings.services.tls, secret_source) if settings.services.tls is not None else None
    return [
        service(EXTPROC_CLUSTER, extproc, tls),
        *([service(RATELIMIT_CLUSTER, ratelimit, tls)] if settings.limits.enforce == "envoy" else []),
        *(
            provider(name, one, credential_source=credential_sources.get(name))
            for name, one in settings.providers.items()
        ),
    ]
