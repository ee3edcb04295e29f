"""The fake provider's WebSocket: a real client talks to it, and raw frames show what a client hides."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.realtime import Realtime, frame
from headgate.fake_provider.recorder import Received
from tests.gateway import Answer, raw_request
from tests.provider_thread import ProviderThread

HANDSHAKE = (
    "GET /v1/realtime?model={model} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderThread]:
    with ProviderThread("speaker") as made:
        yield made


@pytest.fixture
def provider(running: ProviderThread) -> ProviderThread:
    running.forget()
    return running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as made:
        yield made


def masked(kind: int, content: bytes, *, last: bool = True) -> bytes:
    """A client's frame."""
    mask = b"\x01\x02\x03\x04"
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(content))
    size = len(content)
    length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return bytes(((0x80 if last else 0) | kind,)) + length + mask + body


def session(behaviour: str = "") -> Realtime:
    return Realtime(Received("GET", "/v1/realtime", (), b""), Behaviour.parse(behaviour))


async def test_each_message_is_answered(provider: ProviderThread, client: aiohttp.ClientSession) -> None:
    url = f"http://127.0.0.1:{provider.provider.port}/v1/realtime?model=gpt-realtime"
    async with client.ws_connect(url, protocols=("realtime", "other")) as socket_:
        assert socket_.protocol == "realtime"
        for number in (1, 2):
            await socket_.send_str(json.dumps({"type": "response.create", "number": number}))
            delta, done = await socket_.receive_json(), await socket_.receive_json()
            assert (delta["type"], done["type"]) == ("response.output_text.delta", "response.done")
            assert delta["delta"].startswith("Hello from")
            assert done["response"]["usage"]["output_tokens"] == 10
        await socket_.ping(b"are you there")
        await socket_.close()
        assert socket_.close_code == 1000
    received = provider.requests[0]
    assert (received.method, received.path) == ("GET", "/v1/realtime?model=gpt-realtime")
    assert [json.loads(message)["number"] for message in received.messages] == [1, 2]


async def test_azures_path_and_a_large_message(provider: ProviderThread, client: aiohttp.ClientSession) -> None:
    url = f"http://127.0.0.1:{provider.provider.port}/openai/realtime?deployment=fake:usage_tokens=50,text=Hi"
    async with client.ws_connect(url) as socket_:
        await socket_.send_str("x" * 200_000)
        assert (await socket_.receive_json())["delta"] == "Hi"
        assert (await socket_.receive_json())["response"]["usage"]["total_tokens"] == 50


async def test_a_handshake_may_be_refused(provider: ProviderThread, client: aiohttp.ClientSession) -> None:
    url = f"http://127.0.0.1:{provider.provider.port}/v1/realtime?model=m"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect(url, headers={"x-fake": "status=429"})
    assert refused.value.status == 429
    with pytest.raises(aiohttp.ClientError):
        await client.ws_connect(url, headers={"x-fake": "reset=before"})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.ws_connect(url, headers={"x-fake": "hang=true"})


def test_the_accept_key_is_that_of_the_rfc(provider: ProviderThread) -> None:
    answer = handshake(provider, "m", masked(1, b"hi") + masked(8, struct.pack("!H", 1000)))
    assert (answer.status, answer.header("sec-websocket-accept")) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    assert answer.header("x-fake-provider") == "speaker"
    assert answer.header("sec-websocket-protocol") is None
    assert answer.raw.endswith(b"\x88\x02\x03\xe8")
    assert b"response.done" in answer.raw


def test_a_session_may_be_cut_in_mid_answer(provider: ProviderThread) -> None:
    raw = handshake(provider, "fake:reset=body", masked(1, b"hi")).raw
    assert b"response.output_text.delta" in raw
    assert b"response.done" not in raw


def test_what_is_no_handshake_is_told_so(provider: ProviderThread) -> None:
    raw = raw_request(f"127.0.0.1:{provider.provider.port}", b"GET /v1/realtime HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert raw.status == 426


def test_frames_may_come_byte_by_byte_and_in_pieces() -> None:
    talk, out = session("text=Hi"), b""
    wire = masked(9, b"p") + masked(1, b"o", last=False) + masked(9, b"q") + masked(0, b"ne") + masked(2, b"binary")
    for byte in wire:
        out += talk.feed(bytes((byte,)))
    assert out.startswith(frame(10, b"p") + frame(10, b"q"))
    assert out.count(b"response.done") == 1
    assert talk._received.messages == ["one"]


def test_an_unmasked_frame_and_a_huge_one_end_the_session() -> None:
    for wire, code in ((b"\x81\x01x", 1002), (b"\x81\xff" + (1 << 40).to_bytes(8, "big"), 1009)):
        talk = session()
        assert talk.feed(wire) == frame(8, struct.pack("!H", code))
        assert talk.ended


def test_a_session_may_end_after_its_first_answer() -> None:
    talk = session("close=true,usage=none")
    out = talk.feed(masked(1, b"x") + masked(1, b"y"))
    assert out.count(b"response.done") == 1
    assert b"usage" not in out
    assert talk.ended


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
def test_the_length_of_a_frame(size: int) -> None:
    head = frame(1, b"x" * size)[:-size]
    assert len(head) == {125: 2, 126: 4, 65_535: 4, 65_536: 10}[size]


def handshake(provider: ProviderThread, model: str, frames: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", provider.provider.port), timeout=5) as connection:
        connection.sendall(HANDSHAKE.format(model=model).encode() + frames)
        raw = b""
        while True:
            try:
                chunk = connection.recv(65_536)
            except ConnectionResetError:
                break
            if not chunk:
                break
            raw += chunk
    return Answer(raw)
