"""WebSockets through the gateway: `GET /v1/realtime?model=…`, and below /p/PROVIDER/."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from headgate.fake_provider.recorder import Received
from tests.gateway import Answer, Gateway, key_entry, post, raw_request
from tests.provider_thread import ProviderThread

HANDSHAKE = (
    ("upgrade", "websocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
)


@dataclass(frozen=True)
class Studio:
    gateway: Gateway
    plain: ProviderThread
    azure: ProviderThread

    def received(self) -> Received:
        """The one session that a provider has seen."""
        (one,) = (*self.plain.requests, *self.azure.requests)
        return one


@pytest.fixture(scope="module")
def shared_studio() -> Iterator[Studio]:
    with ProviderThread("plain") as plain, ProviderThread("azure") as azure:
        config = {
            "providers": {
                "plain": {
                    "dialect": "openai", "base_url": plain.base_url, "api_key": "sk-provider-plain", "realtime": True,
                    "idle_timeout": 1.0,
                },
                "azure": {
                    "dialect": "azure-openai", "base_url": azure.base_url.removesuffix("/v1"), "realtime": True,
                    "api_key": "provider-azure", "api_version": "2024-10-01-preview",
                },
                "down": {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1", "realtime": True},
                "mute": {"dialect": "openai", "base_url": plain.base_url},
            },
            "models": {
                "voice": {"provider": "plain", "model": "gpt-realtime"},
                "cloud": {"provider": "azure", "model": "my deployment"},
                "failing": [
                    {"provider": "down", "model": "nobody"},
                    {"provider": "azure", "model": "the second", "priority": 1},
                ],
                "mixed": [
                    {"provider": "mute", "model": "silent"},
                    {"provider": "plain", "model": "gpt-realtime", "priority": 1},
                ],
                "text": {"provider": "mute"},
                "hidden": {"provider": "plain"},
            },
            "keys": [
                key_entry(
                    "team-a", models=["voice", "cloud", "failing", "mixed", "text"], passthrough=["plain", "mute"]
                ),
                key_entry("own", own_provider_keys=True),
                key_entry("metered", models=["voice"], limits={"requests": "4/year", "tokens": "100000/year"}),
            ],
        }  # fmt: skip
        with Gateway(config) as gateway:
            yield Studio(gateway, plain, azure)


@pytest.fixture
def studio(shared_studio: Studio) -> Studio:
    shared_studio.plain.forget()
    shared_studio.azure.forget()
    return shared_studio


@asynccontextmanager
async def session(
    studio: Studio, path: str, key: str | None = "sk-team-a", **options: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    headers |= options.pop("headers", {})
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{studio.gateway.url}{path}", headers=headers, **options) as socket,
    ):
        yield socket


async def talk(socket: aiohttp.ClientWebSocketResponse, text: str = '{"type":"response.create"}') -> list[str]:
    """Send a message; the types of what comes back."""
    await socket.send_str(text)
    return [(await socket.receive_json(timeout=10))["type"] for _ in range(2)]


async def test_text_goes_both_ways_and_the_close_too(studio: Studio) -> None:
    async with session(studio, "/v1/realtime?model=voice", headers={"openai-beta": "realtime=v1"}) as socket:
        for number in range(3):
            assert await talk(socket, f'{{"n":{number}}}') == ["response.output_text.delta", "response.done"]
        await socket.ping(b"are you there")
        assert await talk(socket, "x" * 100_000) == ["response.output_text.delta", "response.done"]
        assert await socket.close(code=1000)
        assert socket.close_code == 1000
    got = studio.received()
    assert got.path == "/v1/realtime?model=gpt-realtime"
    assert [len(one) for one in got.messages] == [7, 7, 7, 100_000]
    assert [value for name, value in got.headers if name == "authorization"] == ["Bearer sk-provider-plain"]
    assert got.header("openai-beta") == "realtime=v1"
    assert "sk-team-a" not in str(got.headers)
    assert not [name for name, _ in got.headers if name.startswith(("x-headgate", "x-envoy"))]


async def test_a_long_session_may_say_more_than_one_body_may_hold(studio: Studio) -> None:
    async with session(studio, "/v1/realtime?model=voice") as socket:
        for _ in range(6):
            assert await talk(socket, "x" * (4 << 20)) == ["response.output_text.delta", "response.done"]


async def test_the_providers_close_reaches_the_client(studio: Studio) -> None:
    async with session(studio, "/v1/realtime?model=voice", headers={"x-fake": "close=true"}) as socket:
        await talk(socket)
        message = await socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1000


async def test_a_broken_connection_ends_the_clients(studio: Studio) -> None:
    async with session(studio, "/v1/realtime?model=voice", headers={"x-fake": "reset=body"}) as socket:
        await socket.send_str("{}")
        kinds = [(await socket.receive(timeout=10)).type for _ in range(2)]
        assert kinds[-1] in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)


async def test_the_query_has_the_targets_model_and_the_clients_rest(studio: Studio) -> None:
    async with session(studio, "/v1/realtime?intent=transcription&model=cloud&api-version=1&deployment=x") as socket:
        assert await talk(socket)
    got = studio.received()
    assert got.path == "/openai/realtime?deployment=my%20deployment&api-version=2024-10-01-preview&intent=transcription"
    assert got.header("api-key") == "provider-azure"
    assert got.header("authorization") is None


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("failing", "/openai/realtime?deployment=the%20second&api-version=2024-10-01-preview"),
        ("mixed", "/v1/realtime?model=gpt-realtime"),  # the first has no WebSockets
    ],
)
async def test_the_next_target_when_the_first_cannot(studio: Studio, model: str, path: str) -> None:
    async with session(studio, f"/v1/realtime?model={model}") as socket:
        assert await talk(socket)
    assert studio.received().path == path


async def test_a_silent_session_stays_open(studio: Studio) -> None:
    """The provider's idle_timeout is one second: it is for answers, not for conversations."""
    async with session(studio, "/v1/realtime?model=voice") as socket:
        assert await talk(socket)
        started = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await socket.receive(timeout=2.5)
        assert time.monotonic() - started > 2
        assert not socket.closed


def refused(studio: Studio, path: str, key: str | None = "sk-team-a", *more: tuple[str, str]) -> Answer:
    host = studio.gateway.listen
    lines = [f"GET {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in (*HANDSHAKE, *more))]
    lines += ["connection: Upgrade"] + ([f"authorization: Bearer {key}"] if key else [])
    return raw_request(host, ("\r\n".join(lines) + "\r\n\r\n").encode(), timeout=3)


@pytest.mark.parametrize(
    ("path", "key", "status", "code"),
    [
        ("/v1/realtime?model=voice", None, 401, "invalid_api_key"),
        ("/v1/realtime?model=voice", "sk-wrong", 401, "invalid_api_key"),
        ("/v1/realtime?model=hidden", "sk-team-a", 403, "model_not_allowed"),
        ("/v1/realtime?model=nobody", "sk-team-a", 404, "model_not_found"),
        ("/v1/realtime?model=text", "sk-team-a", 400, "realtime_not_available"),
        ("/v1/realtime", "sk-team-a", 400, "missing_required_parameter"),
        ("/v1/realtime?model=voice&model=cloud", "sk-team-a", 400, "missing_required_parameter"),
        ("/p/mute/realtime?model=x", "sk-team-a", 400, "realtime_not_available"),
        ("/p/azure/realtime?model=x", "sk-team-a", 403, "passthrough_not_allowed"),
    ],
)
def test_refusals_say_why(studio: Studio, path: str, key: str | None, status: int, code: str) -> None:
    answer = refused(studio, path, key)
    assert answer.status == status, answer.raw[:500]
    assert answer.error["code"] == code
    assert len(studio.plain.requests) == 0


def test_without_an_upgrade_it_is_426(studio: Studio) -> None:
    answer = post(studio.gateway.listen, b"", path="/v1/realtime?model=voice", method="GET")
    assert answer.status == 426
    assert answer.error["code"] == "upgrade_required"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models/x/y", "/v1/embeddings"])
def test_nothing_else_takes_a_websocket(studio: Studio, path: str) -> None:
    answer = refused(studio, path)
    assert 400 <= answer.status < 500
    assert len(studio.plain.requests) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/p/mute/x", "/v1/realtime?model=voice"])
@pytest.mark.parametrize(
    "upgrade", ["upgrade: websocket\r\nupgrade: h2c", "upgrade: h2c", "upgrade: websocket, h2c", "upgrade: WebSocket"]
)
def test_odd_upgrades_reach_nobody_or_the_session(studio: Studio, method: str, path: str, upgrade: str) -> None:
    host = studio.gateway.listen
    body = b'{"model":"text","messages":[]}'
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer sk-team-a\r\nconnection: Upgrade\r\n"
    head += f"{upgrade}\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head += f"content-length: {len(body)}\r\n\r\n" if method == "POST" else "\r\n"
    address, _, port = host.partition(":")
    with socket.create_connection((address, int(port)), timeout=5) as connection:
        connection.sendall(head.encode() + (body if method == "POST" else b""))
        status = int(connection.recv(65536).split(b" ")[1])
    if status == 101:
        assert (method, path, upgrade) == ("GET", "/v1/realtime?model=voice", "upgrade: WebSocket")
    else:
        assert 400 <= status < 500 or upgrade == "upgrade: h2c"  # which is passed over
        assert not any(one.header("upgrade") for one in studio.plain.requests)


async def test_a_browser_brings_its_key_as_a_subprotocol(studio: Studio) -> None:
    offered = ("realtime", "openai-insecure-api-key.sk-team-a", "openai-organization.org-1", "openai-beta.realtime-v1")
    async with session(studio, "/v1/realtime?model=voice", None, protocols=offered) as socket:
        assert socket.protocol == "realtime"
        assert await talk(socket)
    got = studio.received()
    assert got.header("sec-websocket-protocol") == "realtime, openai-beta.realtime-v1"
    assert [value for name, value in got.headers if name == "authorization"] == ["Bearer sk-provider-plain"]
    assert "sk-team-a" not in str(got.headers)
    assert "org-1" not in str(got.headers)


async def test_a_key_as_the_only_subprotocol_leaves_none(studio: Studio) -> None:
    only = ("openai-insecure-api-key.sk-team-a",)
    async with session(studio, "/v1/realtime?model=voice", None, protocols=only) as socket:
        assert await talk(socket)
    assert studio.received().header("sec-websocket-protocol") is None


async def test_a_key_that_stands_in_both_places_is_taken_out_of_both(studio: Studio) -> None:
    offered = ("realtime", "openai-insecure-api-key.sk-somebody-elses")
    async with session(studio, "/v1/realtime?model=voice", protocols=offered) as socket:
        assert await talk(socket)
    assert studio.received().header("sec-websocket-protocol") == "realtime"


@pytest.mark.parametrize(
    "protocols",
    [
        "realtime, openai-insecure-api-key.sk-wrong",
        "realtime, openai-insecure-api-key.",
        "openai-insecure-api-key.sk-team-a, openai-insecure-api-key.sk-own",
        "realtime",
    ],
)
def test_a_wrong_key_among_the_subprotocols_is_401(studio: Studio, protocols: str) -> None:
    answer = refused(studio, "/v1/realtime?model=voice", None, ("sec-websocket-protocol", protocols))
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"


def test_a_subprotocol_is_no_key_without_a_websocket(studio: Studio) -> None:
    body = {"model": "voice", "messages": []}
    protocols = (("sec-websocket-protocol", "openai-insecure-api-key.sk-team-a"),)
    assert post(studio.gateway.listen, body, key=None, headers=protocols).status == 401
    assert post(studio.gateway.listen, body, headers=protocols).status == 200
    assert studio.received().header("sec-websocket-protocol") is None


async def test_a_session_may_pass_through(studio: Studio) -> None:
    offered = ("realtime", "openai-insecure-api-key.sk-team-a")
    path = "/p/plain/v1/realtime?model=any-name&x=1"
    async with session(studio, path, None, protocols=offered) as socket:
        assert await talk(socket)
    got = studio.received()
    assert got.path == "/v1/realtime?model=any-name&x=1"
    assert got.header("authorization") == "Bearer sk-provider-plain"
    assert got.header("sec-websocket-protocol") == "realtime"


async def test_a_session_with_the_clients_own_key(studio: Studio) -> None:
    own = {"x-provider-key": "azure=mine"}
    async with session(studio, "/v1/realtime?model=failing", "sk-own", headers=own) as socket:
        assert await talk(socket)
    got = studio.received()
    assert got.header("api-key") == "mine"
    assert got.header("x-provider-key") is None
    assert "provider-azure" not in json.dumps(got.headers)


async def test_sessions_are_limited_and_their_answers_add_up(studio: Studio) -> None:
    """Whether the client would compress or not: what is compressed could not be metered."""
    for compress in (0, 15):
        more = {"x-fake": "usage_tokens=1000"}
        path = "/v1/realtime?model=voice"
        async with session(studio, path, "sk-metered", headers=more, compress=compress) as socket:
            assert not socket.compress
            for _ in range(3):
                await talk(socket)
    gateway = studio.gateway

    def left() -> int:
        answer = refused(studio, "/v1/realtime?model=voice", "sk-metered")
        assert answer.status == 429
        return int(answer.header("x-ratelimit-remaining-tokens") or 0)

    for _ in range(2):
        async with session(studio, path, "sk-metered") as socket:
            pass
    gateway.wait_for(lambda: left() == 100_000 - 6000)
    answer = refused(studio, path, "sk-metered")
    assert answer.error["code"] == "rate_limit_exceeded"
    assert answer.header("x-headgate-provider") is None  # nobody was asked

    def told() -> list[int]:
        lines = gateway.log_lines("request")
        return [line["tokens"] for line in lines if line["key"] == "metered" and line["tokens"]]

    gateway.wait_for(lambda: told() == [3000, 3000])


async def test_a_session_that_ends_is_no_failure(studio: Studio) -> None:
    """A server closes first (RFC 6455, 7.1.1): that is no broken answer."""
    gateway = studio.gateway
    before = gateway.metric("headgate_attempts_total", provider="azure", reason="ok")
    for fake in ("close=true", "", "close=true", "reset=body", "close=true"):
        async with session(studio, "/v1/realtime?model=cloud", headers={"x-fake": fake}) as socket:
            await socket.send_str("{}")
            await socket.receive(timeout=10)
    gateway.wait_for(lambda: gateway.metric("headgate_attempts_total", provider="azure", reason="ok") == before + 5)
    assert [one["state"] for one in gateway.targets("cloud")] == ["available"]
