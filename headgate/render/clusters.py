"""Envoy clusters: one per target, and our own two services."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Container, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import certifi

from extproc.cache.controls import SALT_HEADER
from extproc.filters.own_key import OWN_KEY_HEADER
from extproc.filters.protocols import PROTOCOLS_HEADER
from extproc.policy import Policy
from extproc.processor import METADATA
from extproc.providers.dialect import DIALECTS
from extproc.settings import ProviderSettings
from extproc.targets import OWN_KEY, REALTIME, Target
from headgate.render.layout import EXTPROC_CLUSTER, RATELIMIT_CLUSTER, provider_secret, replay_cluster, worker_cluster
from headgate.render.secrets import SERVICE_CA, SERVICE_CLIENT
from headgate.render.values import Json, address, seconds, typed
from headgate.settings import ServiceTlsSettings, Settings
from sidecar.addresses import ip_address

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
    SALT_HEADER,
    "x-envoy-attempt-count",
    OWN_KEY_HEADER,
    PROTOCOLS_HEADER,
)
_UNLIMITED = {
    "max_connections": 100_000,
    "max_pending_requests": 100_000,
    "max_requests": 100_000,
    "max_retries": 10_000,
}


def target_cluster(target: Target, provider: ProviderSettings, variant: str, credential_source: Json | None) -> Json:
    """The cluster of one target: its endpoint, TLS, and the filters that every attempt there passes.

    `variant` is one of `OWN_KEY`, `REALTIME`, or empty. With `OWN_KEY` the credential that ext_proc has set stays.
    """
    url = urlsplit(target.channel.base_url)
    assert url.hostname is not None
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    numeric = ip_address(url.hostname) is not None
    localities: list[Json] = [{"lb_endpoints": [_endpoint(url.hostname, port, url.netloc, target)]}]
    if not numeric:
        localities.append({"priority": 1, "lb_endpoints": [_endpoint(*_NOWHERE, url.netloc, target)]})
    cluster: Json = {
        "name": target.cluster + variant,
        "alt_stat_name": f"provider_{target.provider}",
        "type": "STATIC" if numeric else "STRICT_DNS",
        "connect_timeout": seconds(provider.connect_timeout),
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {
            "cluster_name": target.cluster + variant,
            "endpoints": localities,
            # Any address that works serves all: only when there is none is the next priority looked at.
            "policy": {"overprovisioning_factor": 100_000},
        },
        "circuit_breakers": {"thresholds": [_thresholds(provider)]},
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: _http_options(target, variant, secure, credential_source),
        },
    }
    if not numeric:
        cluster["outlier_detection"] = dict(_OUTLIERS)
    if secure:
        cluster["transport_socket"] = _tls(provider, url.hostname)
    return cluster


# A name that does not resolve leaves a cluster without hosts, and Envoy answers 503 at once instead of trying the next
# target. Nobody can listen on port 0: this address refuses within microseconds, and a refusal is tried again.
_NOWHERE = ("127.0.0.1", 0)
# Of a name with several addresses the bad ones are left out. At 40 % an only address (and the one above) never is.
_OUTLIERS = {
    "consecutive_5xx": 5,
    "consecutive_gateway_failure": 5,
    "base_ejection_time": "10s",
    "max_ejection_percent": 40,
}


def _endpoint(host: str, port: int, authority: str, target: Target) -> Json:
    return {
        "endpoint": {
            "address": {"socket_address": {"address": host, "port_value": port}},
            "hostname": authority,
        },
        # For the answer's headers. The cluster's own would be told of a request, too, that was never sent there.
        "metadata": {"filter_metadata": {METADATA: {"provider": target.provider, "model": target.model}}},
    }


def _thresholds(provider: ProviderSettings) -> Json:
    return {**_UNLIMITED, "max_requests": provider.max_requests, "max_retries": provider.max_retries}


def _http_options(target: Target, variant: str, secure: bool, credential_source: Json | None) -> Json:
    header = DIALECTS[target.dialect].credential_header
    removed = list(PRIVATE_HEADERS)
    if OWN_KEY in variant:
        removed.remove(header)
    if REALTIME in variant:
        removed.remove(PROTOCOLS_HEADER)  # ext_proc has taken the key out of it
        removed.append("sec-websocket-extensions")  # what is compressed cannot be metered
    filters = [
        typed(
            "envoy.filters.http.header_mutation",
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": [{"remove": name} for name in removed]},
        )
    ]
    if target.several:
        filters.insert(0, _later_attempts())
    if credential_source is not None and OWN_KEY not in variant:
        generic = typed(
            "envoy.http.injected_credentials.generic",
            "envoy.extensions.http.injected_credentials.generic.v3.Generic",
            credential={"name": provider_secret(target.channel.secret), **credential_source},
            header=header,
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
    if secure and REALTIME not in variant:
        options["auto_config"] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    else:
        options["explicit_http_config"] = {"http_protocol_options": {}}
    return options


def _later_attempts() -> Json:
    source = resources.files("headgate.render").joinpath("attempt.lua").read_text(encoding="utf-8")
    return typed(
        "envoy.filters.http.lua",
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": source},
    )


def _tls(settings: ProviderSettings, host: str) -> Json:
    name = settings.tls.sni or host
    matcher = "IP_ADDRESS" if ip_address(name) else "DNS"
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
    numeric = all(one.startswith("unix://") or ip_address(one.rpartition(":")[0].strip("[]")) for one in listens)
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
    matcher = "IP_ADDRESS" if ip_address(settings.name) else "DNS"
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
    policy: Policy,
    with_secrets: Container[str],
    secret_source: SecretSource,
) -> list[Json]:
    """Every cluster, targets last. `secret_source` says where Envoy finds a secret that is named.

    `with_secrets` has the keys (`Channel.secret`) that Envoy is given.
    """
    tls = _service_tls(settings.services.tls, secret_source) if settings.services.tls is not None else None
    found = [
        service(EXTPROC_CLUSTER, extproc, tls),
        *([service(RATELIMIT_CLUSTER, ratelimit, tls)] if settings.limits.enforce == "envoy" else []),
        *(
            service(worker_cluster(worker, len(extproc)), [address], tls)
            for worker, address in enumerate(extproc)
            if settings.has_cache and len(extproc) > 1
        ),
        *(
            service(replay_cluster(worker), [address], tls)
            for worker, address in enumerate(extproc)
            if settings.has_paced
        ),
        *_target_clusters(settings, policy, with_secrets, secret_source),
    ]
    for cluster in found:
        if cluster["type"] == "STRICT_DNS":
            # Envoy holds each address of a name for a host, and would send half of the requests to a family that is not
            # reached from here (`ALL`), or everything (its own default, IPv6 first).
            cluster["dns_lookup_family"] = settings.envoy.dns_lookup_family.upper()
    return found


def variants(target: Target, policy: Policy) -> list[str]:
    """Which clusters a target has: for our key or the client's own, for plain requests or WebSockets."""
    found = [""]
    if target.realtime:
        found += [REALTIME]
    return found + [variant + OWN_KEY for variant in found] if policy.own_provider_keys else found


def _target_clusters(
    settings: Settings, policy: Policy, with_secrets: Container[str], secret_source: SecretSource
) -> Iterator[Json]:
    for target in policy.targets().values():
        name = target.channel.secret
        source = secret_source(provider_secret(name)) if name in with_secrets else None
        for variant in variants(target, policy):
            yield target_cluster(target, settings.providers[target.provider], variant, source)
