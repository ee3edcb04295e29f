"""`python -m ratelimit` and `python -m extproc`, each alone, over real gRPC and a real Redis."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ratelimit.v3 import rls_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.gateway import chat, free_port, key_entry
from tests.redis_server import RedisServer

RULES = "domain: mesh\ndescriptors:\n  - {{key: user, rate_limit: {{unit: year, requests_per_unit: {amount}}}}}\n"


@contextmanager
def service(*arguments: str) -> Iterator[tuple[grpc.Channel, subprocess.Popen[bytes]]]:
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([sys.executable, "-m", *arguments, "--listen", address])
    try:
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            yield channel, process
    finally:
        process.terminate()
        assert process.wait(20) == 0


def limited(channel: grpc.Channel, user: str) -> rls_pb2.RateLimitResponse:
    call = channel.unary_unary(
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        request_serializer=rls_pb2.RateLimitRequest.SerializeToString,
        response_deserializer=rls_pb2.RateLimitResponse.FromString,
    )
    request = rls_pb2.RateLimitRequest(domain="mesh")
    request.descriptors.add().entries.add(key="user", value=user)
    reply: rls_pb2.RateLimitResponse = call(request, timeout=5)
    return reply


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_ratelimit_alone(tmp_path: Path, redis_server: RedisServer, store: str) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.format(amount=2))
    url = "memory://" if store == "memory" else redis_server.url
    user = f"{store}-{time.time_ns()}"
    with service("ratelimit", "--rules", str(tmp_path), "--store", url) as (channel, process):
        codes = [limited(channel, user).overall_code for _ in range(3)]
        assert codes == [1, 1, 2]
        (tmp_path / "rules.yaml").write_text("domain: [")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert limited(channel, user).overall_code == 2
        (tmp_path / "rules.yaml").write_text(RULES.format(amount=100))
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while limited(channel, user).overall_code != 1:
            assert time.monotonic() < deadline


def test_ratelimit_refuses_bad_rules_at_start(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("domain: mesh\nfoo: bar")
    command = [sys.executable, "-m", "ratelimit", "--rules", str(tmp_path)]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (failed.returncode, failed.stderr) == (1, "rules.yaml: config error, unknown key 'foo'\n")


def test_extproc_alone(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    values = {
        "listen": "127.0.0.1:1",
        "store": "memory://",
        "providers": {"p": {"dialect": "openai", "base_url": "http://x/v1", "api_key": "${NOT_NEEDED_HERE}"}},
        "models": {"gpt-4o": {"provider": "p"}},
        "keys": [key_entry("team-a")],
    }
    path.write_text(yaml.safe_dump(values))
    with service("extproc", "-c", str(path)) as (channel, _):
        call = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=ext_proc.ProcessingRequest.SerializeToString,
            response_deserializer=ext_proc.ProcessingResponse.FromString,
        )
        head = ext_proc.ProcessingRequest()
        for name, value in (
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            ("authorization", "Bearer sk-team-a"),
        ):
            head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        body = ext_proc.ProcessingRequest(request_body=ext_proc.HttpBody(body=json.dumps(chat()).encode()))
        replies = list(call(iter([head, body]), timeout=5))
        assert [reply.WhichOneof("response") for reply in replies] == ["request_headers", "request_body"]
        headers = {
            one.header.key: one.header.raw_value for one in replies[1].request_body.response.header_mutation.set_headers
        }
        assert headers["x-headgate-route"].startswith(b"gpt-4o@")
