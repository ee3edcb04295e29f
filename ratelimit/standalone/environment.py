"""Everything that envoyproxy/ratelimit's environment variables say, read once and checked together.

Names, syntax and defaults are that service's, so that a deployment can change its image and nothing else. Where we mean
something else, docs/ratelimit.md says so. Variables of what we do not serve are accepted; where leaving them out would
change what happens, `Environment.warnings` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ratelimit.options import Options
from ratelimit.rules import OnError
from ratelimit.sources.directory import Directory
from ratelimit.sources.xds import ClientTls, ManagementServer
from ratelimit.standalone.redisvariables import certificates, redis_url
from ratelimit.standalone.stores import Stores
from ratelimit.standalone.variables import Variables
from sidecar.errors import ConfigError
from sidecar.logs import LogFormat, LogLevel
from sidecar.options import ServerOptions, Tls

MEMORY = "memory://"

_LEVELS: dict[str, LogLevel] = {
    "panic": "error", "fatal": "error", "error": "error", "warn": "warning", "warning": "warning",
    "info": "info", "debug": "debug", "trace": "debug",
}  # fmt: skip

# What we do not serve, by the values (of any case) with which nothing is lost. "" stands for an empty one.
_OFF = ("", "0", "f", "false")
_NOT_SERVED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "USE_STATSD": ("there is no statsd: metrics are at /metrics", _OFF),
    "USE_DOG_STATSD": ("there is no DogStatsD: metrics are at /metrics", _OFF),
    "PROMETHEUS_MAPPER_YAML": ("metrics have the default mapping's names and labels", ("",)),
    "EXTRA_TAGS": ("metrics have no tags of your own: let Prometheus add them", ("",)),
    "TRACING_ENABLED": ("there is no tracing", _OFF),
    "MAX_CONCURRENT_REQUESTS": ("requests are bounded by connection (GRPC_MAX_CONCURRENT_STREAMS)", ("", "0")),
    "REQUEST_TIMEOUT": ("a decision waits as long as REDIS_TIMEOUT lets it", ("", "0", "0s")),
}
# What has no meaning here, and whose absence changes nothing that a user sees.
WITHOUT_EFFECT = (
    "PROTO", "STATSD_HOST", "STATSD_PORT", "STATSD_PROTOCOL", "USE_DOG_STATSD_MOGRIFIERS", "STATS_FLUSH_INTERVAL",
    "DISABLE_STATS", "REDIS_POOL_SIZE", "REDIS_PIPELINE_WINDOW", "REDIS_PIPELINE_LIMIT", "REDIS_POOL_ON_EMPTY_BEHAVIOR",
    "REDIS_PERSECOND_POOL_SIZE", "REDIS_PERSECOND_PIPELINE_WINDOW", "REDIS_PERSECOND_PIPELINE_LIMIT",
    "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", "MEMCACHE_HOST_PORT", "MEMCACHE_MAX_IDLE_CONNS", "MEMCACHE_SRV",
    "MEMCACHE_SRV_REFRESH", "MEMCACHE_TLS", "MEMCACHE_TLS_CLIENT_CERT", "MEMCACHE_TLS_CLIENT_KEY",
    "MEMCACHE_TLS_CACERT", "MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", "TRACING_SERVICE_NAME",
    "TRACING_SERVICE_NAMESPACE", "TRACING_SERVICE_INSTANCE_ID", "TRACING_EXPORTER_PROTOCOL", "TRACING_SAMPLING_RATE",
)  # fmt: skip
NOT_SERVED = (*_NOT_SERVED, *WITHOUT_EFFECT)


@dataclass(frozen=True, slots=True)
class HttpAddresses:
    """`host:port` of each HTTP server, empty for one that there is not."""

    api: str = "0.0.0.0:8080"
    debug: str = "0.0.0.0:6070"
    metrics: str = ""
    metrics_path: str = "/metrics"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the service is started with. Rules in a `Path` are read when it starts, and when it is told to.

    `rules_first` opens the gRPC port only when rules have come (or failed to); `needs_domain` calls the service healthy
    only while there is a domain with rules.
    """

    listen: str
    server: ServerOptions
    http: HttpAddresses
    rules: Directory | ManagementServer | Path
    options: Options
    stores: Stores
    log_level: LogLevel = "warning"
    log_format: LogFormat = "text"
    rules_first: bool = True
    needs_domain: bool = False
    warnings: tuple[str, ...] = ()


def read(environment: Mapping[str, str]) -> Environment:
    """The variables as settings. Raises `ConfigError` with every one that cannot be used."""
    variables = Variables(environment)
    found = _read(variables)
    for name, (warning, harmless) in _NOT_SERVED.items():
        if environment.get(name, "").strip().lower() not in harmless:
            variables.warnings.append(f"{name}: {warning}")
    if variables.problems:
        raise ConfigError(variables.problems)
    return replace(found, warnings=tuple(variables.warnings))


def names() -> tuple[str, ...]:
    """Every variable that is read."""
    variables = Variables({"REDIS_PERSECOND": "true"})
    _read(variables)
    return tuple(variables.asked)


def _read(read: Variables) -> Environment:
    merge = read.flag("MERGE_DOMAIN_CONFIG")
    return Environment(
        listen=_listen(read),
        server=_server(read),
        http=_http(read),
        rules=_rules(read, merge),
        options=_options(read),
        stores=_stores(read),
        log_level=_LEVELS[read.choice("LOG_LEVEL", "warn", {word: word for word in _LEVELS})],
        log_format="json" if read.text("LOG_FORMAT", "text").lower() == "json" else "text",
        rules_first=not read.flag("FORCE_START_WITHOUT_INITIAL_CONFIG"),
        needs_domain=read.flag("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED"),
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}"  # noqa: S104 - as asked for


def _port(read: Variables, name: str, default: int) -> int:
    return read.integer(name, default, most=65_535)


def _http(read: Variables) -> HttpAddresses:
    metrics, path = read.text("PROMETHEUS_ADDR", ":9090"), read.text("PROMETHEUS_PATH", "/metrics")
    host, separator, port = metrics.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        read.wrong("PROMETHEUS_ADDR", "is no address", "write host:port or :port")
        port = "0"
    if not path.startswith("/") or any(sign in path for sign in "{} "):
        read.wrong("PROMETHEUS_PATH", "is no path", "write one like /metrics")
    served = read.flag("USE_PROMETHEUS")
    return HttpAddresses(
        _address(read.text("HOST", "0.0.0.0"), _port(read, "PORT", 8080)),  # noqa: S104 - the default there is
        _address(read.text("DEBUG_HOST", "0.0.0.0"), _port(read, "DEBUG_PORT", 6070)),  # noqa: S104
        _address(host.strip("[]"), int(port)) if served else "",
        path,
    )


def _listen(read: Variables) -> str:
    address = _address(read.text("GRPC_HOST", "0.0.0.0"), _port(read, "GRPC_PORT", 8081))  # noqa: S104
    socket = read.text("GRPC_UDS")
    return f"unix://{socket}" if socket else address


def _server(read: Variables) -> ServerOptions:
    secure = read.flag("GRPC_SERVER_USE_TLS")
    certificate, key = read.text("GRPC_SERVER_TLS_CERT"), read.text("GRPC_SERVER_TLS_KEY")
    client_ca, client_name = read.text("GRPC_CLIENT_TLS_CACERT"), read.text("GRPC_CLIENT_TLS_SAN")
    if secure:
        for name, value in (("GRPC_SERVER_TLS_CERT", certificate), ("GRPC_SERVER_TLS_KEY", key)):
            if not value:
                read.wrong(name, "is not set, and GRPC_SERVER_USE_TLS is true", "name a PEM file")
            elif not os.access(value, os.R_OK):
                read.wrong(name, f"{value} cannot be read", "name a PEM file")
        if client_ca and not os.access(client_ca, os.R_OK):
            read.wrong("GRPC_CLIENT_TLS_CACERT", f"{client_ca} cannot be read", "name a PEM file")
        if client_name and not client_ca:
            mend = "name the clients' authority, or leave the name out"
            read.wrong("GRPC_CLIENT_TLS_CACERT", "is not set, so GRPC_CLIENT_TLS_SAN would check nothing", mend)
    tls = Tls(Path(certificate), Path(key), Path(client_ca) if client_ca else None, client_name=client_name)
    return ServerOptions(
        tls=tls if secure else None,
        max_connection_age=read.seconds("GRPC_MAX_CONNECTION_AGE", 24 * 3_600.0),
        max_connection_age_grace=read.seconds("GRPC_MAX_CONNECTION_AGE_GRACE", 3_600.0),
        max_concurrent_streams=read.integer("GRPC_MAX_CONCURRENT_STREAMS", 0) or ServerOptions().max_concurrent_streams,
    )


def _rules(read: Variables, merge: bool) -> Directory | ManagementServer:
    kind = read.choice("CONFIG_TYPE", "file", {"file": "FILE", "grpc_xds_sotw": "GRPC_XDS_SOTW"})
    directory = Directory(
        Path(read.text("RUNTIME_ROOT", "/srv/runtime_data/current")),
        read.text("RUNTIME_SUBDIRECTORY").strip("/"),
        read.text("RUNTIME_APPDIRECTORY", "config").strip("/"),
        read.flag("RUNTIME_WATCH_ROOT", True),
        read.flag("RUNTIME_IGNOREDOTFILES"),
        merge,
    )
    secure = read.flag("CONFIG_GRPC_XDS_SERVER_USE_TLS")
    tls = ClientTls(
        read.text("CONFIG_GRPC_XDS_CLIENT_TLS_CERT"),
        read.text("CONFIG_GRPC_XDS_CLIENT_TLS_KEY"),
        read.text("CONFIG_GRPC_XDS_SERVER_TLS_CACERT"),
        read.text("CONFIG_GRPC_XDS_SERVER_TLS_SAN"),
    )
    spread = read.decimal("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", 0.5, least=0.0, most=1.0)
    server = ManagementServer(
        read.text("CONFIG_GRPC_XDS_SERVER_URL", "localhost:18000"),
        read.text("CONFIG_GRPC_XDS_NODE_ID", "default"),
        _node_metadata(read.text("CONFIG_GRPC_XDS_NODE_METADATA")),
        read.pairs("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS"),
        tls if secure else None,
        read.seconds("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", 3.0),
        read.seconds("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", 10.0),
        read.seconds("XDS_CLIENT_BACKOFF_MAX_INTERVAL", 60.0),
        spread if read.flag("XDS_CLIENT_BACKOFF_JITTER", True) else 0.0,
        read.integer("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", 0),
        merge,
    )
    return directory if kind == "FILE" else server


def _node_metadata(text: str) -> dict[str, str]:
    """`name=value,name=value`; what has no `=` is passed over, as envoyproxy/ratelimit does."""
    split = (entry.partition("=") for entry in text.split(","))
    return {name: value for name, separator, value in split if separator}


def _options(read: Variables) -> Options:
    headers = (
        read.text("LIMIT_LIMIT_HEADER", "RateLimit-Limit"),
        read.text("LIMIT_REMAINING_HEADER", "RateLimit-Remaining"),
        read.text("LIMIT_RESET_HEADER", "RateLimit-Reset"),
    )
    for name, header in zip(
        ("LIMIT_LIMIT_HEADER", "LIMIT_REMAINING_HEADER", "LIMIT_RESET_HEADER"), headers, strict=True
    ):
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header):  # RFC 9110, section 5.1
            read.wrong(name, "is no name of a header", "write one like RateLimit-Limit")
    return Options(
        shadow=read.flag("SHADOW_MODE"),
        quota=read.flag("QUOTA_MODE"),
        near_ratio=read.decimal("NEAR_LIMIT_RATIO", 0.8, least=0.0, most=1.0),
        key_prefix=read.text("CACHE_KEY_PREFIX"),
        jitter=read.integer("EXPIRATION_JITTER_MAX_SECONDS", 300),
        local_cache_bytes=read.integer("LOCAL_CACHE_SIZE_IN_BYTES", 0, most=2**40),
        stop_when_over=read.flag("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT"),
        headers=headers if read.flag("LIMIT_RESPONSE_HEADERS_ENABLED") else None,
        metadata=read.flag("RESPONSE_DYNAMIC_METADATA"),
        on_error=OnError(read.choice("ON_ERROR", "error", {one.value: one.value for one in OnError})),
        local_share=read.decimal("LOCAL_SHARE", 1.0, least=0.0, most=1.0),
    )


def _stores(read: Variables) -> Stores:
    backend = read.text("BACKEND_TYPE", "redis").lower()
    if backend.startswith("memcache"):
        read.wrong("BACKEND_TYPE", "memcached is not served", "write redis or memory")
    elif backend not in ("redis", "memory", ""):
        read.wrong("BACKEND_TYPE", f"'{backend[:40]}' is no store", "write redis or memory")
    apart, watched = read.flag("REDIS_PERSECOND"), read.flag("REDIS_HEALTH_CHECK_ACTIVE_CONNECTION")
    if backend == "memory":
        return Stores(MEMORY)
    files = certificates(read)
    url = redis_url(read, "REDIS_", files)
    # The variables of what is turned off are not looked at: they may hold anything.
    per_second = redis_url(read if apart else Variables({}), "REDIS_PERSECOND_", files)
    return Stores(url, per_second if apart else "", watched)
