"""The fake provider does what it is told: a tool that lies would make every other test lie."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from headgate.fake_provider.behaviour import Behaviour
from tests.gateway import Answer, chat, post, raw_request
from tests.provider_thread import ProviderThread

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderThread]:
    with ProviderThread() as made:
        yield made


@pytest.fixture
def provider(running: ProviderThread) -> ProviderThread:
    running.requests.clear()
    return running


def ask(provider: ProviderThread, fake: str, **fields: object) -> Answer:
    return post(f"127.0.0.1:{provider.provider.port}", chat("m", **fields), headers=(("x-fake", fake),))


def test_the_sdk_understands_it(provider: ProviderThread) -> None:
    client = OpenAI(base_url=provider.base_url, api_key="x", max_retries=0)
    assert client.chat.completions.create(model="m", messages=MESSAGES).usage is not None
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert len(chunks) == 12
    assert client.embeddings.create(model="m", input="x", dimensions=4).data[0].embedding[1] == 0.25
    assert client.responses.create(model="m", input="x").output_text.startswith("Hello")
    assert [model.id for model in client.models.list()] == ["fake"]


def test_an_unknown_behaviour_is_an_error(provider: ProviderThread) -> None:
    assert ask(provider, "resett=body").json()["error"]["code"] == "unknown_behaviour"
    with pytest.raises(ValueError, match="unknown 'x=1'"):
        Behaviour.parse("x=1")


def test_statuses_and_headers(provider: ProviderThread) -> None:
    answer = ask(provider, "status=429,retry_after=3,ratelimit=true")
    assert (answer.status, answer.header("retry-after"), answer.header("x-request-id")) == (429, "3", "req_fake")


def test_the_models_name_is_a_behaviour_too(provider: ProviderThread) -> None:
    assert post(f"127.0.0.1:{provider.provider.port}", chat("fake:status=503")).status == 503


@pytest.mark.parametrize(
    ("fake", "has"), [("usage=none", False), ("", True), ("usage=early", True), ("usage=huge", True)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_usage(provider: ProviderThread, fake: str, has: bool, stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = ask(provider, f"usage_tokens=55{',' + fake if fake else ''}", **options).body
    assert (b'"total_tokens":55' in body) is has
    if "huge" in fake:
        assert len(body) > 70_000


def test_pieces_and_pace(provider: ProviderThread) -> None:
    started = time.monotonic()
    assert ask(provider, "chunks=4,chunk_delay_ms=50", stream=True).body.count(b"data: ") == 7
    assert time.monotonic() - started > 0.2
    assert b"\r\n5\r\n" in ask(provider, "split=5,chunks=1", stream=True).raw
    assert b"data:{" in ask(provider, "space=false", stream=True).body
    assert b"}\r\n\r\n" in ask(provider, "newline=crlf", stream=True).body


@pytest.mark.parametrize("fake", ["truncate_after=3", "reset=body", "reset=headers"])
def test_streams_that_end_early(provider: ProviderThread, fake: str) -> None:
    answer = ask(provider, fake, stream=True)
    assert answer.status == 200
    assert b"[DONE]" not in answer.raw


def test_a_reset_is_a_reset(provider: ProviderThread) -> None:
    with socket.create_connection(("127.0.0.1", provider.provider.port), timeout=5) as connection:
        body = json.dumps(chat("m")).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nx-fake: reset=before\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


@pytest.mark.parametrize("fake", ["hang=true", "stall_after=2"])
def test_silence(provider: ProviderThread, fake: str) -> None:
    with socket.create_connection(("127.0.0.1", provider.provider.port), timeout=0.3) as connection:
        body = json.dumps(chat("m", stream=True)).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nx-fake: %b\r\ncontent-length: %d\r\n\r\n"
            % (fake.encode(), len(body))
            + body
        )
        received = b""
        with pytest.raises(TimeoutError):
            while True:
                received += connection.recv(65536)
    assert received.count(b"data: ") == (0 if "hang" in fake else 2)


def test_broken_gzip_and_size(provider: ProviderThread) -> None:
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        ask(provider, "broken=true").json()
    assert json.loads(gzip.decompress(ask(provider, "gzip=true").body))["object"] == "chat.completion"
    assert abs(len(ask(provider, "size=50000").body) - 50_000) <= 16


@pytest.mark.parametrize("body", [b"null", b"[]", b"{", b"", b"\xff"])
def test_bad_bodies(provider: ProviderThread, body: bytes) -> None:
    assert post(f"127.0.0.1:{provider.provider.port}", body).status == 400


def test_pipelined_requests_are_answered_in_order(provider: ProviderThread) -> None:
    def request(model: str, last: bool = False) -> bytes:
        body = json.dumps(chat(model)).encode()
        close = b"connection: close\r\n" if last else b""
        return b"POST /v1/chat/completions HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (close, len(body)) + body

    raw = raw_request(
        f"127.0.0.1:{provider.provider.port}", request("one") + request("two") + request("three", True)
    ).raw
    places = [raw.index(f'"model":"{name}"'.encode()) for name in ("one", "two", "three")]
    assert places == sorted(places)


def test_it_remembers_what_it_received(provider: ProviderThread) -> None:
    ask(provider, "")
    raw = raw_request(
        f"127.0.0.1:{provider.provider.port}", b"GET /__fake/requests HTTP/1.1\r\nconnection: close\r\n\r\n"
    )
    assert raw.json()[0]["path"] == "/v1/chat/completions"
    raw_request(f"127.0.0.1:{provider.provider.port}", b"DELETE /__fake/requests HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert len(provider.requests) == 0
