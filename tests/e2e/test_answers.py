"""What a client sees of several targets: which answer it gets, after how many attempts, and how a stream ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.gateway import Answer, Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread

TEXT = "Hello from the fake provider, which makes up every word."
COPIES = tuple((f"x-headgate-{name}", "mine") for name in ("provider", "model", "attempts", "upstream-request-id"))


@dataclass(frozen=True)
class Row:
    gateway: Gateway
    providers: tuple[ProviderThread, ...]

    def ask(self, fake: str, model: str = "row", key: str = "sk-team-a", **fields: Any) -> Answer:
        return post(self.gateway.listen, chat(model, **fields), key=key, headers=(("x-fake", fake), *COPIES))

    @property
    def counts(self) -> list[int]:
        return [len(one.requests) for one in self.providers]


def configuration(providers: tuple[ProviderThread, ...]) -> dict[str, Any]:
    names = [f"p{number}" for number in range(len(providers))]
    named = providers[0].base_url.replace("127.0.0.1", "localhost")
    return {
        "providers": {
            **{name: {"dialect": "openai", "base_url": one.base_url} for name, one in zip(names, providers, strict=True)},
            "named": {"dialect": "openai", "base_url": named},
            "nowhere": {"dialect": "openai", "base_url": "http://no-such-host.invalid/v1"},
        },
        "models": {
            "row": [{"provider": name, "model": f"m{place}", "priority": place} for place, name in enumerate(names)],
            "one": {"provider": "p0", "model": "m0"},
            "one name": {"provider": "named", "model": "n"},
            "by name": [{"provider": "nowhere"}, {"provider": "named", "model": "n", "priority": 1}],
            "first byte": {
                "targets": [
                    {"provider": "p0", "model": "fake:delay_ms=5000"},
                    {"provider": "p1", "model": "m1", "priority": 1},
                ],
                "timeouts": {"first_byte": 0.3},
            },
            "total": {"targets": [{"provider": "p0"}], "timeouts": {"total": 0.5}},
            "gone": [
                {"provider": "p0", "model": "fake:reset=before"},
                {"provider": "p1", "model": "m1", "priority": 1},
            ],
            "never": {
                "targets": [{"provider": "p0", "model": "m0"}, {"provider": "p1", "model": "m1", "priority": 1}],
                "retry_on": ["connect"],
            },
        },
        "keys": [key_entry("team-a"), key_entry("limited", limits={"requests": "100000/year", "tokens": "9000000/year"})],
    }  # fmt: skip


@pytest.fixture(scope="module")
def shared_row() -> Iterator[Row]:
    with ProviderThread("p0") as first, ProviderThread("p1") as second, ProviderThread("p2") as third:
        providers = (first, second, third)
        with Gateway(configuration(providers)) as gateway:
            yield Row(gateway, providers)


@pytest.fixture
def row(shared_row: Row) -> Row:
    for one in shared_row.providers:
        one.forget()
    return shared_row


def available(row: Row, model: str = "row") -> bool:
    return all(one["state"] == "available" for one in row.gateway.targets(model))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_about_the_request_is_not_tried_again(row: Row, status: int, stream: bool) -> None:
    answer = row.ask(f"status={status}", stream=stream)
    assert (answer.status, answer.json()["error"]["code"]) == (status, "fake")
    assert row.counts == [1, 0, 0]
    assert answer.header("x-headgate-attempts") == "1"


@pytest.mark.parametrize("status", [408, 409])
def test_what_may_go_away_is_tried_again(row: Row, status: int) -> None:
    answer = row.ask(f"status={status}")
    assert (answer.status, answer.json()["error"]["code"]) == (status, "fake")
    assert row.counts == [1, 1, 1]
    assert answer.header("x-headgate-attempts") == "3"
    assert answer.header("x-headgate-provider") == "p2"
    for one in row.providers:
        one.forget()
    assert row.ask(f"status={status}", "one").status == status
    assert row.counts == [2, 0, 0]


def test_the_last_answer_is_the_clients_with_its_retry_after(row: Row) -> None:
    answer = row.ask("status=409,retry_after=17,ratelimit=true")
    assert answer.status == 409
    assert answer.header("retry-after") == "17"
    assert answer.json()["error"]["message"] == "The fake provider was told to answer 409."
    assert answer.header("x-ratelimit-limit-requests") is None
    assert [name for name, _ in answer.headers if name.startswith("x-envoy")] == []


def test_only_what_retry_on_names_is_tried_again(row: Row) -> None:
    assert row.ask("status=409", "never").status == 409
    assert row.counts == [1, 0, 0]


def test_a_connection_that_breaks_before_the_answer_is_tried_again(row: Row) -> None:
    answer = row.ask("", "gone", stream=True)
    assert (answer.status, answer.header("x-headgate-attempts")) == (200, "2")
    assert row.counts == [1, 1, 0]


def test_a_late_first_byte_is_tried_elsewhere(row: Row) -> None:
    started = time.monotonic()
    answer = row.ask("", "first byte")
    assert (answer.status, answer.header("x-headgate-provider")) == (200, "p1")
    assert time.monotonic() - started < 3


def test_the_total_time_ends_an_answer(row: Row) -> None:
    started = time.monotonic()
    answer = row.ask("chunks=100,chunk_delay_ms=100", "total", stream=True)
    assert answer.status == 200
    assert b"[DONE]" not in answer.body
    assert time.monotonic() - started < 3
    answer = row.ask("delay_ms=5000", "total")
    assert (answer.status, answer.error["code"]) == (504, "provider_timeout")


# answer headers


def test_an_answer_tells_who_served_it(row: Row) -> None:
    answer = row.ask("")
    told = [(name, value) for name, value in answer.headers if name.startswith("x-headgate")]
    assert sorted(told) == [("x-headgate-attempts", "1"), ("x-headgate-model", "m0"), ("x-headgate-provider", "p0")]
    for got in row.providers[0].requests:
        assert not [name for name, _ in got.headers if name.startswith("x-headgate")]


def test_names_are_looked_up_and_what_has_no_address_is_passed_over(row: Row) -> None:
    answer = row.ask("", "by name")
    told = [answer.header(f"x-headgate-{name}") for name in ("provider", "model", "attempts")]
    assert (answer.status, told) == (200, ["named", "n", "2"])
    assert str(row.providers[0].requests[0].header("host")).startswith("localhost:")


def test_a_name_is_reached_where_only_one_family_of_addresses_answers(row: Row) -> None:
    """A machine calls itself ::1, too, and nobody listens there."""
    assert [row.ask("", "one name").status for _ in range(10)] == [200] * 10


def test_answers_tell_nothing_when_they_must_not() -> None:
    with ProviderThread("p0") as first:
        with Gateway({**configuration((first, first)), "answer_headers": False}) as gateway:
            answer = post(gateway.listen, chat("row"), headers=COPIES)
            assert answer.status == 200
            assert [name for name, _ in answer.headers if name.startswith("x-headgate-")] == []
        assert not [name for name, _ in first.requests[0].headers if name.startswith("x-headgate")]


# the end of a stream


@pytest.mark.parametrize("key", ["team-a", "limited"])
@pytest.mark.parametrize("asked", [False, True], ids=["stripped", "asked"])
@pytest.mark.parametrize(
    "fake", ["no_finish=true", "no_finish=true,split=7", "no_finish=true,newline=crlf", "no_finish=true,chunks=2000"]
)
def test_half_an_answer_is_an_error(row: Row, key: str, asked: bool, fake: str) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    answer = row.ask(fake, key=f"sk-{key}", stream=True, **options)
    assert answer.status == 200
    assert answer.body.count(b'"code":"stream_truncated"') == 1
    assert answer.body.endswith(b"\n\n")
    assert b'data: {"error"' in answer.body
    assert row.counts == [1, 0, 0]
    client = OpenAI(base_url=f"{row.gateway.url}/v1", api_key=f"sk-{key}", max_retries=0)
    stream = client.chat.completions.create(
        model="row",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        extra_headers={"x-fake": fake},
        **options,
    )
    said = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert said.startswith(TEXT if "chunks" not in fake else "Hello")
    assert caught.value.code == "stream_truncated"


@pytest.mark.parametrize("key", ["team-a", "limited"])
@pytest.mark.parametrize("asked", [False, True], ids=["stripped", "asked"])
@pytest.mark.parametrize(
    "fake",
    ["", "no_done=true", "no_done=true,split=7", "no_done=true,newline=crlf", "no_done=true,usage=none", "no_done=true,usage=huge", "no_done=true,usage=huge,split=1000", "chunks=0", "usage=huge,split=1000"],
)  # fmt: skip
def test_a_whole_answer_is_left_as_it_is(row: Row, key: str, asked: bool, fake: str) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    answer = row.ask(fake, key=f"sk-{key}", stream=True, **options)
    assert answer.status == 200
    assert b"error" not in answer.body
    assert (b"[DONE]" in answer.body) is ("no_done" not in fake)
    assert b'"finish_reason":"stop"' in answer.body
    assert (b'"usage":{' in answer.body) is (asked and "usage=none" not in fake)


def test_streams_that_are_not_of_chunks_are_left_as_they_are(row: Row) -> None:
    answer = post(
        row.gateway.listen, {"model": "row", "input": "Hi", "stream": True}, path="/v1/responses",
        headers=(("x-fake", "no_finish=true"),),
    )  # fmt: skip
    assert b"stream_truncated" not in answer.body
