"""Whatever becomes of a request, it is not open for ever, and a client's doing is not the target's."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread


@dataclass(frozen=True)
class Counted:
    gateway: Gateway
    provider: ProviderThread

    def open(self, model: str) -> list[int]:
        return [one["in_flight"] for one in self.gateway.targets(model)]


@pytest.fixture(scope="module", params=["envoy", "in_process"])
def counted(request: pytest.FixtureRequest) -> Iterator[Counted]:
    with ProviderThread("p") as provider:
        config = {
            "limits": {"enforce": request.param},
            "providers": {
                "p": {"dialect": "openai", "base_url": provider.base_url},
                "q": {"dialect": "openai", "base_url": provider.base_url},
                "down": {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1"},
            },
            "models": {
                "m": {"strategy": "least_requests", "targets": [{"provider": "p"}, {"provider": "q", "model": "q"}]},
                "failing": [
                    {"provider": "down"}, {"provider": "p", "model": "second", "priority": 1},
                ],
                "slow": {"provider": "p"},
            },
            "keys": [
                key_entry("team-a", passthrough=["p"]),
                key_entry("limited", limits={"requests": "3/year"}),
                key_entry("passing", passthrough=["p"], limits={"requests": "3/year"}),
                key_entry("tokens", limits={"tokens": "10/year"}),
            ],
        }  # fmt: skip
        with Gateway(config) as gateway:
            yield Counted(gateway, provider)


@pytest.mark.parametrize("key", ["sk-team-a", "sk-limited", "sk-tokens"])
def test_every_request_ends(counted: Counted, key: str) -> None:
    """Also one that a limit refuses after its target was chosen."""
    statuses = {post(counted.gateway.listen, chat("m"), key=key).status for _ in range(20)}
    assert statuses <= {200, 429}
    assert (429 in statuses) is (key != "sk-team-a")
    counted.gateway.wait_for(lambda: counted.open("m") == [0, 0])


def test_a_request_that_fails_over_ends_where_it_began(counted: Counted) -> None:
    for _ in range(10):
        assert post(counted.gateway.listen, chat("failing")).status == 200
    counted.gateway.wait_for(lambda: counted.open("failing") == [0, 0])


@pytest.mark.parametrize("key", ["sk-team-a", "sk-passing"])
def test_a_request_that_passes_through_ends(counted: Counted, key: str) -> None:
    for _ in range(10):
        assert post(counted.gateway.listen, b"", path="/p/p/models", method="GET", key=key).status in (200, 429)
    counted.gateway.wait_for(lambda: counted.open("/p/p/") == [0])


@pytest.mark.parametrize("fake", ["delay_ms=3000", "chunk_delay_ms=300"])
def test_a_client_that_leaves_says_nothing_of_the_target(counted: Counted, fake: str) -> None:
    gateway = counted.gateway

    def logged() -> list[bool]:
        return [line["disconnected"] for line in gateway.log_lines("request") if line["model"] == "slow"]

    seen = len(logged())
    host, _, port = gateway.listen.partition(":")
    body = b'{"model":"slow","messages":[],"stream":true}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\nx-fake: {fake}\r\n"
    for _ in range(5):
        with contextlib.closing(socket.create_connection((host, int(port)))) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.1)
    gateway.wait_for(lambda: len(logged()) == seen + 5)
    assert all(logged()[seen:])
    gateway.wait_for(lambda: counted.open("slow") == [0])
    assert [one["state"] for one in gateway.targets("slow")] == ["available"]
