"""Kept streams that come at a pace, with the real Envoy."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.caching import KEYS, MODELS, Caching, caching, new_text, question, said
from tests.gateway import key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

RATE = 20
PACED = {"targets": [{"provider": "fake"}], "cache": {"replay": "paced", "events_per_second": RATE}}
FAST = {"targets": [{"provider": "fake"}], "cache": {"replay": "paced", "events_per_second": 1000}}
STREAM = {"stream": True}


def config(**more: Any) -> dict[str, Any]:
    return {"models": {**MODELS, "paced": PACED, "fast": FAST}, **more}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as found:
        yield found


@pytest.fixture(scope="module", params=["native", "grpcio"])
def cache(request: pytest.FixtureRequest, provider: ProviderThread) -> Iterator[Caching]:
    with caching(provider, **config(engine=request.param)) as found:
        yield found


def arrivals(cache: Caching, text: str, model: str = "paced") -> tuple[list[float], bytes]:
    """When the pieces of a stream arrive, in seconds after the first, and all of it."""
    response = cache.stream(text, model=model)
    times, body = [], b""
    while piece := response.read1(65536):
        times.append(time.monotonic())
        body += piece
    return [one - times[0] for one in times], body


def test_a_hit_comes_event_by_event(cache: Caching) -> None:
    text = new_text()
    first = cache.ask_and_keep(text, model="paced", fields=STREAM, fake="chunks=20")
    asked = len(cache.provider.requests)
    times, body = arrivals(cache, text)
    assert body == first.body
    count = body.count(b"\n\n")
    assert len(times) > count * 0.8
    assert times[-1] == pytest.approx((count - 1) / RATE, rel=0.2)
    assert len(cache.provider.requests) == asked


def test_its_head_is_a_hits(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, model="paced", fields=STREAM)
    cache.ask_and_keep(text, fields=STREAM)
    paced, at_once = (cache.ask(text, model=model, fields=STREAM) for model in ("paced", "cached"))
    assert (paced.status, said(paced)) == (200, ("hit", None))
    assert int(paced.header("age") or "-1") in range(5)
    assert paced.header("x-request-id")
    own = {"x-request-id", "date", "age", "content-length", "transfer-encoding"}
    assert {name for name, _ in paced.headers} - own == {name for name, _ in at_once.headers} - own


def test_only_streams_of_models_that_want_it(cache: Caching) -> None:
    def streams() -> int:
        return cache.gateway.envoy_stat("cluster.headgate_replay_0.upstream_rq_total")

    text = new_text()
    for model, fields in (("cached", STREAM), ("paced", {})):
        cache.ask_and_keep(text, model=model, fields=fields, fake="chunks=40")
        before, started = streams(), time.monotonic()
        assert said(cache.ask(text, model=model, fields=fields))[0] == "hit"
        assert time.monotonic() - started < 1
        assert streams() == before


def test_the_sdk(cache: Caching) -> None:
    client = OpenAI(base_url=f"{cache.gateway.url}/v1", api_key="sk-a", max_retries=0)
    body = question(new_text(), model="paced")

    def chunks() -> tuple[list[str], list[float]]:
        found, times = [], []
        for chunk in client.chat.completions.create(**body, stream=True, extra_headers={"x-fake": "chunks=20"}):
            found.append(chunk.model_dump_json())
            times.append(time.monotonic())
        return found, times

    first, _ = chunks()
    cache.gateway.wait_for(lambda: cache.send({**body, **STREAM}, control="only-if-cached").status == 200)
    second, times = chunks()
    assert second == first
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert sum(gaps) == pytest.approx(len(gaps) / RATE, rel=0.2)
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(1 / RATE, rel=0.3)


async def test_many_at_once(cache: Caching) -> None:
    body = question(new_text(), model="paced")
    first = cache.send({**body, **STREAM}, fake="chunks=20")
    cache.gateway.wait_for(lambda: cache.send({**body, **STREAM}, control="only-if-cached").status == 200)
    with ThreadPoolExecutor(32) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: cache.send({**body, **STREAM}), range(32)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, first.body)}
    assert time.monotonic() - started < 3
    client = AsyncOpenAI(base_url=f"{cache.gateway.url}/v1", api_key="sk-a", max_retries=0)
    assert len([chunk async for chunk in await client.chat.completions.create(**body, stream=True)]) >= 20
    await client.close()


def test_a_large_question_and_a_large_answer(cache: Caching) -> None:
    body = {**question("x" * 200_000, model="fast"), **STREAM}
    first = cache.send(body, fake="chunks=3000")
    assert len(first.body) > 500_000
    cache.gateway.wait_for(lambda: cache.gateway.metric("headgate_cache_answers_total", model="fast") > 0)
    started = time.monotonic()
    assert cache.send(body).body == first.body
    assert 2.5 < time.monotonic() - started < 6
    slow = cache.stream("x" * 200_000, model="fast")  # it reads nothing for a while
    time.sleep(4)
    assert slow.read() == first.body


def test_a_client_that_leaves(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, model="paced", fields=STREAM)

    def active() -> int:
        return cache.gateway.envoy_stat("cluster.headgate_replay_0.upstream_rq_active")

    cache.gateway.wait_for(lambda: active() == 0)
    responses = [cache.stream(text, model="paced") for _ in range(4)]
    for response in responses:
        response.readline()
    assert active() == 4
    for response in responses:
        response.close()
    cache.gateway.wait_for(lambda: active() == 0, 0.5)
    assert said(cache.ask(text, model="paced", fields=STREAM))[0] == "hit"


def test_who_waited_gets_it_paced(cache: Caching) -> None:
    text = new_text()
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(cache.ask, text, model="paced", fields=STREAM, fake="delay_ms=500,chunks=20")
        time.sleep(0.2)
        times, body = arrivals(cache, text)
    assert body == leader.result().body
    assert times[-1] > 0.7


@pytest.mark.parametrize("enforce", ["in_process", "envoy"])
def test_it_counts_as_a_hit(provider: ProviderThread, enforce: str) -> None:
    keys = [key_entry("a", limits={"requests": "6/year", "tokens": "10000/year"}), *KEYS[1:]]
    with caching(provider, **config(keys=keys, limits={"enforce": enforce})) as cache:
        text = new_text()
        cache.ask_and_keep(text, model="paced", fields=STREAM)
        cache.gateway.wait_for(lambda: cache.gateway.metric("headgate_tokens_total", type="total") > 0)
        tokens = cache.gateway.metric("headgate_tokens_total", type="total")
        answers = [cache.ask(text, model="paced", fields=STREAM) for _ in range(7)]
        statuses = [answer.status for answer in answers]
        assert statuses == sorted(statuses)
        assert {200, 429} == set(statuses)
        assert answers[-1].error["code"] == "rate_limit_exceeded"
        cache.gateway.wait_for(lambda: cache.gateway.metric("headgate_requests_total", status="429") > 0)
        assert cache.gateway.metric("headgate_tokens_total", type="total") == tokens


def test_each_worker_replays_its_own(provider: ProviderThread, redis_server: RedisServer) -> None:
    url = f"{redis_server.url}?db=10"
    with caching(provider, **config(store=url, cache={"store": url}, workers=2)) as cache:
        text = new_text()
        first = cache.ask_and_keep(text, model="paced", fields=STREAM)
        before = [cache.gateway.envoy_stat(f"cluster.headgate_replay_{worker}.upstream_rq_total") for worker in (0, 1)]
        for _ in range(6):
            answer = cache.ask(text, model="paced", fields=STREAM)
            assert (said(answer), answer.body) == (("hit", None), first.body)
        after = [cache.gateway.envoy_stat(f"cluster.headgate_replay_{worker}.upstream_rq_total") for worker in (0, 1)]
        assert sum(after) - sum(before) == 6
        assert min(now - then for now, then in zip(after, before, strict=True)) > 0


def test_it_is_fixed_while_running(provider: ProviderThread) -> None:
    """Connections that were there before the filter would end at a route that nobody answers."""
    with caching(provider, models={**MODELS, "paced": {**PACED, "cache": {}}}) as cache:
        text = new_text()
        first = cache.ask_and_keep(text, model="paced", fields=STREAM)
        cache.gateway.write_config({**cache.gateway.config, **config()})
        cache.gateway.wait_for(lambda: "models.*.cache.replay" in cache.gateway.log())
        cache.gateway.wait_for(lambda: "is in force" in cache.gateway.log())
        started = time.monotonic()
        assert cache.ask(text, model="paced", fields=STREAM).body == first.body
        assert time.monotonic() - started < 0.3


def test_it_may_be_turned_off_and_on_again(provider: ProviderThread) -> None:
    with caching(provider, **config()) as cache:
        text = new_text()
        first = cache.ask_and_keep(text, model="paced", fields=STREAM)

        def seconds() -> float:
            started = time.monotonic()
            assert cache.ask(text, model="paced", fields=STREAM).body == first.body
            return time.monotonic() - started

        assert seconds() > 0.4
        cache.gateway.write_config({**cache.gateway.config, "models": {**MODELS, "paced": {**PACED, "cache": {}}}})
        cache.gateway.wait_for(lambda: seconds() < 0.2)
        cache.gateway.write_config({**cache.gateway.config, **config()})
        cache.gateway.wait_for(lambda: seconds() > 0.4)


def test_a_stop_waits_for_its_end(provider: ProviderThread) -> None:
    with caching(provider, **config()) as cache, ThreadPoolExecutor(1) as pool:
        text = new_text()
        first = cache.ask_and_keep(text, model="paced", fields=STREAM, fake="chunks=40")
        response = cache.stream(text, model="paced")
        head = response.readline()
        stopping = pool.submit(cache.gateway.stop)
        assert head + response.read() == first.body
        assert stopping.result() == 0


def test_a_reload_leaves_it_alone(provider: ProviderThread) -> None:
    with caching(provider, **config()) as cache:
        text = new_text()
        first = cache.ask_and_keep(text, model="paced", fields=STREAM, fake="chunks=60")
        response = cache.stream(text, model="paced")
        head = response.readline()
        cache.gateway.write_config({**cache.gateway.config, "models": {"plain": MODELS["plain"]}})
        cache.gateway.wait_for(lambda: "is in force" in cache.gateway.log())
        assert cache.ask(text, model="paced", fields=STREAM).status == 404
        assert head + response.read() == first.body


def test_the_sidecar_dies_while_it_replays(provider: ProviderThread) -> None:
    with caching(provider, **config()) as cache:
        text = new_text()
        first = cache.ask_and_keep(text, model="paced", fields=STREAM)
        response = cache.stream(text, model="paced")
        head = response.readline()
        cache.gateway.child("sidecar").kill()
        with pytest.raises((OSError, http.client.HTTPException)):  # cut: nobody takes it for whole
            assert head + response.read() != first.body
        cache.gateway.wait_for(lambda: _answers(cache, text))


def _answers(cache: Caching, text: str) -> bool:
    try:
        answer = post(cache.gateway.listen, question(text, model="plain"), key="sk-a", timeout=2)
    except OSError:
        return False
    return answer.status == 200 and bool(json.loads(answer.body))
