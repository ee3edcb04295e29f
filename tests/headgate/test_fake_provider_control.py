"""The fake provider under control: health, behaviours that change, behaviours for some requests, and large bodies."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.sequence import Sequence
from tests.gateway import Answer, chat, post
from tests.provider_thread import ProviderThread


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderThread]:
    with ProviderThread("a") as made:
        yield made


@pytest.fixture
def provider(running: ProviderThread) -> Iterator[ProviderThread]:
    running.forget()
    yield running
    running.behave("")


def address(provider: ProviderThread) -> str:
    return f"127.0.0.1:{provider.provider.port}"


def ask(provider: ProviderThread, fake: str = "", identity: str = "", **fields: object) -> Answer:
    headers = (("x-fake", fake), *((("x-fake-id", identity),) if identity else ()))
    return post(address(provider), chat(**{"model": "m", **fields}), headers=headers)  # type: ignore[arg-type]


def call(provider: ProviderThread, path: str, method: str = "GET", body: bytes = b"") -> Answer:
    return post(address(provider), body, path=path, method=method)


def test_health(provider: ProviderThread) -> None:
    assert [call(provider, path).status for path in ("/", "/health")] == [200, 200]
    provider.behave("health=503,status=429")
    assert [call(provider, path).status for path in ("/", "/health")] == [200, 503]
    assert len(provider.requests) == 0
    assert [check.path for check in provider.provider.checks] == ["/", "/health"] * 2
    head = call(provider, "/health", "HEAD")
    assert (head.status, head.body) == (503, b"")


def test_every_answer_says_who_gives_it(provider: ProviderThread) -> None:
    answers = [ask(provider), ask(provider, "status=500"), ask(provider, stream=True), call(provider, "/nowhere")]
    answers += [call(provider, "/health"), call(provider, "/__fake/requests"), ask(provider, "bad=1")]
    assert {answer.header("x-fake-provider") for answer in answers} == {"a"}


def test_the_behaviour_changes_while_it_runs(provider: ProviderThread) -> None:
    provider.behave("status=503")
    assert ask(provider).status == 503
    assert ask(provider, "status=200").status == 200
    provider.behave("")
    assert ask(provider).status == 200
    provider.provider.defaults = Behaviour(status=429)
    assert ask(provider).status == 429


def test_the_behaviour_changes_over_http(provider: ProviderThread) -> None:
    set_ = call(provider, "/__fake/behaviour", "PUT", b"status=503,hang=false,text=so+it+is,fail_share=0.5")
    assert set_.json() == {"behaviour": "status=503,fail_share=0.5,text=so+it+is"}
    assert [ask(provider).status for _ in range(4)] == [503, 200, 503, 200]
    assert call(provider, "/__fake/behaviour", "PUT", b"bad=1").json()["error"]["code"] == "unknown_behaviour"
    assert call(provider, "/__fake/behaviour").json() == set_.json()
    assert call(provider, "/__fake/behaviour", "PUT").json() == {"behaviour": ""}


def test_only_the_first_requests(provider: ProviderThread) -> None:
    assert [ask(provider, "first=2,status=503").status for _ in range(3)] == [503, 503, 200]
    one = [ask(provider, "first=1,status=503", "one").status for _ in range(2)]
    two = [ask(provider, "first=1,status=503", "two").status for _ in range(2)]
    assert one == two == [503, 200]
    assert [ask(provider, model="fake:first=1,status=500").status for _ in range(2)] == [500, 200]


def test_only_the_first_requests_by_default(provider: ProviderThread) -> None:
    provider.behave("first=1,reset=before")
    with pytest.raises((ValueError, OSError)):
        ask(provider)
    assert ask(provider).status == 200
    provider.forget()
    provider.behave("first=1,status=500")
    assert [ask(provider).status for _ in range(2)] == [500, 200]


@pytest.mark.parametrize(
    ("share", "failed"), [("0.5", [0, 2, 4, 6, 8]), ("0.1", [0]), ("0.3", [0, 3, 6]), ("0", []), ("0.7", [0, 1, 2, 4, 5, 7, 8])]
)  # fmt: skip
def test_a_share_of_the_requests(share: str, failed: list[int]) -> None:
    sequence = Sequence()
    got = [sequence.lay(Behaviour(), (f"fail_share={share}",), "")[0].status for _ in range(10)]
    assert [index for index, status in enumerate(got) if status == 500] == failed


def test_a_layer_that_is_over_leaves_the_one_below() -> None:
    sequence = Sequence()
    got = [sequence.lay(Behaviour(chunks=3), ("first=1,chunks=5", "status=429"), "")[0] for _ in range(2)]
    assert [(one.chunks, one.status) for one in got] == [(5, 429), (3, 429)]


def test_a_behaviour_can_be_told_again() -> None:
    text = "status=429,retry_after=3,fail_share=0.5,hang=true,text=a+b,health=503"
    assert Behaviour.parse(Behaviour.parse(text).describe()) == Behaviour.parse(text)
    assert Behaviour().describe() == ""


def test_an_unknown_path_is_told_back_where_asked(provider: ProviderThread) -> None:
    assert call(provider, "/v1/nowhere").status == 404
    told = post(address(provider), b"raw \xff", path="/v1/rerank?a=1", headers=(("x-fake", "echo=true"),)).json()
    assert (told["object"], told["method"], told["path"], told["bytes"]) == ("echo", "POST", "/v1/rerank?a=1", 5)
    assert ["x-fake", "echo=true"] in told["headers"]
    assert post(address(provider), {"model": "fake:status=503"}, path="/v1/rerank").status == 503


def test_rate_limit_headers(provider: ProviderThread) -> None:
    answer = ask(provider, "status=429,ratelimit_remaining=0,ratelimit_reset=6m0s,retry_after_ms=1500")
    assert answer.header("x-ratelimit-remaining-requests") == answer.header("x-ratelimit-remaining-tokens") == "0"
    assert answer.header("x-ratelimit-reset-tokens") == "6m0s"
    assert answer.header("retry-after-ms") == "1500"
    assert answer.header("retry-after") is None


@pytest.mark.parametrize("stream", [False, True])
def test_headers_at_once_and_the_body_later(provider: ProviderThread, stream: bool) -> None:
    body = json.dumps(chat("m", stream=stream)).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nx-fake: first_chunk_delay_ms=300\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", provider.provider.port), timeout=5) as connection:
        started = time.monotonic()
        connection.sendall(request % len(body) + body)
        head = connection.recv(65_536)
        assert head.endswith(b"\r\n\r\n")
        assert time.monotonic() - started < 0.25
        assert b"Hello" in connection.recv(65_536)
        assert time.monotonic() - started > 0.25


@pytest.mark.parametrize(("fake", "finish", "usage"), [("no_done=true", True, True), ("no_finish=true", False, False)])
def test_streams_without_their_last_words(provider: ProviderThread, fake: str, finish: bool, usage: bool) -> None:
    answer = ask(provider, fake, stream=True, stream_options={"include_usage": True})
    assert answer.raw.endswith(b"\r\n0\r\n\r\n")
    assert b"[DONE]" not in answer.body
    assert (b'"finish_reason":"stop"' in answer.body) is finish
    assert (b'"total_tokens"' in answer.body) is usage


def test_large_requests_and_answers_are_quick(provider: ProviderThread) -> None:
    started = time.monotonic()
    answer = ask(provider, "size=10000000", padding="x" * 20_000_000)
    assert time.monotonic() - started < 5
    assert abs(len(answer.body) - 10_000_000) <= 16
    assert len(provider.requests[0].body) > 20_000_000
    assert not provider.requests[0].disconnected


@pytest.mark.parametrize("fake", ["truncate_after=3", "reset=body", "close=true"])
def test_a_provider_that_leaves_was_not_left(provider: ProviderThread, fake: str) -> None:
    ask(provider, fake, stream=True)
    assert not provider.requests[0].disconnected


def test_nothing_counted_is_answered_from_memory() -> None:
    with ProviderThread() as made:
        made.requests.on = False
        assert [ask(made, "first=1,status=503").status for _ in range(2)] == [503, 200]
        assert [ask(made).status for _ in range(2)] == [200, 200]
        made.behave("status=429")
        assert ask(made).status == 429


@pytest.mark.parametrize("fake", ["truncate_after=0", "reset=body"])
def test_a_whole_answer_may_end_in_its_middle(provider: ProviderThread, fake: str) -> None:
    answer = ask(provider, f"{fake},tag=any")
    assert 0 < len(answer.body) < int(answer.header("content-length") or 0)
