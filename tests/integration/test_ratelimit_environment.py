"""envoyproxy/ratelimit's place, taken: the service from its environment alone, over real Redis, gRPC and HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from redis import Redis

from tests.integration.ratelimit_process import OK, OVER, Service, layout, rules, service, until
from tests.ratelimit.sources.test_xds import Control, config, control, response
from tests.redis_server import RedisCluster, RedisServer, Sentinels, free_port
from tests.sidecar.certificates import Authority

PASSWORD = "p@s/s#w%d?"
USER = {"user": "a"}
ASK = '{"domain": "mesh", "descriptors": [{"entries": [{"key": "user", "value": "%s"}]}]}'


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path fits into a socket's address."""
    with tempfile.TemporaryDirectory(prefix="hg-rl-") as name:
        yield Path(name)


def test_everything_from_the_environment(tmp_path: Path, short_folder: Path) -> None:
    metrics_port = str(free_port())
    with RedisServer(short_folder, "--requirepass", PASSWORD, port=free_port()) as redis:
        variables = {
            **layout(tmp_path),
            "REDIS_SOCKET_TYPE": "tcp", "REDIS_TYPE": "SINGLE", "REDIS_URL": f"127.0.0.1:{redis.port}", "REDIS_AUTH": PASSWORD,
            "USE_STATSD": "false", "USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": f"127.0.0.1:{metrics_port}",
            "LIMIT_RESPONSE_HEADERS_ENABLED": "true", "CACHE_KEY_PREFIX": "p_", "RESPONSE_DYNAMIC_METADATA": "true",
        }  # fmt: skip
        with service(tmp_path, **variables) as one:
            one.ready()
            assert [one.health(name) for name in ("", "envoy.service.ratelimit.v3.RateLimitService")] == [1, 1]
            first = one.ask(USER)
            assert (first.overall_code, first.statuses[0].limit_remaining) == (OK, 1)
            headers = {header.key: header.value for header in first.response_headers_to_add}
            assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"]) == ("2", "1")
            assert first.dynamic_metadata["domain"] == "mesh"
            assert [one.ask(USER).overall_code for _ in range(2)] == [OK, OVER]
            assert one.ask(USER, domain="nowhere").overall_code == OK
            with pytest.raises(grpc.RpcError) as raised:
                one.ask(USER, domain="")
            assert raised.value.code() is grpc.StatusCode.UNKNOWN
            assert raised.value.details() == "rate limit domain must not be empty"

            status, body = one.http("/json", body=ASK % "b")
            assert (status, json.loads(body)["statuses"][0]["limitRemaining"]) == (200, 1)
            assert one.http("/json", body=ASK % "a")[0] == 429
            assert one.http("/json", body="{")[0] == 400
            assert one.http("/rlconfig", "DEBUG_PORT")[1] == (
                "mesh.user: unit=YEAR requests_per_unit=2, shadow_mode: false, quota_mode: false\n"
            )
            one.variables["PROMETHEUS_PORT"] = metrics_port
            for port in ("DEBUG_PORT", "PROMETHEUS_PORT"):
                metrics = one.metrics(port)
                hits = {name: metrics[f"ratelimit_service_rate_limit_{name}", ("mesh", "user")] for name in (
                    "total_hits", "over_limit", "near_limit", "within_limit",
                )}  # fmt: skip
                # Three by gRPC and two by HTTP; near: the one hit of a limit of 2 that is more than 1.6.
                assert hits == {"total_hits": 5, "over_limit": 2, "near_limit": 1, "within_limit": 3}
                assert metrics["ratelimit_service_should_rate_limit_error", ("service_error",)] == 1
                assert metrics["ratelimit_service_config_load_success", ()] == 1
                assert metrics["ratelimit_service_total_requests", ("ShouldRateLimit",)] == 5
            with Redis(unix_socket_path=str(redis.socket), password=PASSWORD) as client:
                keys = client.keys("*")
                assert all(key.startswith((b"p_mesh_user_a_", b"p_mesh_user_b_")) for key in keys)
                assert len(keys) == 2
            assert PASSWORD not in one.log.read_text()


def test_unix_sockets_everywhere(tmp_path: Path, short_folder: Path, redis_server: RedisServer) -> None:
    variables = {**layout(tmp_path), "REDIS_SOCKET_TYPE": "unix", "REDIS_URL": str(redis_server.socket)}
    user = {"user": f"unix-{time.time_ns()}"}
    with service(tmp_path, **variables, GRPC_UDS=str(short_folder / "rl.sock")) as one:
        one.ready()
        assert [one.ask(user).overall_code for _ in range(3)] == [OK, OK, OVER]
    assert not (short_folder / "rl.sock").exists()


def test_windows_of_a_second_in_a_redis_of_their_own(
    tmp_path: Path, short_folder: Path, redis_server: RedisServer
) -> None:
    text = rules(1) + "  - {key: fast, rate_limit: {unit: second, requests_per_unit: 1000}}\n"
    text = text.replace("descriptors: [", "descriptors:\n  - ").replace("}]\n", "}\n")
    user, fast = {"user": f"split-{time.time_ns()}"}, {"fast": "x"}
    with RedisServer(short_folder, "--requirepass", PASSWORD) as second:
        variables = {
            **layout(tmp_path, text),
            "REDIS_URL": str(redis_server.socket), "REDIS_PERSECOND": "true", "REDIS_PERSECOND_SOCKET_TYPE": "unix",
            "REDIS_PERSECOND_URL": str(second.socket), "REDIS_PERSECOND_AUTH": PASSWORD,
        }  # fmt: skip
        with service(tmp_path, **variables) as one:
            one.ready()
            assert one.ask(user, fast).overall_code == OK
            assert one.ask(user, fast).overall_code == OVER
            assert one.metrics()["ratelimit_redis_pool_cx_active", ()] == 2
            with Redis(unix_socket_path=str(second.socket), password=PASSWORD) as client:
                assert {key.partition(b"_x_")[0] for key in client.keys("*")} == {b"mesh_fast"}
            with redis_server.client() as client:
                assert client.keys(f"mesh_user_{user['user']}_*")
                assert not client.keys("mesh_fast_*")


@pytest.mark.parametrize("kind", ["SENTINEL", "CLUSTER"])
def test_many_redises(tmp_path: Path, short_folder: Path, kind: str) -> None:
    made = Sentinels(short_folder, 2) if kind == "SENTINEL" else RedisCluster(short_folder)
    with made:
        ports = made.ports if isinstance(made, Sentinels) else [node.port for node in made.nodes]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"{made.service},{hosts}" if isinstance(made, Sentinels) else hosts
        with service(tmp_path, **layout(tmp_path), REDIS_TYPE=kind, REDIS_URL=url) as one:
            one.ready()
            for user in ("a", "b", "c"):
                assert [one.ask({"user": user}).overall_code for _ in range(3)] == [OK, OK, OVER]


def test_redis_comes_and_goes(tmp_path: Path, short_folder: Path) -> None:
    redis = RedisServer(short_folder)
    variables = {
        **layout(tmp_path),
        "REDIS_URL": str(redis.socket),
        "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true",
    }
    with service(tmp_path, **variables) as one:
        until(
            lambda: one.running() and one.health() == health_pb2.HealthCheckResponse.NOT_SERVING, "serving, not healthy"
        )
        assert one.http("/healthcheck")[0] == 500
        assert '"store":false' in one.http("/readyz", "DEBUG_PORT")[1]
        with pytest.raises(grpc.RpcError):
            one.ask(USER)
        assert one.metrics()["ratelimit_service_should_rate_limit_error", ("redis_error",)] == 1
        assert one.http("/json", body=ASK % "a")[0] == 500
        try:
            redis.start()
            one.ready()
            assert one.ask(USER).overall_code == OK
            redis.kill()
            until(lambda: one.http("/healthcheck")[0] == 500, "not healthy without Redis")
            redis.start()
            one.ready()
        finally:
            redis.kill()


def test_rules_change_under_a_configmap(tmp_path: Path) -> None:
    def version(name: str, text: str) -> None:
        (mount / name).mkdir()
        (mount / name / "mesh.yaml").write_text(text)
        (mount / "..data_tmp").symlink_to(name)
        (mount / "..data_tmp").rename(mount / "..data")

    mount = tmp_path / "data" / "ratelimit" / "config"
    mount.mkdir(parents=True)
    version("..1", rules(1))
    (mount / "mesh.yaml").symlink_to("..data/mesh.yaml")
    variables = {
        "RUNTIME_ROOT": str(tmp_path / "data"), "RUNTIME_SUBDIRECTORY": "ratelimit", "RUNTIME_WATCH_ROOT": "false",
        "BACKEND_TYPE": "memory",
    }  # fmt: skip
    with service(tmp_path, **variables) as one:
        one.ready()
        assert [one.ask(USER).overall_code for _ in range(2)] == [OK, OVER]
        version("..2", rules(1000))
        until(lambda: one.ask(USER).overall_code == OK, "the new limit counts")
        version("..3", "domain: mesh\nfoo: bar\n")
        until(lambda: one.metrics()["ratelimit_service_config_load_error", ()] == 1, "the bad file is counted")
        assert one.ask(USER).overall_code == OK
        assert one.http("/healthcheck") == (200, "OK")
        assert "config error, unknown key 'foo'" in one.log.read_text()
        version("..4", rules(0))
        until(lambda: one.ask(USER).overall_code == OVER, "and the next good one counts")


def test_rules_that_are_bad_at_the_start(tmp_path: Path) -> None:
    variables = layout(tmp_path, "domain: mesh\nfoo: bar\n")
    file = tmp_path / "ratelimit" / "config" / "mesh.yaml"
    with service(tmp_path, **variables, BACKEND_TYPE="memory") as one:
        until(
            lambda: one.running() and one.health() == health_pb2.HealthCheckResponse.NOT_SERVING, "serving, not healthy"
        )
        with pytest.raises(grpc.RpcError) as raised:
            one.ask(USER)
        assert raised.value.details() == "no rate limit configuration loaded"
        assert "config.mesh.yaml" in one.log.read_text()
        file.write_text(rules(1))
        one.ready()
        assert one.ask(USER).overall_code == OK


def test_healthy_only_with_a_domain(tmp_path: Path) -> None:
    variables = layout(tmp_path)
    file = tmp_path / "ratelimit" / "config" / "mesh.yaml"
    given = {"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true", "SHADOW_MODE": "true"}
    with service(tmp_path, **variables, **given, BACKEND_TYPE="memory") as one:
        one.ready()
        assert [one.ask(USER).overall_code for _ in range(3)] == [OK, OK, OK]  # in the shadow
        assert one.metrics()["ratelimit_service_global_shadow_mode", ()] == 1
        file.unlink()
        until(lambda: one.http("/healthcheck")[0] == 500, "not healthy without a domain")


def test_stopping_lets_running_calls_end(tmp_path: Path, short_folder: Path) -> None:
    """Balancers hear of it at once, calls that run are answered."""
    with RedisServer(short_folder) as redis:
        variables = {**layout(tmp_path), "REDIS_URL": str(redis.socket), "REDIS_TIMEOUT": "30s"}
        one = Service(tmp_path, **variables)
        try:
            one.ready()
            assert one.ask(USER).overall_code == OK
            redis.pause()
            call = one.call(USER, timeout=30)
            until(
                lambda: one.metrics()["ratelimit_service_total_requests", ("ShouldRateLimit",)] == 2,
                "the call is there",
            )
            one.tell(signal.SIGTERM)
            until(lambda: one.http("/healthcheck")[0] == 500, "not healthy any more")
            assert not call.done()
            redis.resume()
            assert call.result().overall_code == OK
            assert one.ended() == 0
        finally:
            one.kill()


def test_tls_and_whom_it_serves(tmp_path: Path) -> None:
    authority = Authority()
    files = authority.server_files(tmp_path / "tls", client_ca=authority)
    variables = {
        **layout(tmp_path), "BACKEND_TYPE": "memory", "GRPC_SERVER_USE_TLS": "true", "GRPC_CLIENT_TLS_SAN": "envoy.test",
        "GRPC_SERVER_TLS_CERT": str(files.certificate), "GRPC_SERVER_TLS_KEY": str(files.key),
        "GRPC_CLIENT_TLS_CACERT": str(files.client_ca),
    }  # fmt: skip
    with service(tmp_path, **variables) as one:
        until(lambda: one.running() and one.http("/healthcheck") == (200, "OK"), "healthy")
        for name, served in (("envoy.test", True), ("other.test", False)):
            certificate, key = authority.sign(name)
            secure = grpc.ssl_channel_credentials(authority.pem, key, certificate)
            options = (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1))
            one.channel.close()
            one.channel = grpc.secure_channel(one.address, secure, options)
            if served:
                assert one.ask(USER).overall_code == OK
            else:
                with pytest.raises(grpc.RpcError):
                    one.ask(USER)


def test_rules_from_a_management_server(tmp_path: Path) -> None:
    """Its first rules are waited for; the next ones count at once."""
    made: list[tuple[Control, asyncio.AbstractEventLoop]] = []
    there, over = threading.Event(), threading.Event()

    async def manage() -> None:
        async with control() as one:
            made.append((one, asyncio.get_running_loop()))
            there.set()
            await asyncio.to_thread(over.wait, 60)

    thread = threading.Thread(target=lambda: asyncio.run(manage()))
    thread.start()
    try:
        assert there.wait(20)
        server, loop = made[0]

        def say(message: object) -> None:
            loop.call_soon_threadsafe(server.says.put_nowait, message)

        variables = {
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_SERVER_URL": server.address,
            "BACKEND_TYPE": "memory",
        }
        with service(tmp_path, **variables) as one:
            until(lambda: one.running() and one.http("/healthcheck")[0] == 500, "waits for rules")
            until(lambda: server.heard.qsize() == 1, "asks for rules")
            assert one.health() == -1
            say(response("v1", "n1", config("mesh", 1)))
            one.ready()
            assert [one.ask({"k": "x"}).overall_code for _ in range(2)] == [OK, OVER]
            say(response("v2", "n2", config("mesh", 100)))
            until(lambda: one.ask({"k": "x"}).overall_code == OK, "the new limit counts")
    finally:
        over.set()
        thread.join()


def test_an_environment_that_cannot_be_used(tmp_path: Path) -> None:
    variables = {"PORT": "abc", "SHADOW_MODE": "yes", "REDIS_URL": "host:notaport"}
    done = subprocess.run(
        [sys.executable, "-m", "ratelimit"], env=variables, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["PORT", "SHADOW_MODE", "REDIS_URL"]


def test_arguments_win(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules(1))
    address = f"127.0.0.1:{free_port()}"
    given = {"REDIS_URL": "/nowhere.sock", "RUNTIME_ROOT": "/nowhere"}
    arguments = ("--rules", str(tmp_path / "rules.yaml"), "--store", "memory://", "--listen", address)
    with service(tmp_path, *arguments, **given) as one:
        one.channel.close()
        one.channel = grpc.insecure_channel(address)
        one.ready()
        assert [one.ask(USER).overall_code for _ in range(2)] == [OK, OVER]


def test_before_there_are_rules(tmp_path: Path) -> None:
    """A management server that is away: it waits, and may be stopped; or it serves without, when told to."""
    variables = {
        "CONFIG_TYPE": "GRPC_XDS_SOTW",
        "CONFIG_GRPC_XDS_SERVER_URL": f"127.0.0.1:{free_port()}",
        "BACKEND_TYPE": "memory",
    }
    with service(tmp_path, **variables) as one:
        until(lambda: one.running() and one.http("/healthcheck")[0] == 500, "waits for rules")
        assert one.health() == -1
    with service(tmp_path, **variables, FORCE_START_WITHOUT_INITIAL_CONFIG="true") as one:
        one.ready()
        with pytest.raises(grpc.RpcError) as raised:
            one.ask(USER)
        assert raised.value.details() == "no rate limit configuration loaded"
        one.tell(signal.SIGHUP)
        assert one.http("/rlconfig", "DEBUG_PORT") == (200, "")
