"""envoyproxy/ratelimit's environment variables: defaults, syntax, problems, what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratelimit.sources.directory import Directory
from ratelimit.sources.xds import ClientTls, ManagementServer
from ratelimit.standalone import environment
from ratelimit.standalone.environment import HttpAddresses
from ratelimit.standalone.stores import Stores
from sidecar.errors import ConfigError
from sidecar.redis import parse

DOCUMENT = Path(__file__).parents[3] / "docs" / "ratelimit.md"


def problems(**variables: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        environment.read(variables)
    return [str(problem) for problem in raised.value.problems]


def test_nothing_set_is_what_envoyproxy_ratelimit_starts_with() -> None:
    found = environment.read({})
    assert found.listen == "0.0.0.0:8081"
    assert found.http == HttpAddresses("0.0.0.0:8080", "0.0.0.0:6070", "")
    assert found.rules == Directory(Path("/srv/runtime_data/current"))
    assert found.stores == Stores("unix:///var/run/nutcracker/ratelimit.sock")
    assert found.server.tls is None
    assert found.server.max_connection_age == 86_400
    assert found.server.max_connection_age_grace == 3_600
    assert (found.log_level, found.log_format) == ("warning", "text")
    assert found.rules_first
    assert not found.needs_domain
    assert found.options.jitter == 300
    assert found.options.near_ratio == 0.8
    assert found.options.headers is None
    assert found.warnings == ()


def test_every_variable_has_its_place() -> None:
    found = environment.read(
        {
            "HOST": "127.0.0.1", "PORT": "1", "DEBUG_HOST": "::1", "DEBUG_PORT": "2", "GRPC_HOST": "", "GRPC_PORT": "3",
            "LOG_LEVEL": "DEBUG", "LOG_FORMAT": "JSON", "USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": ":9", "PROMETHEUS_PATH": "/m",
            "RUNTIME_ROOT": "/r", "RUNTIME_SUBDIRECTORY": "/sub/", "RUNTIME_APPDIRECTORY": "app", "RUNTIME_WATCH_ROOT": "f",
            "RUNTIME_IGNOREDOTFILES": "1", "MERGE_DOMAIN_CONFIG": "t", "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
            "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true", "SHADOW_MODE": "true", "QUOTA_MODE": "true",
            "NEAR_LIMIT_RATIO": ".5", "CACHE_KEY_PREFIX": "p_", "EXPIRATION_JITTER_MAX_SECONDS": "0",
            "LOCAL_CACHE_SIZE_IN_BYTES": "1000000", "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true",
            "LIMIT_RESPONSE_HEADERS_ENABLED": "true", "LIMIT_LIMIT_HEADER": "x-limit", "RESPONSE_DYNAMIC_METADATA": "true",
            "BACKEND_TYPE": "memory", "GRPC_MAX_CONNECTION_AGE": "1h30m", "GRPC_MAX_CONCURRENT_STREAMS": "7",
        }
    )  # fmt: skip
    assert found.listen == "0.0.0.0:3"
    assert found.http == HttpAddresses("127.0.0.1:1", "[::1]:2", "0.0.0.0:9", "/m")
    assert (found.log_level, found.log_format) == ("debug", "json")
    assert found.rules == Directory(Path("/r"), "sub", "app", watch_root=False, ignore_dot_files=True, merge=True)
    assert not found.rules_first
    assert found.needs_domain
    options = found.options
    assert options.headers == ("x-limit", "RateLimit-Remaining", "RateLimit-Reset")
    assert (options.shadow, options.quota, options.metadata, options.stop_when_over) == (True, True, True, True)
    assert (options.near_ratio, options.key_prefix, options.jitter, options.local_cache_bytes) == (
        0.5,
        "p_",
        0,
        1_000_000,
    )
    assert found.stores == Stores("memory://")
    assert found.server.max_connection_age == 5400
    assert found.server.max_concurrent_streams == 7


def test_a_unix_socket_wins_over_host_and_port() -> None:
    assert environment.read({"GRPC_UDS": "/run/rl.sock", "GRPC_PORT": "1"}).listen == "unix:///run/rl.sock"


def test_rules_from_a_management_server() -> None:
    found = environment.read(
        {
            "CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_NODE_ID": "n", "CONFIG_GRPC_XDS_NODE_METADATA": "a=b,junk,c=d=e",
            "CONFIG_GRPC_XDS_SERVER_URL": "h:1", "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "2s",
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "authorization:Bearer x", "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
            "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/c", "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "/k",
            "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/a", "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "name",
            "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "1s", "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "9s",
            "XDS_CLIENT_BACKOFF_RANDOM_FACTOR": "0.1", "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "99", "MERGE_DOMAIN_CONFIG": "true",
        }
    )  # fmt: skip
    assert found.rules == ManagementServer(
        "h:1",
        "n",
        {"a": "b", "c": "d=e"},
        {"authorization": "Bearer x"},
        ClientTls("/c", "/k", "/a", "name"),
        2.0,
        1.0,
        9.0,
        0.1,
        99,
        merge=True,
    )
    assert "Bearer" not in repr(found)
    without = environment.read({"CONFIG_TYPE": "GRPC_XDS_SOTW", "XDS_CLIENT_BACKOFF_JITTER": "false"})
    assert isinstance(without.rules, ManagementServer)
    assert (without.rules.tls, without.rules.spread) == (None, 0.0)


def test_tls_of_the_server(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("c", "k", "a")]
    for path in paths:
        path.touch()
    given = {
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_CERT": str(paths[0]),
        "GRPC_SERVER_TLS_KEY": str(paths[1]),
    }
    authority = {"GRPC_CLIENT_TLS_CACERT": str(paths[2]), "GRPC_CLIENT_TLS_SAN": "envoy"}
    tls = environment.read({**given, **authority}).server.tls
    assert tls is not None
    assert (tls.certificate, tls.key, tls.client_ca, tls.client_name) == (*paths, "envoy")
    assert problems(**{**given, "GRPC_SERVER_TLS_KEY": "/gone"}) == [
        "GRPC_SERVER_TLS_KEY: /gone cannot be read (name a PEM file)"
    ]
    assert environment.read({**given, "GRPC_SERVER_USE_TLS": "false"}).server.tls is None
    assert problems(GRPC_SERVER_USE_TLS="true") == [
        "GRPC_SERVER_TLS_CERT: is not set, and GRPC_SERVER_USE_TLS is true (name a PEM file)",
        "GRPC_SERVER_TLS_KEY: is not set, and GRPC_SERVER_USE_TLS is true (name a PEM file)",
    ]
    (problem,) = problems(**given, GRPC_CLIENT_TLS_SAN="envoy")
    assert problem.startswith("GRPC_CLIENT_TLS_CACERT: is not set, so GRPC_CLIENT_TLS_SAN would check nothing")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "abc", "PORT: 'abc' is not a whole number (write digits, without a unit)"),
        ("PORT", "", "PORT: is empty (write digits, without a unit, or leave the variable out)"),
        ("PORT", "65536", "PORT: 65536 is out of range (write 0 to 65535)"),
        ("SHADOW_MODE", "yes", "SHADOW_MODE: 'yes' is neither true nor false (write true or false)"),
        ("GRPC_MAX_CONNECTION_AGE", "10", "GRPC_MAX_CONNECTION_AGE: '10' is not a duration (write one like 10s, 150us or 1h30m)"),
        ("GRPC_MAX_CONNECTION_AGE", "-1s", "GRPC_MAX_CONNECTION_AGE: the duration is negative (write one like 10s)"),
        ("NEAR_LIMIT_RATIO", "1.5", "NEAR_LIMIT_RATIO: 1.5 is out of range (write 0.0 to 1.0)"),
        ("EXPIRATION_JITTER_MAX_SECONDS", "-1", "EXPIRATION_JITTER_MAX_SECONDS: -1 is out of range (write 0 to 2147483647)"),
        ("CONFIG_TYPE", "etcd", "CONFIG_TYPE: 'etcd' is not known here (write one of file, grpc_xds_sotw)"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: 'loud' is not known here (write one of panic, fatal, error, warn, warning, info, debug, trace)"),
        ("BACKEND_TYPE", "memcache", "BACKEND_TYPE: memcached is not served (write redis or memory)"),
        ("BACKEND_TYPE", "etcd", "BACKEND_TYPE: 'etcd' is no store (write redis or memory)"),
        ("PROMETHEUS_ADDR", "9090", "PROMETHEUS_ADDR: is no address (write host:port or :port)"),
        ("PROMETHEUS_PATH", "metrics", "PROMETHEUS_PATH: is no path (write one like /metrics)"),
        ("REDIS_TYPE", "RING", "REDIS_TYPE: 'RING' is not known here (write one of single, sentinel, cluster)"),
        ("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", "x", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS: an entry has no colon (write name:value,name:value)"),
    ],
)  # fmt: skip
def test_problems(name: str, value: str, says: str) -> None:
    assert problems(**{name: value}) == [says]


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(PORT="x", SHADOW_MODE="x", REDIS_URL="a b,c d")) == 3


def test_what_is_not_served_is_said() -> None:
    given = {
        "USE_STATSD": "true",
        "TRACING_ENABLED": "1",
        "EXTRA_TAGS": "a:b",
        "PROMETHEUS_MAPPER_YAML": "/x",
        "REDIS_POOL_SIZE": "5",
    }
    assert [one.partition(":")[0] for one in environment.read(given).warnings] == [
        "USE_STATSD",
        "PROMETHEUS_MAPPER_YAML",
        "EXTRA_TAGS",
        "TRACING_ENABLED",
    ]
    off = {"USE_STATSD": "false", "TRACING_ENABLED": "", "MAX_CONCURRENT_REQUESTS": "0", "REQUEST_TIMEOUT": "0s"}
    assert environment.read(off).warnings == ()


def test_every_variable_is_documented() -> None:
    text = DOCUMENT.read_text()
    for name in (*environment.names(), *environment.NOT_SERVED):
        assert f"`{name}`" in text, name


def store(**variables: str) -> str:
    found = environment.read(variables)
    assert found.stores.url not in repr(found)
    parse(found.stores.url)
    return found.stores.url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis:6379"}, "redis://redis:6379/"),
        ({"REDIS_URL": "redis:6379"}, "redis://redis:6379/"),
        ({"REDIS_SOCKET_TYPE": "TCP", "REDIS_TYPE": "single", "REDIS_URL": "[::1]:6379"}, "redis://[::1]:6379/"),
        ({"REDIS_URL": "/run/a b.sock"}, "unix:///run/a%20b.sock"),
        ({"REDIS_URL": "/run/r.sock", "REDIS_AUTH": "a:b"}, "unix://a:b@/run/r.sock"),
        ({"REDIS_URL": "h:1", "REDIS_AUTH": "p@ss/w#rd?"}, "redis://:p%40ss%2Fw%23rd%3F@h:1/"),
        ({"REDIS_URL": "h:1", "REDIS_AUTH": "user:pass:word"}, "redis://user:pass%3Aword@h:1/"),
        ({"REDIS_URL": "redis://u:p%40@h:1/3"}, "redis://u:p%40@h:1/3"),
        ({"REDIS_URL": "redis://h:1", "REDIS_AUTH": "x"}, "redis://:x@h:1/"),
        ({"REDIS_URL": "h:1", "REDIS_TLS": "true"}, "rediss://h:1/"),
        ({"REDIS_URL": "h:1", "REDIS_SOCKET_TYPE": "tls"}, "rediss://h:1/"),
        ({"REDIS_URL": "rediss://h:1", "REDIS_TLS_CACERT": "/ca"}, "rediss://h:1/?ssl_ca_certs=%2Fca"),
        (
            {
                "REDIS_URL": "h:1", "REDIS_TLS": "1", "REDIS_TLS_CLIENT_CERT": "/c", "REDIS_TLS_CLIENT_KEY": "/k",
                "REDIS_TLS_CACERT": "/a", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": "true",
            },
            "rediss://h:1/?ssl_certfile=%2Fc&ssl_keyfile=%2Fk&ssl_ca_certs=%2Fa&ssl_check_hostname=false",
        ),
        ({"REDIS_TYPE": "CLUSTER", "REDIS_URL": "a:1,b:2"}, "redis+cluster://a:1,b:2/"),
        ({"REDIS_TYPE": "cluster", "REDIS_URL": "redis://u:p@a:1, redis://b:2"}, "redis+cluster://u:p@a:1,b:2/"),
        ({"REDIS_TYPE": "SENTINEL", "REDIS_URL": "mymaster,s1:26379,s2:26379"}, "redis+sentinel://s1:26379,s2:26379/mymaster/"),
        (
            {"REDIS_TYPE": "SENTINEL", "REDIS_URL": "m,s:1", "REDIS_AUTH": "p", "REDIS_SENTINEL_AUTH": "u:q"},
            "redis+sentinel://:p@s:1/m/?sentinel_username=u&sentinel_password=q",
        ),
        (
            {"REDIS_TYPE": "SENTINEL", "REDIS_URL": "m,redis://:q@s:1,redis://s:2", "REDIS_TLS": "t"},
            "rediss+sentinel://s:1,s:2/m/?sentinel_password=q",
        ),
        ({"REDIS_URL": "h:1", "REDIS_TIMEOUT": "250ms"}, "redis://h:1/?socket_timeout=0.250000&socket_connect_timeout=0.250000"),
        ({"REDIS_URL": "redis+cluster://u:p@a:1,b:2/"}, "redis+cluster://u:p@a:1,b:2/"),
    ],
)  # fmt: skip
def test_redis_urls(given: dict[str, str], url: str) -> None:
    assert store(**given) == url


def test_what_the_url_means() -> None:
    target = parse(store(REDIS_URL="h:1", REDIS_AUTH="us%er:p@:/#?&=%2", REDIS_TLS="true"))
    assert (target.credentials.username, target.credentials.password) == ("us%er", "p@:/#?&=%2")


SECRET = "hush"


@pytest.mark.parametrize(
    "given",
    [
        {"REDIS_URL": ""},
        {"REDIS_URL": f"user:{SECRET}@host:1"},
        {"REDIS_URL": "a:1,b:2"},
        {"REDIS_URL": "h:99999"},
        {"REDIS_URL": f"http://{SECRET}@h:1"},
        {"REDIS_URL": "h:1", "REDIS_SOCKET_TYPE": "unix"},
        {"REDIS_URL": "/s", "REDIS_SOCKET_TYPE": "tcp"},
        {"REDIS_URL": "/s", "REDIS_TLS": "true"},
        {"REDIS_URL": "m", "REDIS_TYPE": "SENTINEL"},
        {"REDIS_URL": ",s:1", "REDIS_TYPE": "SENTINEL"},
        {"REDIS_URL": f"redis+cluster://:{SECRET}@a:1", "REDIS_AUTH": SECRET},
        {"REDIS_URL": "h:1", "REDIS_AUTH": "user:"},
        {"REDIS_URL": f"redis://:{SECRET}@h:1?db=3"},
        {"REDIS_URL": f"redis://[{SECRET}"},
    ],
)
def test_redis_urls_that_cannot_be_used(given: dict[str, str]) -> None:
    (problem,) = problems(**given)
    assert problem.startswith("REDIS_URL: ")
    assert problem.endswith(")")
    assert SECRET not in problem


def test_windows_of_a_second_elsewhere() -> None:
    found = environment.read(
        {
            "REDIS_URL": "h:1", "REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "/fast.sock",
            "REDIS_PERSECOND_SOCKET_TYPE": "unix", "REDIS_PERSECOND_AUTH": "p", "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true",
        }
    )  # fmt: skip
    assert found.stores == Stores("redis://h:1/", "unix://:p@/fast.sock", watched=True)
    assert environment.read({"REDIS_URL": "h:1", "REDIS_PERSECOND_URL": "nonsense:::"}).stores.per_second == ""
    (problem,) = problems(REDIS_URL="h:1", REDIS_PERSECOND="true", REDIS_PERSECOND_URL="h:x")
    assert problem.startswith("REDIS_PERSECOND_URL: ")


def test_a_timeout_beyond_reason() -> None:
    found = environment.read({"REDIS_URL": "h:1", "REDIS_TIMEOUT": "5m"})
    assert parse(found.stores.url).timeout == 60
    assert found.warnings == ("REDIS_TIMEOUT is more than 60 s: it counts as that",)


def test_a_header_is_a_header() -> None:
    assert problems(LIMIT_LIMIT_HEADER="bad header\n") == [
        "LIMIT_LIMIT_HEADER: is no name of a header (write one like RateLimit-Limit)"
    ]
