"""Answers from the cache, with the real Envoy: when, whose, and byte for byte."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.caching import Caching, caching, new_text, question, said
from tests.gateway import Answer, post
from tests.provider_thread import ProviderThread


@pytest.fixture(scope="module", params=["native", "grpcio"])
def shared_cache(request: pytest.FixtureRequest) -> Iterator[Caching]:
    with ProviderThread() as provider, caching(provider, engine=request.param) as found:
        yield found


@pytest.fixture
def cache(shared_cache: Caching) -> Caching:
    shared_cache.provider.requests.clear()
    return shared_cache


def test_a_miss_then_a_hit(cache: Caching) -> None:
    text = new_text()
    first = cache.ask_and_keep(text)
    assert said(first) == ("miss", None)
    assert first.header("age") is None
    second = cache.ask(text)
    assert (second.status, said(second)) == (200, ("hit", None))
    assert second.body == first.body
    assert second.header("content-type") == "application/json"
    assert int(second.header("age") or "-1") in range(3)
    assert second.header("x-request-id") not in (None, first.header("x-request-id"))
    assert len(cache.provider.requests) == 1


@pytest.mark.parametrize("key", ["a", "limited"])
def test_a_hit_is_not_metered(cache: Caching, key: str) -> None:
    """No provider was asked, so no tokens were used."""
    text = new_text()
    cache.ask_and_keep(text, key)
    lines = {}
    for status in ("hit", "bypass"):
        answer = cache.ask(text, key, control="no-store" if status == "bypass" else "")
        assert said(answer)[0] == status
        wanted = answer.header("x-request-id")
        cache.gateway.wait_for(
            lambda wanted=wanted: [one for one in cache.gateway.log_lines("request") if one["request_id"] == wanted]
        )
        (lines[status],) = [one for one in cache.gateway.log_lines("request") if one["request_id"] == wanted]
    assert lines["hit"]["tokens"] is None
    assert isinstance(lines["bypass"]["tokens"], int)


def test_an_answer_ends_with_its_ttl(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, model="brief")
    cache.gateway.wait_for(lambda: not cache.has(text, model="brief"))
    assert said(cache.ask(text, model="brief")) == ("miss", None)


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        *itertools.product(("chat/completions", "completions", "responses"), (False, True)),
        ("embeddings", False),  # there is no other way
    ],
)
def test_every_operation(cache: Caching, path: str, stream: bool) -> None:
    body = {"model": "cached", "temperature": 0, "stream": stream}
    body |= {"messages": [{"role": "user", "content": new_text()}]} if path == "chat/completions" else {}
    body |= {"prompt": new_text()} if path == "completions" else {}
    body |= {"input": new_text()} if path in ("responses", "embeddings") else {}
    first = cache.send(body, path=f"/v1/{path}")
    assert said(first) == ("miss", None)
    cache.gateway.wait_for(lambda: cache.send(body, path=f"/v1/{path}", control="only-if-cached").status == 200)
    second = cache.send(body, path=f"/v1/{path}")
    assert said(second) == ("hit", None)
    assert (second.body, second.header("content-type")) == (first.body, first.header("content-type"))
    assert len(cache.provider.requests) == 1


@pytest.mark.parametrize("fake", ["newline=crlf", "split=7", "space=false", "usage=running"])
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_replayed_as_it_was(cache: Caching, fake: str, usage: bool) -> None:
    text = new_text()
    fields = {"stream": True, **({"stream_options": {"include_usage": True}} if usage else {})}
    first = cache.ask_and_keep(text, fields=fields, fake=fake)
    second = cache.ask(text, fields=fields)
    assert said(second) == ("hit", None)
    assert second.body == first.body
    assert second.header("content-type") == "text/event-stream"
    assert said(cache.ask(text))[0] == "miss"  # not a stream: another question


def test_the_sdk(cache: Caching) -> None:
    client = OpenAI(base_url=f"{cache.gateway.url}/v1", api_key="sk-a", max_retries=0)
    text = new_text()
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]

    def whole() -> tuple[str | None, bytes, str]:
        raw = client.chat.completions.with_raw_response.create(model="cached", messages=messages, temperature=0)
        return raw.headers.get("x-headgate-cache"), raw.content, raw.parse().model_dump_json()

    first = whole()
    cache.gateway.wait_for(lambda: cache.has(text))
    second = whole()
    assert (first[0], second[0]) == ("miss", "hit")
    assert second[1:] == first[1:]

    def chunks() -> list[str]:
        stream = client.chat.completions.create(model="cached", messages=messages, temperature=0, stream=True)
        return [chunk.model_dump_json() for chunk in stream]

    one = chunks()
    cache.gateway.wait_for(lambda: cache.has(text, fields={"stream": True}))
    assert chunks() == one
    assert len(cache.provider.requests) == 2


async def test_the_async_sdk(cache: Caching) -> None:
    client = AsyncOpenAI(base_url=f"{cache.gateway.url}/v1", api_key="sk-a", max_retries=0)
    text = new_text()
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    one = await client.chat.completions.create(model="cached", messages=messages, temperature=0)
    cache.gateway.wait_for(lambda: cache.has(text))
    assert await client.chat.completions.create(model="cached", messages=messages, temperature=0) == one

    async def chunks() -> list[str]:
        stream = await client.chat.completions.create(model="cached", messages=messages, temperature=0, stream=True)
        return [chunk.model_dump_json() async for chunk in stream]

    first = await chunks()
    cache.gateway.wait_for(lambda: cache.has(text, fields={"stream": True}))
    assert await chunks() == first
    assert len(cache.provider.requests) == 2
    await client.close()


# what clients say


def test_no_store(cache: Caching) -> None:
    text = new_text()
    assert said(cache.ask(text, control="no-store")) == ("bypass", "no_store")
    cache.ask_and_keep(text)
    assert said(cache.ask(text, control="private, No-Store")) == ("bypass", "no_store")
    assert len(cache.provider.requests) == 3


def test_no_cache_is_not_looked_up_and_replaces(cache: Caching) -> None:
    text = new_text()
    old = cache.ask_and_keep(text)
    new = cache.ask(text, control="no-cache")
    assert said(new) == ("miss", "no_cache")
    assert new.body != old.body
    cache.gateway.wait_for(lambda: cache.ask(text).body == new.body)


def test_max_age(cache: Caching) -> None:
    text = new_text()
    old = cache.ask_and_keep(text)
    assert cache.ask(text, control="max-age=100").body == old.body
    assert said(cache.ask(text, control="max-age=0")) == ("miss", "no_cache")


def test_only_if_cached(cache: Caching) -> None:
    text = new_text()
    refused = cache.ask(text, control="only-if-cached")
    assert (refused.status, said(refused)) == (504, ("miss", None))
    assert refused.error["code"] == "not_cached"
    assert len(cache.provider.requests) == 0
    for key, fields in (("off", {}), ("a", {"temperature": 1})):
        assert cache.ask(text, key, fields=fields, control="only-if-cached").status == 504
    cache.ask_and_keep(text)
    assert said(cache.ask(text, control="only-if-cached")) == ("hit", None)


def test_a_salt_keeps_apart(cache: Caching) -> None:
    text = new_text()
    first = cache.ask_and_keep(text, salt="one")
    assert cache.ask(text, salt="one").body == first.body
    for other in ("", "two", "one ,", "ONE"):
        assert not cache.has(text, salt=other)
    assert cache.provider.requests[0].header("x-headgate-cache-key") is None


# who shares


def test_scope_key(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, "a")
    assert not any(cache.has(text, key) for key in ("b", "c", "lone"))


def test_scope_team(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, "a", model="team")
    assert cache.has(text, "b", model="team")
    assert not any(cache.has(text, key, model="team") for key in ("c", "lone"))
    cache.ask_and_keep(text, "lone", model="team")  # a key without a team is one of its own


def test_scope_shared(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared")
    assert all(cache.has(text, key, model="shared") for key in ("b", "c", "lone"))


def test_a_key_without_cache(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared")
    assert said(cache.ask(text, "off", model="shared")) == ("bypass", "off")


def test_the_clients_own_provider_key(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared")
    own = (("x-provider-key", "fake=theirs"),)
    assert said(cache.ask(text, "own", model="shared", more=own)) == ("bypass", "own_key")
    assert cache.provider.requests[-1].header("authorization") == "Bearer theirs"
    assert said(cache.ask(text, "own", model="shared")) == ("hit", None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"n": 2}, "choices"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"web_search_options": {}, "data_sources": [{}]}, "tools"),
        ({"padding": "x" * 300_000}, "too_large"),
        ({"audio": {"voice": "x"}}, "stateful"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "images"),
    ],
)
def test_what_passes_by(cache: Caching, fields: dict[str, object], reason: str) -> None:
    answer = cache.ask(new_text(), fields=fields)
    assert said(answer) == ("bypass", reason)
    assert len(cache.provider.requests) == 1


def test_a_model_without_a_cache_pays_nothing(cache: Caching) -> None:
    def heard_of() -> float:
        return cache.gateway.metric("headgate_cache_answers_total")

    before = heard_of()
    answer = cache.ask(new_text(), model="plain")
    assert said(answer) == (None, None)
    assert cache.ask(new_text(), model="plain", control="only-if-cached, no-store").status == 200
    text = new_text()
    assert cache.ask(text, control="no-store").status == 200
    assert cache.gateway.get("/metrics")[1].count('headgate_cache_requests_total{model="plain"') == 0
    cache.ask_and_keep(text)
    assert heard_of() == before + 1
    assert said(cache.ask(text))[0] == "hit"
    time.sleep(0.2)  # the log of answers comes every 50 ms
    assert heard_of() == before + 1


# what is never kept


@pytest.mark.parametrize(
    ("fake", "stream", "outcome"),
    [
        ("status=400", False, "status"),
        ("status=500", True, "status"),
        ("finish=content_filter", False, "finish"),
        ("finish=content_filter", True, "finish"),
        ("no_done=true", True, "cut"),
        ("no_finish=true", True, "error"),  # the meter tells the client of it
        ("truncate_after=3", True, "cut"),
        ("truncate_after=3", False, "cut"),
        ("reset=body", False, "cut"),
        ("reset=body", True, "cut"),
        ("broken=true", False, "malformed"),
        ("broken=true", True, "malformed"),
        ("gzip=true", False, "encoded"),
    ],
)
def test_what_is_never_kept(cache: Caching, fake: str, stream: bool, outcome: str) -> None:
    text, fields = new_text(), {"stream": stream}
    before = cache.outcomes(outcome)
    cache.ask(text, fields=fields, fake=fake)
    cache.gateway.wait_for(lambda: cache.outcomes(outcome) == before + 1)
    assert not cache.has(text, fields=fields)
    cache.ask_and_keep(text, fields=fields)


@pytest.mark.parametrize("stream", [False, True])
def test_too_large_an_answer(cache: Caching, stream: bool) -> None:
    text, fields = new_text(), {"stream": stream}
    before = cache.outcomes("too_large", "small")
    cache.ask(text, model="small", fields=fields, fake="size=3000,chunks=50")
    cache.gateway.wait_for(lambda: cache.outcomes("too_large", "small") == before + 1)
    assert not cache.has(text, model="small", fields=fields)


@pytest.mark.parametrize("fake", ["chunks=20000", "status=400,size=5000000", "finish=content_filter,chunks=20000"])
def test_what_is_not_kept_reaches_its_client_whole(cache: Caching, fake: str) -> None:
    fields = {"stream": True}
    expected = cache.ask(new_text(), model="plain", fields=fields, fake=fake)
    for model in ("cached", "small"):
        answer = cache.ask(new_text(), model=model, fields=fields, fake=fake)
        assert answer.status == expected.status
        assert abs(len(answer.body) - len(expected.body)) < len(expected.body) / 10  # ids and names differ
        assert answer.body[-20:] == expected.body[-20:]


def test_a_client_that_leaves(cache: Caching) -> None:
    text, before = new_text(), cache.outcomes("cut")
    response = cache.stream(text, fake="chunks=500,chunk_delay_ms=20")
    response.readline()
    response.close()
    cache.gateway.wait_for(lambda: cache.outcomes("cut") == before + 1)
    assert not cache.has(text, fields={"stream": True})
    started = time.monotonic()
    assert said(cache.ask(text, fields={"stream": True})) == ("miss", None)
    assert time.monotonic() - started < 1


def test_a_client_that_leaves_before_the_answer(cache: Caching) -> None:
    text, before = new_text(), cache.outcomes("cut")
    with pytest.raises(TimeoutError):
        _impatient(cache, text)
    cache.gateway.wait_for(lambda: cache.outcomes("cut") == before + 1)
    assert said(cache.ask(text)) == ("miss", None)


def _impatient(cache: Caching, text: str) -> Answer:
    return post(cache.gateway.listen, question(text), key="sk-a", headers=(("x-fake", "delay_ms=5000"),), timeout=0.5)
